"""Rows of CSV as bytes. A quoted field may hold line breaks; a quote that is never closed costs its own line alone.

The rule (docs/inputs.md): a line that ends inside quotes goes on in the next one, unless that is a row by itself
(`csv_lines`). If the quotes are not closed, or what comes out is no row of the header's length, the first line is given up, and
reading goes on at the second. The decision about a line depends only on what follows up to the end of its row, so that a
slice, which consists of whole rows, is read as it was cut.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from transforms.errors import ItemError
from transforms.sources.base import BadInput
from transforms.sources.csv_lines import OpenRow, text_of
from transforms.sources.text_lines import MARK

_MAX_ROW_BYTES = 16 << 20  # 16 MiB

csv.field_size_limit(_MAX_ROW_BYTES)


def header(path: str, lines: Iterator[bytes]) -> tuple[list[str], int]:
    """The column names, and how many bytes they take. Raises BadInput if the first row is not CSV."""
    taken: list[bytes] = []
    quoted, size = True, 0
    while quoted and size <= _MAX_ROW_BYTES and (line := next(lines, None)) is not None:
        quoted = _ends_quoted(line, bool(taken))
        taken.append(line)
        size += len(line)
    raw = b"".join(taken)
    try:
        names = next(csv.reader(io.StringIO(text_of(raw), newline=""), strict=quoted), [])
    except csv.Error as error:
        raise BadInput(
            f"{path}: the first row, which names the columns, is not CSV ({error}): correct it"
        ) from error
    return names, size


def rows(lines: Iterable[bytes], names: Sequence[str], uri_column: str) -> Iterator[bytes]:
    """The rows, and the lines that are given up, which are no rows: see `fields`."""
    further, again = iter(lines), deque[bytes]()
    uri = names.index(uri_column)
    while (line := again.popleft() if again else next(further, None)) is not None:
        if b'"' not in line or not _ends_quoted(line):
            yield line
            continue
        opened = OpenRow(line, len(names), uri)
        taken, size, quoted = [line], len(line), True
        while quoted and size <= _MAX_ROW_BYTES:
            following = again.popleft() if again else next(further, None)
            if following is None:
                break
            taken.append(following)
            size += len(following)
            is_closing = not _ends_quoted(following, True)
            if opened.ends_before(following, is_closing):
                break
            quoted = not is_closing
        row = b"".join(taken)
        if not quoted and _fields_or_none(row, len(names)):
            yield row
        else:
            yield line
            again.extendleft(reversed(taken[1:]))


def fields(raw: bytes, count: int) -> list[str]:
    """The values of a row. Raises ItemError 'bad_row' if it is none of `count` fields."""
    text = text_of(raw).rstrip("\r\n")
    try:
        values, *further = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        is_open = b'"' in raw and _ends_quoted(raw)
        what = "a quote is opened and not closed before the next row" if is_open else str(error)
        raise ItemError("bad_row", f"the row is not CSV ({what})") from error
    if further:
        raise ItemError("bad_row", "the row holds a line break outside quotes")
    if len(values) != count:
        raise ItemError("bad_row", f"the row has {len(values)} fields, the header {count}")
    return values


def _fields_or_none(raw: bytes, count: int) -> list[str] | None:
    try:
        return fields(raw, count)
    except ItemError:
        return None


def _ends_quoted(line: bytes, quoted: bool = False) -> bool:
    """Whether a line ends inside a quoted field; as in `csv`, a quote opens one only at the start of a field."""
    at = len(MARK) if not quoted and line.startswith(MARK) else 0
    start = at
    while True:
        if quoted:
            at = line.find(b'"', at)
            if at < 0:
                return True
            doubled = line[at + 1 : at + 2] == b'"'
            at, quoted = (at + 2, True) if doubled else (at + 1, False)
        elif line[at : at + 1] == b'"' and (at == start or line[at - 1 : at] == b","):
            at, quoted = at + 1, True
        else:
            comma = line.find(b",", at)
            if comma < 0:
                return False
            at = comma + 1
