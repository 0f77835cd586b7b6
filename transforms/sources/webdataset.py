"""WebDataset tars: one image per sample, other members passed through."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms import counters
from transforms.elements import Encoded, Failure
from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records import examples, tar, tar_headers
from transforms.records.tfrecord import Damage
from transforms.sources import base, column_kinds, summed
from transforms.sources.base import BadInput, Cut, Cutting, Item, KeyAt, Kind, Reading, ReadSettings
from transforms.sources.names import short_names
from transforms.sources.tar_samples import KEY_ALONE, Sample, Samples
from transforms.storage import compression, door

_SUFFIXES = (".tar", *(f".tar{packed}" for packed in compression.SUFFIXES), ".tgz", ".tbz2", ".txz", ".tzst")
_FILES_SAMPLED = 16  # whose first samples are looked at before the job starts
_SAMPLES = 8  # of each
_SAMPLE_BYTES = 8 << 20  # 8 MiB
_NAMED = 3  # images in a message


@dataclass(frozen=True)
class TarFile:
    """A tar of samples. Positions count samples and damaged stretches."""

    uri: str
    size_bytes: int
    modified: float  # seconds since the epoch, as the file system gives it; 0 where it gives none
    crc32c: str = ""  # of its bytes, eight hexadecimal digits; '' until they have been read
    unused_images: int = 0  # of all samples, those that are not due included; 0 until they have been read

    inputs = None
    cut_by = ""

    @property
    def units(self) -> int:
        return self.size_bytes

    def items(self, reading: Reading) -> Generator[Item, None, TarFile]:
        """The images of the samples that are due; damage and samples without an image as failures."""
        digests: set[bytes] = set()  # of keys: few bytes, whatever their length
        unused = 0
        with summed.opened(self.uri, self.size_bytes) as (stream, stored):
            seen = 0
            in_file = not door.is_compressed(stream)
            for position, entry in enumerate(Samples(reading.settings, reading.due).read(stream)):
                if in_file:
                    counters.PROCESS.add(units=entry.offset - seen)
                    seen = entry.offset
                if position == reading.limit:
                    return self
                key = _default_key(reading.name, entry, position, digests)
                unused += len(entry.unused) if isinstance(entry, Sample) else 0
                if position in reading.due:
                    yield self._item(entry, position, key, reading.settings)
            counters.PROCESS.add(units=self.size_bytes - seen)
            return replace(self, crc32c=stored.finish(), unused_images=unused)

    def _item(self, entry: Sample | Damage, position: int, key: bytes, settings: ReadSettings) -> Item:
        where = f"at offset {entry.offset} of {public_uri(self.uri)}"
        if isinstance(entry, Damage):
            message = f"{entry.reason}: {entry.length} bytes {where}"
            return Failure(key, position, "read", "damaged_record", message)
        try:
            if settings.key_feature:
                key = entry.key_of(settings.key_feature)
            image = entry.content(entry.image or settings.image_feature)
            passed = {name: entry.content(name) for name in settings.pass_through if name in entry.members}
        except ItemError as error:
            return Failure(key, position, "read", error.code, f"{error} (sample {entry.key} {where})")
        return Encoded(key, position, image, *examples.typed(passed, settings.kinds_by_name))

    def identity(self) -> dict[str, Any]:
        known = {"size_bytes": self.size_bytes, "modified": self.modified, "crc32c": self.crc32c}
        return {"kind": "webdataset", **known}

    def change(self, before: Mapping[str, Any]) -> str:
        return summed.change(before, self.identity(), partial(summed.crc32c, self.uri, self.size_bytes))


def _default_key(name: str, entry: Sample | Damage, position: int, digests: set[bytes]) -> bytes:
    """`file#key`; with the position behind it where the file has had this key before. Damage has only its place."""
    if isinstance(entry, Damage):
        return _encoded(f"{name}[{entry.offset}]#{position}")
    key = _encoded(f"{name}#{entry.key}")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    if digest in digests:
        return key + b"#%d" % position
    digests.add(digest)
    return key


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    """Only the tar itself knows the keys."""
    return (lambda position: None) if identity.get("kind") == "webdataset" else None


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    several = _look_into([file.path for file in files], cutting.read)
    sources = [TarFile(file.path, file.size_in_bytes, file.last_updated_in_seconds) for file in files]
    kinds = column_kinds.settled(cutting.read, {})  # members are bytes
    names = short_names([file.path for file in files], cutting.among)
    return Cut(sources, names, several, kinds=kinds)


def _again(file: FileMetadata, identity: Mapping[str, Any], settings: ReadSettings) -> TarFile:
    return TarFile(file.path, file.size_in_bytes, file.last_updated_in_seconds)


def _look_into(paths: Sequence[str], settings: ReadSettings) -> tuple[str, ...]:
    """Refuses files that are no tars, and names of members that the first samples do not have.

    Returns a note if one of these samples holds several images."""
    present: set[str] = set()
    total, has_image = 0, False
    several = ""
    for path in paths:
        with base.as_bad_input(path):
            door.check_compression_by_name(path)
    for path in paths[:_FILES_SAMPLED]:
        with base.as_bad_input(path), door.open_input(path) as stream:
            door.check_compression(path)
            head = door.head(stream, _SAMPLE_BYTES)
        entries = list(itertools.islice(Samples(settings, ()).read(io.BytesIO(head)), _SAMPLES))
        if entries and all(isinstance(one, Damage) and one.reason == tar.NO_HEADER for one in entries):
            raise BadInput(f"{path} is not a tar archive: no header of a member in its first bytes")
        samples = [entry for entry in entries if isinstance(entry, Sample)]
        present.update(*(sample.members for sample in samples))
        has_image = has_image or any(sample.image for sample in samples)
        total += len(samples[:-1])  # the last one may be cut
        several = several or next((_several(path, sample) for sample in samples if sample.unused), "")
    asked = [settings.image_feature, settings.key_feature, *settings.pass_through]
    missing = [repr(name) for name in asked if name and name != KEY_ALONE and name not in present]
    if not settings.image_feature and not has_image:
        missing.insert(0, "with the suffix of an image")
    if total and missing:
        raise BadInput(
            f"no member {', '.join(missing)} in {paths[0]}; there are {', '.join(sorted(present))}: "
            "name them with --image_feature, --key_feature and --pass_through"
        )
    return (several,) if several else ()


def _several(path: str, sample: Sample) -> str:
    more = ", ..." if len(sample.unused) > _NAMED else ""
    others = ", ".join(sample.unused[:_NAMED]) + more
    return (
        f"{public_uri(path)}: sample {sample.key!r} holds several images, of which {sample.image} is used, as it comes first, "
        f"and {others} not: --image_feature names the one to take; a key ends at the first dot of a file's name, so files "
        "that are samples of their own need names without further dots"
    )


KIND = Kind(
    "webdataset",
    is_named=lambda name: name.endswith(_SUFFIXES),
    sniff=tar_headers.is_archive,
    cut=_cut,
    keys=_keys,
    again=_again,
    from_folders=True,
)
