"""Lists of image URIs (text, CSV, JSON lines, Parquet): a source is a range of rows, whose images are fetched ahead."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms import counters
from transforms.elements import Encoded, Failure
from transforms.errors import ItemError
from transforms.fetching.ahead import in_order
from transforms.fetching.uris import public_uri
from transforms.records import examples, values
from transforms.sources import column_kinds, listing, parquet_rows, relative, shard_size, text_rows
from transforms.sources.base import (
    WHOLE,
    Bounds,
    Cut,
    Cutting,
    Item,
    KeyAt,
    Kind,
    Reading,
    ReadSettings,
    as_bad_input,
)
from transforms.sources.rows import Columns, Row, Slice
from transforms.storage import compression, door
from transforms.storage.errors import StorageFailed


@dataclass(frozen=True)
class UriSlice:
    """Consecutive rows of a list of image URIs.

    `start` and `end` are byte offsets of complete rows; for Parquet they are row numbers. `folder` is what relative names
    are relative to; "" for the worker's own working directory. `base` is the same for receipts: "." for the list's own
    folder, "" if it has no relative names.
    """

    uri: str
    format: str  # 'txt' | 'csv' | 'jsonl' | 'parquet' | listing.FORMAT
    start: int
    end: int
    rows: int
    sha256: str  # of the slice's rows, so that a changed list is noticed on resume
    folder: str = ""
    base: str = ""

    cut_by = "--images_per_shard"
    unused_images = 0

    @property
    def units(self) -> int:
        """Rows."""
        return self.rows

    @property
    def inputs(self) -> int:
        """Rows: each is an input, also one without a URI."""
        return self.rows

    def items(self, reading: Reading) -> Generator[Item, None, UriSlice]:
        """The images of the rows that are due, fetched ahead within a bounded window, in the list's order.

        Raises StorageFailed if the list has changed."""
        settings, pool = reading.settings, reading.pool
        assert pool is not None, "a list of URIs needs threads to fetch on"
        ahead = 2 * max(settings.batch_size, settings.fetch.concurrency)
        rows = enumerate(itertools.islice(self.read(columns_of(settings)), reading.limit))
        due = (numbered for numbered in rows if numbered[0] in reading.due)
        fetched = in_order(pool, lambda numbered: self._fetch(*numbered, reading), due, ahead)
        with contextlib.closing(fetched):
            for item in fetched:
                counters.PROCESS.add(units=1)
                yield item
        return self

    def read(self, columns: Columns) -> Iterator[Row]:
        """The rows, in order, each with its error if it has one. Raises StorageFailed if the list has changed."""
        for row in _rows(self.uri, self.format, columns, self.start, self.end):
            if isinstance(row, Row):
                yield row
            elif row != self.sha256:
                where = f"reading {self.uri}[{self.start}:{self.end}] failed"
                raise StorageFailed(
                    f"{where}: the list has changed since the job was planned; run the same command again",
                    self.uri,
                    None,
                    is_transient=True,
                )

    def _fetch(self, position: int, row: Row, reading: Reading) -> Item:
        settings = reading.settings
        key = f"{posixpath.basename(self.uri)}[{self.start}]#{position}".encode("utf-8", "surrogateescape")
        address = ""
        try:
            if row.error:
                raise row.error
            if settings.key_feature not in ("", settings.uri_column):
                address = _public(row.uri)
            key = listing.key(row.uri) if self.format == listing.FORMAT else _key(row, settings)
            if key.decode("utf-8", "surrogateescape") == address:
                address = ""  # the key says it
            address = address.encode("utf-8", "backslashreplace").decode()
            columns = {name: row.columns[name] for name in settings.pass_through if name in row.columns}
            passed, unfit = examples.typed(columns, settings.kinds_by_name)
        except ItemError as error:
            return Failure(key, position, "read", error.code, str(error)).of_image(address)
        except (ValueError, OverflowError) as error:  # invalid Unicode, or an integer beyond 64 bits
            message = f"a value cannot be stored: {error}"
            return Failure(key, position, "read", "bad_row", message).of_image(address)
        assert reading.fetch is not None, "a list of URIs needs a way to fetch them"
        began = time.monotonic()
        try:
            data = reading.fetch(self._address(row.uri))
        except ItemError as error:
            failure = Failure(key, position, "fetch", error.code, str(error), error.http_status)
            return failure.of_image(address)
        finally:
            counters.PROCESS.add(fetch_seconds=time.monotonic() - began)
        return Encoded(key, position, data, passed, unfit, address)

    def _address(self, uri: str) -> str:
        return listing.address(uri) if self.format == listing.FORMAT else relative.address(self.folder, uri)

    def identity(self) -> dict[str, Any]:
        """The place in the list and the checksum of the rows; not what the URIs lead to."""
        identity = {"start": self.start, "end": self.end, "rows": self.rows, "sha256": self.sha256}
        return identity | ({"folder": self.base} if self.base else {})

    def change(self, before: Mapping[str, Any]) -> str:
        """Reads nothing: planning has read the list already. Receipts of earlier versions name no folder."""
        now = {"folder": None, **self.identity()}
        return next((name for name, value in now.items() if before.get(name, value) != value), "")


def _rows(path: str, kind: str, columns: Columns, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then the SHA-256 of what was read."""
    if kind == listing.FORMAT:
        return listing.read(path, start, end)
    if kind == "parquet":
        return parquet_rows.read(path, columns, start, end)
    return text_rows.read(path, kind, columns, start, end)


