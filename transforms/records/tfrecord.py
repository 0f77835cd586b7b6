"""TFRecord framing: read, with damage reported and stepped over, and write. No Beam, no TensorFlow.

A record is: length (uint64 LE), masked CRC-32C of the length, the data, masked CRC-32C of the data
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import functools
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import google_crc32c
import numpy as np

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_DAMAGED_COMPRESSION = (zlib.error, EOFError, gzip.BadGzipFile, lzma.LZMAError)
_READ_BYTES = 1 << 20  # 1 MiB
NO_HEADER = "no valid record header"
MAX_RECORD_BYTES = 1 << 30  # 1 GiB; a longer one is taken for damage, so that memory stays bounded


class Readable(Protocol):
    """A binary stream; its `readinto1` or `read1` is called instead, where it has one."""

    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class Record:
    """One intact record; `offset` is where its header starts, in bytes of the (decompressed) file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Damage:
    """A stretch of bytes that holds no intact record."""

    offset: int
    length: int
    reason: str


def masked_crc(data: bytes) -> int:
    """CRC-32C rotated and offset as TFRecord wants it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """The bytes of one record as they stand in a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data)))
    )


def read(
    stream: Readable, start: int = 0, end: int | None = None, aligned: bool = False
) -> Iterator[Record | Damage]:
    """Yields the records that start in [start, end), and the damage found between them.

    Args:
      stream: a readable binary file, positioned at `start`.
      start: offset of the stream's position. When it is not 0 it may lie inside a record: reading begins at the
        next valid header, unless `aligned`.
      end: records that start here or later belong to somebody else; None for the end of the file. Damage that follows
        the last record is told of, unless `aligned`: who reads on from here takes it for the rest of that record.
      aligned: `start` is where a record or damage begins, as `starts` tells.
    """
    window = _Window(stream, start)
    if start and not aligned:
        _skip_to_header(window)
    while end is None or window.offset < end or (not aligned and window.header() is None):
        if not window.need(1):
            if window.broken:
                yield Damage(
                    window.offset, 0, f"the compressed file is damaged from here on ({window.broken})"
                )
            return
        offset, length = window.offset, window.header()
        if length is None:
            _skip_to_header(window)
            yield Damage(offset, window.offset - offset, NO_HEADER)
            continue
        whole = _HEADER_BYTES + length + _FOOTER_BYTES
        if window.need(whole):
            data = window.peek(_HEADER_BYTES, length)
            if _is_sum_of(window.peek(_HEADER_BYTES + length, _FOOTER_BYTES), data):
                window.drop(whole)
                yield Record(offset, data)
                continue
            reason = "wrong data checksum"
            # Where bytes are missing, the length leads past the next header.
            is_length_right = window.header(whole) is not None or len(window) == whole
        else:
            reason = f"the compressed file is damaged ({window.broken})" if window.broken else "the file ends"
            reason += f" inside a record of {whole} bytes"
            is_length_right = False
        window.drop(whole if is_length_right else 1)
        if not is_length_right:
            _skip_to_header(window)
        yield Damage(offset, window.offset - offset, reason)
        if window.broken and not window.need(1):
            return


def starts(stream: BinaryIO, size_bytes: int) -> Iterator[int]:
    """Where each record and each damage begins that `read` finds in a whole uncompressed file.

    Hops from header to header; only where there is none are the bytes searched for the next one.
    """
    offset, length = 0, _length_at(stream, 0)
    while offset < size_bytes:
        yield offset
        following = offset if length is None else offset + _HEADER_BYTES + length + _FOOTER_BYTES
        after = _length_at(stream, following) if offset < following < size_bytes else None
        # As `read` does it: the length of a damaged record counts if a header or the end of the file follows.
        if length is None or (
            after is None and following != size_bytes and not _is_intact(stream, offset, length)
        ):
            at = offset + (length is not None)
            stream.seek(at)
            window = _Window(stream, at)
            _skip_to_header(window)
            offset, length = window.offset, window.header()
        else:
            offset, length = following, after


