"""Rows of text lists (plain text, CSV, JSON lines). A slice is a byte range of complete rows, so that a worker can seek to it."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from transforms.errors import ItemError
from transforms.sources.base import BadInput
from transforms.sources.rows import Columns, Row, Slice, check_columns, row_of, slices
from transforms.storage import door

_MAX_ROW_BYTES = 16 << 20  # 16 MiB; a quote that is never closed must not swallow the file
_LINES_SAMPLED = 100

csv.field_size_limit(_MAX_ROW_BYTES)


def cut(path: str, kind: str, columns: Columns, rows_per_slice: int) -> Iterator[Slice]:
    """The slices of a list. Raises BadInput if a column is missing."""
    with door.open_input(path) as stream:
        names = _header(stream, kind)
        if kind == "csv":
            check_columns(path, columns, names)
        elif kind == "txt" and columns.passed:
            raise BadInput(
                f"{path} is plain text, one URI per line: it has no columns to pass through; omit --pass_through"
            )
        elif kind == "jsonl":
            _check_keys(path, columns, itertools.islice(stream, _LINES_SAMPLED))
            stream.seek(0)
        yield from cut_stream(kind, stream, rows_per_slice)


def count(path: str, kind: str, most: int) -> int:
    """How many rows of a list are inputs, up to `most`."""
    with door.open_input(path) as stream:
        _header(stream, kind)
        inputs = (raw for raw in _raw_rows(stream, kind) if raw.strip())
        return sum(1 for _ in itertools.islice(inputs, most))


def cut_stream(kind: str, stream: BinaryIO, rows_per_slice: int) -> Iterator[Slice]:
    """The slices of the rest of a stream."""
    rows = ((raw, len(raw), bool(raw.strip())) for raw in _raw_rows(stream, kind))
    return slices(rows, stream.tell(), rows_per_slice)


def read(path: str, kind: str, columns: Columns, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then, as the last item, the SHA-256 of what was read."""
    with door.open_input(path) as stream:
        names = _header(stream, kind)
    digest = hashlib.sha256()
    with door.open_input(path, start) as stream:
        for raw in _raw_rows(stream, kind, end - start):
            digest.update(raw)
            if raw.strip():
                yield _parse(raw, kind, names, columns)
    yield digest.hexdigest()


def _header(stream: BinaryIO, kind: str) -> list[str]:
    """The column names of a CSV, else []; leaves the stream after the header row."""
    if kind != "csv":
        return []
    raw = next(_raw_rows(stream, kind), b"")
    stream.seek(len(raw))
    return next(csv.reader([_text(raw).removeprefix("\ufeff")]), [])


def _raw_rows(stream: BinaryIO, kind: str, limit: int | None = None) -> Iterator[bytes]:
    """Complete rows as bytes: lines, except that a quoted CSV field may hold line breaks."""
    read, quoted = 0, False
    lines: list[bytes] = []
    while (limit is None or read < limit) and (line := stream.readline()):
        read += len(line)
        lines.append(line)
        quoted = kind == "csv" and (quoted or b'"' in line) and _ends_quoted(line, quoted)
        if not quoted or sum(map(len, lines)) > _MAX_ROW_BYTES:
            yield b"".join(lines)
            lines, quoted = [], False
    if lines:
        yield b"".join(lines)


def _ends_quoted(line: bytes, quoted: bool) -> bool:
    """Whether a CSV line ends inside a quoted field; as in `csv`, a quote opens one only at the start of a field."""
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
        return row_of({columns.uri: text.strip()}, columns)
    if kind == "jsonl":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            return Row("", {}, ItemError("bad_row", f"the line is not JSON ({error})"))
        if not isinstance(values, dict):
            return Row("", {}, ItemError("bad_row", "the line is not a JSON object"))
        return row_of(values, columns)
    try:
        fields, *further_rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return Row("", {}, ItemError("bad_row", f"the row is not CSV ({error})"))
    if further_rows:
        return Row("", {}, ItemError("bad_row", "the row holds a line break outside quotes"))
    if len(fields) != len(names):
        return Row("", {}, ItemError("bad_row", f"the row has {len(fields)} fields, the header {len(names)}"))
    return row_of(dict(zip(names, fields, strict=True)), columns)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _check_keys(path: str, columns: Columns, lines: Iterable[bytes]) -> None:
    """Refuses a list of JSON lines if none of its first lines has the column of URIs."""
    rows = [_parse(line, "jsonl", [], columns) for line in lines if line.strip()]
    if rows and all(row.error and "no URI in column" in str(row.error) for row in rows):
        raise BadInput(f"{path}: none of the first {len(rows)} lines has {columns.uri!r}: set --uri_column")