def columns_of(settings: ReadSettings) -> Columns:
    """The columns that these settings need."""
    key = settings.key_feature
    extra = (key,) if key and key not in settings.pass_through else ()
    return Columns(settings.uri_column, settings.pass_through + extra)


def _key(row: Row, settings: ReadSettings) -> bytes:
    """The key of a row: its URI or the value of its key column, without the signature of a signed URL."""
    value: object = row.uri
    if settings.key_feature:
        value = row.columns.get(
            settings.key_feature, row.uri if settings.key_feature == settings.uri_column else None
        )
        if value is None or value == "":
            raise ItemError(
                "missing_feature", f"the row has nothing in its key column {settings.key_feature!r}"
            )
    return key_of_uri(str(value))


def key_of_uri(text: str) -> bytes:
    """A URI as a key, without credentials and signatures; a data: URL as the checksum of its bytes."""
    return _public(text).encode("utf-8", "surrogateescape")


def _public(text: str) -> str:
    is_url = "://" in text or text.lstrip()[:5].lower() == "data:"
    return public_uri(text) if is_url else text


def slices(
    path: str, kind: str, settings: ReadSettings, rows_per_slice: int, bounds: Bounds = WHOLE
) -> Iterator[UriSlice]:
    """Cuts a list, or its rows within bounds, into slices of `rows_per_slice` rows, always in the same way. Raises BadInput."""
    columns = columns_of(settings)
    cut = (
        parquet_rows.cut(path, columns, rows_per_slice, bounds)
        if kind == "parquet"
        else text_rows.cut(path, kind, columns, rows_per_slice, bounds)
    )
    return (UriSlice(path, kind, *slice_bounds) for slice_bounds in cut)


def agreeing(path: str, kind: str, settings: ReadSettings, earlier: Sequence[Slice]) -> Iterator[int]:
    """The ends of the slices whose rows are what they were for an earlier job, in order, up to the first that has changed."""
    columns = columns_of(settings)
    if kind == "parquet":
        return parquet_rows.agreeing(path, columns, earlier)
    return text_rows.agreeing(path, kind, columns, earlier)


def shard_name(source: UriSlice) -> str:
    """'list.csv[0:4096]': the list's file name and the slice's bounds."""
    return f"{posixpath.basename(source.uri)}[{source.start}:{source.end}]"


def list_name(name: str) -> str:
    """The list's file name in the name of a shard."""
    return name.rpartition("[")[0]


