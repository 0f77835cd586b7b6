"""Rows of text lists (plain text, CSV, JSON lines). A slice is a byte range of complete rows, so that a worker can seek to it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from transforms.errors import ItemError
from transforms.records import values
from transforms.sources import csv_rows, rows, text_lines
from transforms.sources.base import WHOLE, BadInput, Bounds, as_bad_input
from transforms.sources.csv_lines import is_address, text_of
from transforms.sources.csv_rows import Header
from transforms.sources.rows import Columns, Row, Slice, check_columns, row_of, slices
from transforms.sources.text_lines import MARK
from transforms.storage import door
from transforms.storage.damage import DAMAGED, explained

_LINES_SAMPLED = 1000
_ARRAY = re.compile(r"\[\s*(\{|\]?$)")  # of objects, or of what follows in the next lines


def cut(
    path: str, kind: str, columns: Columns, rows_per_slice: int, bounds: Bounds = WHOLE
) -> Iterator[Slice]:
    """The slices of a list, or of its rows within bounds.

    Raises BadInput if a column is missing, or the list cannot be read to its end."""
    at = count = 0

    def raw_rows() -> Iterator[tuple[bytes, int, bool]]:
        nonlocal at, count
        for raw in _raw_rows(stream, _length(at, bounds), header, columns):
            is_input = _is_input(raw, header)
            at, count = at + len(raw), count + is_input
            yield raw, len(raw), is_input

    with as_bad_input(path):
        door.check_compression(path)
        try:
            with text_lines.opened(path) as stream:
                text_lines.check_encoding(path, stream)
                header = _header(path, stream, kind, columns)
                at = max(header.size if header else 0, bounds[0])
                _check(path, kind, columns, header)
                if kind == "jsonl":
                    _check_json(path, columns)
                stream.seek(at)
                yield from slices(raw_rows(), at, rows_per_slice)
        except DAMAGED as error:
            raise BadInput(
                f"{path} cannot be read beyond byte {at} of its text, after {count} rows: {explained(error)}"
            ) from error


def count(path: str, kind: str, columns: Columns, most: int, bounds: Bounds = WHOLE) -> int:
    """How many rows of a list, within bounds, are inputs, up to `most`, as far as it can be read. Raises BadInput."""
    inputs = 0
    with as_bad_input(path), contextlib.suppress(*DAMAGED):
        door.check_compression(path)
        with text_lines.opened(path) as stream:
            text_lines.check_encoding(path, stream)
            header = _header(path, stream, kind, columns)
            _check(path, kind, columns, header)
            at = max(header.size if header else 0, bounds[0])
            stream.seek(at)
            for raw in _raw_rows(stream, _length(at, bounds), header, columns):
                inputs += _is_input(raw, header)
                if inputs == most:
                    break
    return inputs


def _length(at: int, bounds: Bounds) -> int | None:
    return None if bounds[1] is None else max(0, bounds[1] - at)


def read(path: str, kind: str, columns: Columns, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then, as the last item, the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with text_lines.opened(path, until=end) as stream:
        header = _header(path, stream, kind, columns)
        stream.seek(start)
        for raw in _raw_rows(stream, end - start, header, columns):
            digest.update(raw)
            if _is_input(raw, header):
                yield _parse(raw, kind, header, columns)
    yield digest.hexdigest()


def agreeing(path: str, kind: str, columns: Columns, earlier: Sequence[Slice]) -> Iterator[int]:
    """The ends of the slices whose rows are what they were: see `rows.agreeing`."""
    with as_bad_input(path), contextlib.suppress(*DAMAGED), text_lines.opened(path) as stream:
        header = _header(path, stream, kind, columns)
        stream.seek(earlier[0][0])
        raws = _raw_rows(stream, None, header, columns)
        yield from rows.agreeing(((raw, len(raw), True) for raw in raws), earlier)


def sample(path: str, kind: str) -> list[dict[str, object]]:
    """The first rows of a list of JSON lines that are objects; none of another list."""
    if kind != "jsonl":
        return []
    return _objects(_first_lines(path))


def _objects(lines: list[bytes]) -> list[dict[str, object]]:
    return [row for raw in lines if isinstance(row := _json_or_none(raw), dict)]


def _first_lines(path: str) -> list[bytes]:
    lines: list[bytes] = []
    with text_lines.opened(path) as stream, contextlib.suppress(*DAMAGED):  # as will be said of the whole
        for line in itertools.islice(filter(_is_input, text_lines.lines(stream)), _LINES_SAMPLED):
            lines.append(line)
    return lines


def _json_or_none(raw: bytes) -> object:
    try:
        return json.loads(text_of(raw))
    except (ValueError, RecursionError):
        return None


def _is_input(raw: bytes, header: Header | None = None) -> bool:
    """Whether a line is not blank; one of tabs alone is a row of empty fields where these separate fields."""
    blanks = b" \n\r\v\f" if header and header.separator == "\t" else None
    return bool(raw.removeprefix(MARK).strip(blanks))


def _header(path: str, stream: BinaryIO, kind: str, columns: Columns) -> Header | None:
    """The first row of a CSV, None for other lists; leaves the stream behind it."""
    if kind != "csv":
        return None
    header = csv_rows.header(path, text_lines.lines(stream), columns.uri)
    stream.seek(header.size)
    return header


def _raw_rows(
    stream: BinaryIO, limit: int | None, header: Header | None, columns: Columns
) -> Iterator[bytes]:
    """The rows in the next `limit` bytes, as bytes."""
    lines = text_lines.lines(stream, limit)
    return csv_rows.rows(lines, header, columns.uri) if header else lines


def _parse(raw: bytes, kind: str, header: Header | None, columns: Columns) -> Row:
    try:
        if header:
            return row_of(dict(zip(header.names, csv_rows.fields(raw, header), strict=True)), columns)
        if kind == "txt":
            return row_of({columns.uri: text_of(raw).strip()}, columns)
        return row_of(_json(raw), columns)
    except ItemError as error:
        return Row("", {}, error)


def _json(raw: bytes) -> dict[str, object]:
    try:
        row = json.loads(text_of(raw).rstrip("\r\n"))
    except (ValueError, RecursionError) as error:
        raise ItemError("bad_row", f"the line is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ItemError("bad_row", "the line is not a JSON object")
    return row


def _check(path: str, kind: str, columns: Columns, header: Header | None) -> None:
    if header:
        check_columns(path, columns, header.names, _likely_cause(header.names))
    elif kind == "txt" and columns.passed:
        raise BadInput(
            f"{path} is plain text, one URI per line: it has no columns to pass through; omit --pass_through"
        )


def _likely_cause(names: list[str]) -> str:
    """Why the columns of a CSV list may not be those that were meant, as a clause; '' if nothing shows."""
    if any(is_address("".join(name.split())) for name in names):
        return "the first line looks like a row, and has to name the columns, such as uri"
    return ""


def _check_json(path: str, columns: Columns) -> None:
    """Refuses JSON that is not in lines, and lines without URIs."""
    lines = _first_lines(path)
    rows = _objects(lines)
    first = text_of(lines[0]).strip() if lines else ""
    if _ARRAY.match(first):
        raise BadInput(
            f"{path} is a JSON array, and a list has one object per line: `jq -c '.[]' {shlex.quote(path)} > lines.jsonl` "
            "writes it so"
        )
    if not rows and first.startswith("{") and (first == "{" or _goes_on(lines)):
        raise BadInput(
            f"{path} holds a JSON object over several lines, and a list has one object per line: "
            f"`jq -c . {shlex.quote(path)} > lines.jsonl` writes it so"
        )
    _check_keys(path, columns, rows)


def _goes_on(lines: list[bytes]) -> bool:
    """Whether the object that begins in the first line ends in a later one."""
    text = "".join(map(text_of, lines)).lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return len(text[:end].splitlines()) > 1


def _check_keys(path: str, columns: Columns, rows: list[dict[str, object]]) -> None:
    """Refuses a list of JSON lines if none of its first rows has a URI in the column of URIs."""
    present = [row[columns.uri] for row in rows if row.get(columns.uri) is not None]
    if rows and not present:
        raise BadInput(f"{path}: none of the first {len(rows)} lines has {columns.uri!r}: set --uri_column")
    if present and not any(isinstance(value, str) for value in present):
        raise BadInput(
            f"{path}: column {columns.uri!r} holds {values.json_type(present[0])}, and a URI is text: name another column "
            "with --uri_column"
        )
