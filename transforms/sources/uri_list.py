"""Lists of image URIs (text, CSV, JSON lines, Parquet): cut into slices of rows, and the rows of a slice.

A slice of a text format is a byte range of whole rows, so that a worker can go straight to it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from transforms.elements import UriSlice
from transforms.errors import ItemError
from transforms.storage import door
from transforms.storage.errors import StorageFailed

_MAX_ROW_BYTES = 16 << 20  # 16 MiB; a quote that is never closed must not swallow the file
_LINES_SAMPLED = 100
FORMATS = ("txt", "csv", "jsonl", "parquet")


csv.field_size_limit(_MAX_ROW_BYTES)


class BadList(ValueError):
    """A list of URIs that cannot be read as asked; the message says what, where and what to do."""


@dataclass(frozen=True)
class Row:
    """One row: its URI, or why it has none; and the columns to pass through."""

    uri: str
    columns: dict[str, object]
    error: ItemError | None = None


@dataclass(frozen=True)
class Columns:
    """Which column holds the URI and which are copied into the feature record."""

    uri: str
    passed: tuple[str, ...] = ()


def format_of(path: str) -> str | None:
    """The list format that a file name says, or None."""
    name = path.lower()
    for suffix in (".gz", ".bz2", ".zst"):
        name = name.removesuffix(suffix)
    for suffix, kind in (
        (".txt", "txt"),
        (".csv", "csv"),
        (".jsonl", "jsonl"),
        (".ndjson", "jsonl"),
        (".parquet", "parquet"),
    ):
        if name.endswith(suffix):
            return kind
    return None


def cut(path: str, kind: str, columns: Columns, rows_per_slice: int) -> Iterator[UriSlice]:
    """Cuts the list at `path` into slices of `rows_per_slice` rows; the same list is always cut the same way."""
    if kind == "parquet":
        yield from _cut_parquet(path, columns, rows_per_slice)
        return
    with door.open_input(path) as stream:
        _check_columns(path, kind, columns, _header(stream, kind))
        if kind == "jsonl":
            _check_keys(path, columns, itertools.islice(stream, _LINES_SAMPLED))
            stream.seek(0)
        yield from _cut_text(path, kind, stream, rows_per_slice)


def cut_lines(path: str, content: bytes, rows_per_slice: int) -> Iterator[UriSlice]:
    """The slices of a text list that will stand at `path` with this content."""
    return _cut_text(path, "txt", io.BytesIO(content), rows_per_slice)


def _cut_text(path: str, kind: str, stream: BinaryIO, rows_per_slice: int) -> Iterator[UriSlice]:
    start = end = stream.tell()
    count, digest = 0, hashlib.sha256()
    for raw in _raw_rows(stream, kind):
        end += len(raw)
        digest.update(raw)
        count += bool(raw.strip())
        if count == rows_per_slice:
            yield UriSlice(path, kind, start, end, count, digest.hexdigest())
            start, count, digest = end, 0, hashlib.sha256()
    if count:
        yield UriSlice(path, kind, start, end, count, digest.hexdigest())


def rows(source: UriSlice, columns: Columns) -> Iterator[Row]:
    """The rows of a slice, in order; a row that cannot be used comes with its error."""
    if source.format == "parquet":
        held = hashlib.sha256()
        for values in _parquet_rows(source.uri, columns, source.start, source.end):
            held.update(_parquet_row_bytes(values))
            yield _row(values, columns)
        _check_unchanged(source, held.hexdigest())
        return
    with door.open_input(source.uri) as stream:
        names = _header(stream, source.format)
    digest = hashlib.sha256()
    with door.open_input(source.uri, source.start) as stream:
        for raw in _raw_rows(stream, source.format, source.end - source.start):
            digest.update(raw)
            if raw.strip():
                yield _parse(raw, source.format, names, columns)
    _check_unchanged(source, digest.hexdigest())


def _check_unchanged(source: UriSlice, found: str) -> None:
    """Raises StorageFailed if the rows that were read are not those that were planned."""
    if source.sha256 != found:
        where = f"reading {source.uri}[{source.start}:{source.end}] failed"
        raise StorageFailed(
            f"{where}: the list has changed since the job was planned; run the same command again",
            source.uri,
            None,
        )


def _header(stream, kind: str) -> list[str]:
    """Column names of a CSV; the stream stands after them."""
    if kind != "csv":
        return []
    raw = next(_raw_rows(stream, kind), b"")
    stream.seek(len(raw))
    return next(csv.reader([_text(raw).removeprefix("\ufeff")]), [])


def _raw_rows(stream, kind: str, limit: int | None = None) -> Iterator[bytes]:
    """Whole rows as bytes: lines, except that a quoted CSV field may hold line breaks."""
    read, quoted = 0, False
    held: list[bytes] = []
    while (limit is None or read < limit) and (line := stream.readline()):
        read += len(line)
        held.append(line)
        quoted = kind == "csv" and (quoted or b'"' in line) and _ends_quoted(line, quoted)
        if not quoted or sum(map(len, held)) > _MAX_ROW_BYTES:
            yield b"".join(held)
            held, quoted = [], False
    if held:
        yield b"".join(held)


def _ends_quoted(line: bytes, quoted: bool) -> bool:
    """Whether a CSV line ends inside a quoted field; as csv has it, a quote opens one only where a field starts."""
    at = 0
    while True:
        if quoted:
            at = line.find(b'"', at)
            if at < 0:
                return True
            doubled = line[at + 1 : at + 2] == b'"'
            at, quoted = (at + 2, True) if doubled else (at + 1, False)
        elif line[at : at + 1] == b'"' and (at == 0 or line[at - 1 : at] == b","):
            at, quoted = at + 1, True
        else:
            comma = line.find(b",", at)
            if comma < 0:
                return False
            at = comma + 1


def _parse(raw: bytes, kind: str, names: list[str], columns: Columns) -> Row:
    text = _text(raw).rstrip("\r\n")
    if kind == "txt":
        return _row({columns.uri: text.strip()}, columns)
    if kind == "jsonl":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            return Row("", {}, ItemError("bad_row", f"the line is not JSON ({error})"))
        if not isinstance(values, dict):
            return Row("", {}, ItemError("bad_row", "the line is not a JSON object"))
        return _row(values, columns)
    try:
        fields, *more = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return Row("", {}, ItemError("bad_row", f"the row is not CSV ({error})"))
    if more:
        return Row("", {}, ItemError("bad_row", "the row holds a line break outside quotes"))
    if len(fields) != len(names):
        return Row("", {}, ItemError("bad_row", f"the row has {len(fields)} fields, the header {len(names)}"))
    return _row(dict(zip(names, fields, strict=True)), columns)


def _row(values: dict[str, object], columns: Columns) -> Row:
    uri = values.get(columns.uri)
    if not isinstance(uri, str) or not uri:
        return Row("", {}, ItemError("bad_row", f"no URI in column {columns.uri!r}"))
    return Row(uri, {name: values[name] for name in columns.passed if name in values})


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _check_columns(path: str, kind: str, columns: Columns, names: Iterable[str]) -> None:
    if kind == "txt" and columns.passed:
        raise BadList(
            f"{path} is plain text, one URI a line: it has no column to pass through; leave --pass_through out"
        )
    missing = [name for name in (columns.uri, *columns.passed) if name not in set(names)]
    if kind in ("csv", "parquet") and missing:
        raise BadList(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(names) or 'none'}: "
            "name them with --uri_column and --pass_through"
        )


def _check_keys(path: str, columns: Columns, lines: Iterable[bytes]) -> None:
    """Refuses a list of JSON lines if none of its first lines has the column of URIs."""
    rows = [_parse(line, "jsonl", [], columns) for line in lines if line.strip()]
    if rows and all(row.error and "no URI in column" in str(row.error) for row in rows):
        raise BadList(
            f"{path}: none of the first {len(rows)} lines has {columns.uri!r}: name it with --uri_column"
        )


def _cut_parquet(path: str, columns: Columns, rows_per_slice: int) -> Iterator[UriSlice]:
    start, held = 0, hashlib.sha256()
    count = 0
    for values in _parquet_rows(path, columns):
        held.update(_parquet_row_bytes(values))
        count += 1
        if count == rows_per_slice:
            yield UriSlice(path, "parquet", start, start + count, count, held.hexdigest())
            start, count, held = start + count, 0, hashlib.sha256()
    if count:
        yield UriSlice(path, "parquet", start, start + count, count, held.hexdigest())


def _parquet_row_bytes(values: dict[str, object]) -> bytes:
    return repr(sorted(values.items())).encode("utf-8", "surrogateescape")


def _parquet_rows(
    path: str, columns: Columns, start: int = 0, end: int | None = None
) -> Iterator[dict[str, object]]:
    import pyarrow.lib
    import pyarrow.parquet

    with door.open_binary(path) as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
        except pyarrow.lib.ArrowInvalid as error:
            raise BadList(
                f"{path} is not a Parquet file ({error}); name its format with --input_format"
            ) from error
        _check_columns(path, "parquet", columns, file.schema_arrow.names)
        wanted: Sequence[str] = list(dict.fromkeys((columns.uri, *columns.passed)))
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start and (end is None or first < end):
                at = first
                for batch in file.iter_batches(row_groups=[group], columns=wanted):
                    low = max(start - at, 0)
                    high = len(batch) if end is None else min(end - at, len(batch))
                    if low < high:
                        yield from batch.slice(low, high - low).to_pylist()
                    at += len(batch)
            first += size