def _cut(kind: str, files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    paths = [file.path for file in files]
    rows = cutting.images_per_shard or shard_size.rows_per_shard(
        _count(kind, paths, cutting), cutting.read.batch_size
    )
    sources: list[UriSlice] = []
    problems: list[str] = []
    for path in paths:
        bounds = cutting.bounds.get(path, WHOLE)
        of_file = list(slices(path, kind, cutting.read, rows, bounds))
        if of_file:
            base = _base(of_file, bounds != WHOLE, cutting.read)
            sources += [replace(source, folder=base.folder, base=base.kept) for source in of_file]
            problems += [base.problem] if base.problem else []
    names = [shard_name(source) for source in sources]
    kinds = _kinds(kind, paths, cutting.read)
    return Cut(sources, names, images_per_shard=rows, kinds=kinds, problem=next(iter(problems), ""))


def _count(kind: str, paths: Sequence[str], cutting: Cutting) -> int:
    """How many rows the lists have; of many rows, so many that more make no difference."""
    rows = 0
    for path in paths:
        most, bounds = shard_size.COUNTED - rows, cutting.bounds.get(path, WHOLE)
        if most:
            rows += (
                parquet_rows.count(path, most, bounds)
                if kind == "parquet"
                else text_rows.count(path, kind, columns_of(cutting.read), most, bounds)
            )
    return rows


def _base(of_file: Sequence[UriSlice], is_part: bool, settings: ReadSettings) -> relative.Base:
    """What the list's first names decide; where none of these exists any more, the first ones of the slices, which may be new."""
    first, last = of_file[0], of_file[-1]
    whole = next(slices(first.uri, first.format, settings, 1), first) if is_part else first
    base = _base_of_rows(whole, last.end, settings)
    return _base_of_rows(first, last.end, settings) if base.problem and whole.start != first.start else base


def _base_of_rows(first: UriSlice, end: int, settings: ReadSettings) -> relative.Base:
    rows = _rows(first.uri, first.format, Columns(settings.uri_column), first.start, end)
    head = (row for row in itertools.islice(rows, relative.ROWS_READ) if isinstance(row, Row))
    with as_bad_input(first.uri):
        return relative.find(first.uri, head, settings.fetch.uri_schemes)


def _kinds(kind: str, paths: Sequence[str], settings: ReadSettings) -> tuple[tuple[str, str], ...]:
    """The types of the columns: those of Parquet's schemas, those of the first rows of JSON lines; text in others."""
    seen: dict[str, list[str | None]] = {name: [] for name in settings.pass_through}
    for path in paths if seen else ():
        if kind == "parquet":
            types = parquet_rows.types(path)
            for name in seen:
                seen[name].append(column_kinds.of_arrow(types[name]))
        elif len(seen) > len(settings.kinds):
            for row in text_rows.sample(path, kind):
                for name in seen:
                    seen[name].append(values.kind_of(row.get(name)))
    return column_kinds.settled(settings, seen)


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    """None at each position: only the list itself holds the keys."""
    return (lambda position: None) if is_list(identity) else None


def _again(kind: str, file: FileMetadata, identity: Mapping[str, Any], settings: ReadSettings) -> UriSlice:
    base = identity.get("folder", "")
    source = UriSlice(file.path, kind, *slice_of(identity), relative.own_folder(file.path), base)
    if base in ("", "."):
        return source
    is_there = not door.is_local(base) or os.path.isdir(door.local(base))
    return replace(source, folder=base if is_there else _base_of_rows(source, source.end, settings).folder)


def is_list(identity: Mapping[str, Any]) -> bool:
    """Whether a receipt is of rows of a list, be it a user's or the job's own list of image files."""
    return "rows" in identity and "kind" not in identity


def slice_of(identity: Mapping[str, Any]) -> Slice:
    """The slice that a receipt is of."""
    return identity["start"], identity["end"], identity["rows"], identity["sha256"]


def _named(suffixes: tuple[str, ...]) -> Callable[[str], bool]:
    endings = tuple(suffix + packed for suffix in suffixes for packed in ("", *compression.SUFFIXES))
    return lambda name: name.endswith(endings)


KINDS = tuple(
    Kind(
        name,
        _named(suffixes),
        sniff=lambda head: False,
        cut=partial(_cut, name),
        keys=_keys,
        again=partial(_again, name),
    )
    for name, suffixes in (
        ("txt", (".txt",)),
        ("csv", (".csv", ".tsv")),
        ("jsonl", (".jsonl", ".ndjson")),
        ("parquet", (".parquet",)),
    )
)
