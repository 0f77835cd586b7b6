"""TFRecord files of tf.Example, complete or in byte ranges."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms import counters
from transforms.elements import Failure, Fields, Record
from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records import examples, images, tfrecord
from transforms.sources import base, column_kinds, splits, summed
from transforms.sources.base import BadInput, Cut, Cutting, Item, KeyAt, Kind, Reading, ReadSettings
from transforms.sources.names import short_names
from transforms.storage import door

IMAGE_FEATURE = "image/encoded"  # the default of --image_feature
_FILES_SAMPLED = 16  # files whose first records are checked before the job starts
_SAMPLE_BYTES = 1 << 20  # 1 MiB
_COUNTED_BYTES = 1 << 20  # at once


@dataclass(frozen=True)
class RecordFile:
    """A TFRecord file, or a byte range of one: the records that start in [start, end).

    `first` is the position in the file of the range's first record or damage, which then begins exactly at `start`.
    None if records were not counted: `start` may lie inside a record, which belongs to the previous range.
    """

    uri: str
    size_bytes: int
    modified: float  # seconds since the epoch, from the file system; 0 if it reports none
    start: int = 0
    end: int | None = None
    first: int | None = 0
    crc32c: str = ""  # of the bytes in [start, end), eight hexadecimal digits; '' until they have been read

    inputs = None
    cut_by = "--split_bytes"
    unused_images = 0

    @property
    def units(self) -> int:
        """Bytes of the range, as stored."""
        return (self.end or self.size_bytes) - self.start

    def items(self, reading: Reading) -> Generator[Item, None, RecordFile]:
        """The records at the positions that are due, with damage as failures.

        Returns the source with the checksum of its bytes. Raises StorageFailed."""
        settings = reading.settings
        image = settings.image_feature or IMAGE_FEATURE
        fields = Fields(image, settings.key_feature, settings.pass_through, settings.kinds)
        uri = public_uri(self.uri)
        with summed.opened(self.uri, self.size_bytes, self.start, self.end) as (stream, stored):
            offset = self.start
            in_file = not door.is_compressed(stream)
            blocks: Any = stored if in_file else stream  # past the buffer, which would copy each block
            blocks.seek(self.start)
            records = tfrecord.read(blocks, self.start, self.end, self.first is not None, check=False)
            stem, first = _default_key_parts(reading.name, self.start, self.first)
            for position, record in enumerate(records):
                if in_file and (record.offset - offset > _COUNTED_BYTES or position == reading.limit):
                    counters.PROCESS.add(units=record.offset - offset)
                    offset = record.offset
                if position == reading.limit:
                    return self
                if position not in reading.due:
                    continue
                key = b"%s#%d" % (stem, first + position)
                if isinstance(record, tfrecord.Damage):
                    where = images.damaged(record.reason, record.length, record.offset, uri)
                    yield Failure(key, position, "read", "damaged_record", where)
                else:
                    yield Record(key, position, record.data, record.crc, fields, uri, record.offset)
            counters.PROCESS.add(units=(self.end or self.size_bytes) - offset)
            return replace(self, crc32c=stored.finish())

    def identity(self) -> dict[str, Any]:
        """Size, time and checksum; for a range also its place in the file."""
        content = {"size_bytes": self.size_bytes, "modified": self.modified, "crc32c": self.crc32c}
        place = {"start": self.start, "end": self.end, "first": self.first}
        return content | (place if self.end is not None else {})

    def change(self, before: Mapping[str, Any]) -> str:
        """Compares size and time, and the checksum if only the time differs: see `summed.change`."""
        read_again = partial(summed.crc32c, self.uri, self.size_bytes, self.start, self.end)
        return summed.change(before, self.identity(), read_again)


def _default_key_parts(name: str, start: int, first: int | None) -> tuple[bytes, int]:
    """Stem and number of the first record's key: `name#NUMBER` with the position in the file; `name[start]#NUMBER` within a
    range whose records were not counted."""
    stem = f"{name}[{start}]" if first is None else name
    return stem.encode("utf-8", "surrogateescape"), first or 0


def _default_key(name: str, start: int, first: int | None, position: int) -> bytes:
    stem, number = _default_key_parts(name, start, first)
    return b"%s#%d" % (stem, number + position)


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    if "rows" in identity or "kind" in identity:
        return None
    return partial(_default_key, name, identity.get("start", 0), identity.get("first", 0))


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    kinds = _look_into(files, cutting.read)
    record_files = [RecordFile(file.path, file.size_in_bytes, file.last_updated_in_seconds) for file in files]
    if cutting.split_bytes:
        pieces, notes = splits.cut(record_files, cutting.split_bytes, counted=not cutting.read.key_feature)
    else:
        pieces, notes = [[file] for file in record_files], ()
    of_files = zip(short_names([file.path for file in files], cutting.among), pieces, strict=True)
    names = [name for name, sources in of_files for _ in sources]
    return Cut([source for sources in pieces for source in sources], names, notes, kinds=kinds)


def _again(file: FileMetadata, identity: Mapping[str, Any], settings: ReadSettings) -> RecordFile:
    place = {name: identity[name] for name in ("start", "end", "first") if name in identity}
    return RecordFile(file.path, file.size_in_bytes, file.last_updated_in_seconds, **place)


def _look_into(files: Sequence[FileMetadata], settings: ReadSettings) -> tuple[tuple[str, str], ...]:
    """The types of the features to pass through, as the first records have them.

    Refuses files that are not TFRecords, and feature names that the first records do not have."""
    image_feature = settings.image_feature or IMAGE_FEATURE
    names = [image_feature, *filter(None, [settings.key_feature]), *settings.pass_through]
    present: dict[str, set[str | None]] = {}  # the types of each feature
    total = 0
    for file in files:
        with base.as_bad_input(file.path):
            door.check_compression_by_name(file.path)
    for file in files[:_FILES_SAMPLED]:
        with base.as_bad_input(file.path):
            records = _sample(file.path)
        if records and not _any_record(records):
            raise BadInput(
                f"{file.path} is not a TFRecord file: no record header in its first bytes; "
                "for a list of URIs or image files set --input_format"
            )
        parsed, refusal = 0, ""
        for record in records:
            try:
                if isinstance(record, tfrecord.Record):
                    for name, kind in examples.kinds(examples.parse(bytes(record.data))).items():
                        present.setdefault(name, set()).add(kind)
                    parsed += 1
            except ItemError as error:
                refusal = str(error)
        if refusal and not parsed:
            raise BadInput(f"{file.path}: {refusal}; the job reads TFRecords of tf.Example")
        total += parsed
    missing = [name for name in names if name not in present]
    if total and missing:
        raise BadInput(
            f"no feature {', '.join(map(repr, missing))} in {files[0].path}; there are {', '.join(sorted(present))}: "
            "set --image_feature, --key_feature and --pass_through"
        )
    return column_kinds.settled(settings, present)


def _sample(path: str) -> list[tfrecord.Record | tfrecord.Damage]:
    """The records and damage in the first MiB of a file, at most 1000."""
    door.check_compression(path)
    with door.open_input(path) as stream:
        return list(itertools.islice(tfrecord.read(stream, 0, _SAMPLE_BYTES, aligned=True), 1000))


def _any_record(records: Sequence[tfrecord.Record | tfrecord.Damage]) -> bool:
    return any(isinstance(item, tfrecord.Record) or item.reason != tfrecord.NO_HEADER for item in records)


def _sniff(head: bytes) -> bool:
    return not head or _any_record(list(tfrecord.read(BytesIO(head), aligned=True)))


KIND = Kind(
    "tfrecord",
    is_named=lambda name: ".tfrecord" in name,
    sniff=_sniff,
    cut=_cut,
    keys=_keys,
    again=_again,
    from_folders=True,
)