def _length_at(stream: BinaryIO, offset: int) -> int | None:
    stream.seek(offset)
    header = stream.read(_HEADER_BYTES)
    return _length(header) if len(header) == _HEADER_BYTES else None


def _is_intact(stream: BinaryIO, offset: int, length: int) -> bool:
    stream.seek(offset + _HEADER_BYTES)
    data, crc = stream.read(length), stream.read(_FOOTER_BYTES)
    return len(data) == length and _is_sum_of(crc, data)


def _is_sum_of(crc: bytes, data: bytes) -> bool:
    return crc == struct.pack("<I", masked_crc(data))


def _length(header: bytes) -> int | None:
    """The record length that a header tells; None if it is not a valid one."""
    value, crc = struct.unpack("<QI", header)
    return value if value <= MAX_RECORD_BYTES and crc == masked_crc(header[:8]) else None


class _Window:
    """The bytes from `offset` on, as far as they have been read."""

    def __init__(self, stream: Readable, offset: int):
        self.offset = offset
        # What reads once gives what there is before it meets damage; other ways would lose that with the error.
        self._readinto = getattr(stream, "readinto1", None) or functools.partial(_readinto, stream)
        self._buffer = bytearray(_READ_BYTES)
        self._at = self._end = 0  # of the bytes in the buffer
        self.broken = ""  # why the compressed stream could not be read on

    def __len__(self) -> int:
        return self._end - self._at

    def need(self, count: int) -> bool:
        """Reads until `count` bytes are there; False if the file ends before."""
        while len(self) < count:
            self._make_room(count)
            try:
                with memoryview(self._buffer) as whole, whole[self._end :] as free:
                    more = self._readinto(free)
            except _DAMAGED_COMPRESSION as error:
                self.broken, more = str(error), 0
            if not more:
                return False
            self._end += more
        return True

    def _make_room(self, count: int) -> None:
        """Behind the bytes, of which so many are wanted. It grows with what was read, not with what a header says."""
        held, size = len(self), len(self._buffer)
        if size > _READ_BYTES and held < _READ_BYTES // 2:  # a large record has passed
            self._buffer[:] = self._buffer[self._at : self._end].ljust(_READ_BYTES, b"\0")
            self._at, self._end = 0, held
        elif self._at and size - self._end < size // 2:
            with memoryview(self._buffer) as whole:
                whole[:held] = whole[self._at : self._end]
            self._at, self._end = 0, held
        free = len(self._buffer) - self._end
        if free < min(count - held, len(self._buffer) // 4):
            self._buffer += bytes(max(_READ_BYTES, min(count - held - free, held)))

    def peek(self, at: int, count: int) -> bytes:
        start = self._at + at
        return bytes(memoryview(self._buffer)[start : min(start + count, self._end)])

    def drop(self, count: int) -> None:
        self._at += count
        self.offset += count

    def header(self, at: int = 0) -> int | None:
        """The record length if a valid header starts `at` bytes into the window."""
        if not self.need(at + _HEADER_BYTES):
            return None
        return _length(self.peek(at, _HEADER_BYTES))

    def candidates(self) -> np.ndarray:
        """Where a header may start after the first byte: four zero bytes on top of a length that is not all zero.

        (A header of twelve zero bytes is never valid; a file padded with zeros must not cost a check a byte.)
        """
        zero = np.frombuffer(self.peek(0, len(self)), np.uint8) == 0
        top = zero[5:-7] & zero[6:-6] & zero[7:-5] & zero[8:-4]
        return np.flatnonzero(top & ~(zero[1:-11] & zero[2:-10] & zero[9:-3] & zero[10:-2] & zero[11:-1])) + 1


def _readinto(stream: Readable, buffer: memoryview) -> int:
    data = getattr(stream, "read1", stream.read)(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _skip_to_header(window: _Window) -> None:
    """Moves the window to the nearest offset, its own included, where a valid header starts."""
    if window.header() is not None:
        return
    while True:
        enough = window.need(_READ_BYTES)
        for at in window.candidates():
            if window.header(int(at)) is not None:
                window.drop(int(at))
                return
        if not enough:
            window.drop(len(window))
            return
        window.drop(len(window) - _HEADER_BYTES)
