"""Whether a line inside the quotes of a CSV row is a row by itself, so that those quotes were never closed.

The rule is in docs/inputs.md. A line is judged by the row that it would continue, and by nothing before that: a slice, which
begins with any row of the list, must be read as the whole list was.
"""

from __future__ import annotations

import csv
import functools
import io
import posixpath
import re

from transforms.fetching.uris import scheme_of
from transforms.imaging import formats
from transforms.sources.text_lines import MARK

_DIGITS = re.compile(r"\d+")
_NAME = re.compile(r"[\w-]")
_LETTER = re.compile(r"[^\W\d_]")
_ID_LENGTH = 8  # from which on two names of one length and punctuation are of one making
_IN_SUCCESSION = 3  # rows that a sentence or a table within a text could be taken for


@functools.cache
def _proper(separator: str) -> re.Pattern[bytes]:
    """Rows with quotes only around fields: the end of a quoted text that goes on over lines has one within its first field."""
    sign = re.escape(separator).encode()
    field = rb'(?:[^"%s\r\n]*|"(?:[^"]|"")*")' % sign
    return re.compile(rb"(?:%s)?%s(?:%s%s)*[\r\n]*" % (MARK, field, sign, field))


def text_of(raw: bytes) -> str:
    """A line as text, without a byte-order mark: one may stand wherever files were joined."""
    return raw.removeprefix(MARK).decode("utf-8", "surrogateescape")


class OpenRow:
    """A row that ended inside quotes, and the lines that may continue it, in order.

    Args:
      first: its first line.
      count: the fields of a row.
      uri: which of them is the address.
      separator: between fields.
    """

    def __init__(self, first: bytes, count: int, uri: int, separator: str):
        self._first, self._count, self._uri, self._separator = first, count, uri, separator
        self._alike = 0  # lines in succession whose address is like that of this row

    def ends_before(self, line: bytes, is_closing: bool) -> bool:
        """Whether the next line is a row by itself. `is_closing`: whether the quotes are closed in it."""
        is_proper = _proper(self._separator).fullmatch(line) is not None
        # The line that closes the quotes is read as if its quotes were signs like any other: inches, as a rule. Where the address
        # follows the quotes, it is that of the open row.
        is_candidate = is_proper or (is_closing and self._uri <= len(self._closed))
        may_fit = line.count(self._separator.encode()) >= self._count - 1
        values = self._read(line) if is_candidate and may_fit else []
        if len(values) != self._count:
            self._alike = 0
            return False
        address = values[self._uri]
        if is_proper and is_address(address):
            return True
        self._alike = self._alike + 1 if _are_alike(address, self._address) else 0
        is_name = len(address) >= _ID_LENGTH or _LETTER.search(address) is not None
        is_prose = any(value[:1].isspace() for value in values)
        return self._alike >= (1 if is_name and not is_prose else _IN_SUCCESSION)

    @functools.cached_property
    def _closed(self) -> list[str]:
        """The fields before the open one."""
        return self._read(self._first)[:-1]

    @functools.cached_property
    def _address(self) -> str:
        """The address, if the quotes were opened by mistake; '' if there is none."""
        pieces = [*self._closed, *"".join(self._read(self._first)[-1:]).rstrip("\r\n").split(self._separator)]
        at = self._uri if self._uri <= len(self._closed) else self._uri - self._count
        return pieces[at] if -len(pieces) <= at < len(pieces) else ""

    def _read(self, line: bytes) -> list[str]:
        """The fields of the first row, with whatever quotes there are; none if Python's reader finds none."""
        try:
            return next(csv.reader(io.StringIO(text_of(line), newline=""), delimiter=self._separator), [])
        except csv.Error:
            return []


def is_address(text: str) -> bool:
    """Whether a text is an address by its looks alone."""
    return (
        bool(text)
        and not any(sign.isspace() for sign in text)
        and ("://" in text or text.lower().startswith(("/", "data:")) or _is_image(text))
    )


def _is_image(address: str) -> bool:
    return re.split("[?#]", address, maxsplit=1)[0].lower().endswith(formats.SUFFIXES)


def _are_alike(one: str, other: str) -> bool:
    """Whether two texts are addresses of one kind, though they may hold white space."""
    if not one or not other:
        return False
    if _DIGITS.sub("0", one) == _DIGITS.sub("0", other) or (_is_image(one) and _is_image(other)):
        return True
    if scheme_of(one) == scheme_of(other) != "file" or one[0] == other[0] == "/":
        return True
    if posixpath.dirname(one) == posixpath.dirname(other) != "":
        return True
    are_ids = len(one) == len(other) >= _ID_LENGTH and all(map(_DIGITS.search, (one, other)))
    return are_ids and " " not in one and _NAME.sub("x", one) == _NAME.sub("x", other)
