"""Rows of CSV, with commas or another separator, as bytes.

A quoted field may hold line breaks; a quote that is never closed costs its own line alone.

The rule (docs/inputs.md): a line that ends inside quotes goes on in the next one, unless that is a row by itself
(`csv_lines`). If the quotes are not closed, or what comes out is no row of the header's length, the first line is given up, and
reading goes on at the second. The decision about a line depends only on what follows up to the end of its row, so that a
slice, which consists of whole rows, is read as it was cut.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from transforms.errors import ItemError
from transforms.sources.base import BadInput
from transforms.sources.csv_lines import OpenRow, text_of
from transforms.sources.text_lines import MARK

_MAX_ROW_BYTES = 16 << 20  # 16 MiB
_SEPARATORS, _OF_TSV = ",;\t|", "\t,;|"  # in the order in which they are tried
_TOLD = re.compile(
    rb'(?:%s)?"?sep=([%s])"?[\r\n]*' % (MARK, _SEPARATORS.encode()), re.IGNORECASE
)  # Excel's first line
_TSV = re.compile(r"\.tsv(\.\w+)?$", re.IGNORECASE)

csv.field_size_limit(_MAX_ROW_BYTES)


class Header(NamedTuple):
    """The first row of a list.

    Attributes:
      names: of the columns.
      separator: what stands between them, and between the fields of all rows.
      size: its bytes, with those of the line in front of it that names the separator, if there is one.
    """

    names: list[str]
    separator: str
    size: int


def header(path: str, lines: Iterator[bytes], uri_column: str) -> Header:
    """The first row, read with the first separator that gives a column of this name; else with the one that gives most columns.

    A .tsv is tried with tabs first, any other list with commas; a first line such as `sep=;` says it, and is no row. Raises
    BadInput if the row is not CSV."""
    separators = _OF_TSV if _TSV.search(path) else _SEPARATORS
    first = next(lines, b"")
    if told := _TOLD.fullmatch(first):
        separators, before = told[1].decode(), len(first)
    else:
        lines, before = itertools.chain([first] if first else [], lines), 0
    candidates: list[Header] = []
    refused: dict[str, csv.Error] = {}
    for separator, copy in zip(separators, itertools.tee(lines, len(separators)), strict=True):
        try:
            candidates.append(_header(copy, separator, before))
        except csv.Error as why:
            refused[separator] = why
            continue
        if uri_column in candidates[-1].names:
            return candidates[-1]
    if error := refused.get(separators[0]):
        raise BadInput(
            f"{path}: the first row, which names the columns, is not CSV ({error}): correct it"
        ) from error
    return max(candidates, key=lambda header: len(header.names))


def _header(lines: Iterator[bytes], separator: str, before: int) -> Header:
    taken: list[bytes] = []
    quoted, size = True, 0
    while quoted and size <= _MAX_ROW_BYTES and (line := next(lines, None)) is not None:
        quoted = _ends_quoted(line, separator.encode(), bool(taken))
        taken.append(line)
        size += len(line)
    text = io.StringIO(text_of(b"".join(taken)), newline="")
    return Header(next(csv.reader(text, delimiter=separator, strict=quoted), []), separator, before + size)


def rows(lines: Iterable[bytes], header: Header, uri_column: str) -> Iterator[bytes]:
    """The rows, and the lines that are given up, which are no rows: see `fields`."""
    further, again = iter(lines), deque[bytes]()
    uri, sign = header.names.index(uri_column), header.separator.encode()
    while (line := again.popleft() if again else next(further, None)) is not None:
        if b'"' not in line or not _ends_quoted(line, sign):
            yield line
            continue
        opened = OpenRow(line, len(header.names), uri, header.separator)
        taken, size, quoted = [line], len(line), True
        while quoted and size <= _MAX_ROW_BYTES:
            following = again.popleft() if again else next(further, None)
            if following is None:
                break
            taken.append(following)
            size += len(following)
            is_closing = not _ends_quoted(following, sign, True)
            if opened.ends_before(following, is_closing):
                break
            quoted = not is_closing
        row = b"".join(taken)
        if not quoted and _are_fields(row, header):
            yield row
        else:
            yield line
            again.extendleft(reversed(taken[1:]))


def fields(raw: bytes, header: Header) -> list[str]:
    """The values of a row. Raises ItemError 'bad_row' if it has not as many fields as the header."""
    text = text_of(raw).rstrip("\r\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=header.separator, strict=True)
    try:
        values, *further = list(reader) or [[]]
    except csv.Error as error:
        is_open = b'"' in raw and _ends_quoted(raw, header.separator.encode())
        what = "a quote is opened and not closed before the next row" if is_open else str(error)
        raise ItemError("bad_row", f"the row is not CSV ({what})") from error
    if further:
        raise ItemError("bad_row", "the row holds a line break outside quotes")
    if len(values) != len(header.names):
        raise ItemError("bad_row", f"the row has {len(values)} fields, the header {len(header.names)}")
    return values


def _are_fields(raw: bytes, header: Header) -> bool:
    try:
        return bool(fields(raw, header))
    except ItemError:
        return False


def _ends_quoted(line: bytes, separator: bytes, quoted: bool = False) -> bool:
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
        elif line[at : at + 1] == b'"' and (at == start or line[at - 1 : at] == separator):
            at, quoted = at + 1, True
        else:
            end = line.find(separator, at)
            if end < 0:
                return False
            at = end + 1
