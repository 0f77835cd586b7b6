"""Serialized tf.Examples with the same features, of one value each, parsed all at once by NumPy.

Protobuf's messages take a microsecond per feature and record, together longer than copying a vector does. Records that differ
in more than their values are not for here: `parse` raises NotUniform for all that is not as expected. The wire format:
protobuf.dev/programming-guides/encoding; the messages: tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NESTED = 0x0A  # the tag of field 1 with a length: of features, an entry of a map, its name, and the values of a list
_VALUE = 0x12  # of the value of an entry
_BYTES, _FLOATS, _INTEGERS = 0x0A, 0x12, 0x1A  # of Feature's three kinds of list
_PADDING = bytes(64)  # more than is read before a length is compared


class NotUniform(ValueError):
    """Records that do not all have the same features, in one order, of one value each."""


class Texts(NamedTuple):
    """A byte string per record: data[starts[i] : ends[i]]."""

    data: bytes
    starts: np.ndarray  # int64 (records,)
    ends: np.ndarray

    def values(self) -> list[bytes]:
        """The byte strings."""
        places = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [self.data[start:end] for start, end in places]


def parse(
    parts: Sequence[bytes | memoryview], per_record: int, removed: int
) -> dict[str, Texts | np.ndarray]:
    """The features of records by name: Texts, or an array, int64 or float32 (records,). Raises NotUniform.

    Args:
      parts: the bytes of one record after the other, each in `per_record` parts, between which entries were taken out.
      per_record: parts per record.
      removed: bytes taken out of each record.
    """
    data = b"".join(parts)
    borders = np.fromiter(map(len, parts), np.int64, len(parts)).cumsum().reshape(-1, per_record)
    cursor = _Cursor(data, np.append(0, borders[:-1, -1]))
    cursor.expect(_NESTED)
    _check(cursor.length() + cursor.at == borders[:, -1] + removed)
    out: dict[str, Texts | np.ndarray] = {}
    for border in borders.T:
        while (cursor.at < border).all():
            end = cursor.nested(_NESTED)
            name = cursor.name()
            _check(end <= border)
            _check(cursor.nested(_VALUE) == end)
            if name in out:
                raise NotUniform(f"{name!r} twice")
            out[name] = _value(cursor, end)
        _check(cursor.at == border)
    return out


def _value(cursor: _Cursor, end: np.ndarray) -> Texts | np.ndarray:
    """The only value of a Feature that ends at `end`."""
    kind = cursor.kind()
    _check(cursor.nested(kind) == end)
    _check(cursor.nested(_NESTED) == end)
    start, cursor.at = cursor.at, end
    if kind == _BYTES:
        return Texts(cursor.data, start, end)
    if kind == _FLOATS:
        _check(start + 4 == end)
        return cursor.bytes[start[:, None] + np.arange(4)].view("<f4")[:, 0]
    cursor.at = start
    values = cursor.varint()
    _check(cursor.at == end)
    return values.view(np.int64)


class _Cursor:
    """A place in each record, all at the same field."""

    def __init__(self, data: bytes, at: np.ndarray):
        self.data, self.at = data, at
        self.bytes = np.frombuffer(data + _PADDING, np.uint8)

    def kind(self) -> int:
        """The next byte of the first record, if it is the tag of a list."""
        tag = int(self.bytes[self.at[0]])
        if tag not in (_BYTES, _FLOATS, _INTEGERS):
            raise NotUniform("no list")
        return tag

    def expect(self, tag: int) -> None:
        """Goes past a tag."""
        _check(self.bytes[self.at] == tag)
        self.at = self.at + 1

    def nested(self, tag: int) -> np.ndarray:
        """Goes past a tag and a length, to what they are about; returns where that ends."""
        self.expect(tag)
        return self.length() + self.at

    def length(self) -> np.ndarray:
        """Goes past a length."""
        values = self.varint()
        if values.max() >= 1 << 31:  # which protobuf does not allow
            raise NotUniform("a length of 2 GiB or more")
        return values.astype(np.int64)

    def name(self) -> str:
        """Goes past the name of an entry, which all records share."""
        ends = self.nested(_NESTED)
        size = int(ends[0] - self.at[0])
        _check(ends == self.at + size)
        _check(ends <= len(self.data))
        names = self.bytes[self.at[:, None] + np.arange(size)]
        _check(names == names[0])
        self.at = ends
        try:
            return names[0].tobytes().decode()
        except UnicodeDecodeError as error:
            raise NotUniform("a name that is no text") from error

    def varint(self) -> np.ndarray:
        """Goes past a number, uint64."""
        values, more = np.zeros(len(self.at), np.uint64), np.ones(len(self.at), bool)
        for shift in range(0, 70, 7):
            _check(self.at < len(self.bytes))
            following = self.bytes[self.at]
            if not shift and following.max() < 128:  # as most are
                self.at = self.at + 1
                return following.astype(np.uint64)
            values |= np.where(more, following & 127, 0).astype(np.uint64) << np.uint64(shift)
            self.at = self.at + more
            more &= following > 127
            if not more.any():
                return values
        raise NotUniform("a number of more than ten bytes")


def _check(holds: np.ndarray) -> None:
    if not holds.all():
        raise NotUniform("not as in the other records")
