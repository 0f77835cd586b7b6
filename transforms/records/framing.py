"""The frame of a record in a TFRecord file, and the search for the next valid one after damage.

A record is: length (uint64 LE), masked CRC-32C of the length, the data, masked CRC-32C of the data
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import functools
import gzip
import lzma
import struct
import zlib
from typing import Protocol

import google_crc32c
import numpy as np

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_RECORD_BYTES = 1 << 30  # 1 GiB; a larger length is taken for damage, so that memory stays bounded
_DAMAGED_COMPRESSION = (zlib.error, EOFError, gzip.BadGzipFile, lzma.LZMAError)
_READ_BYTES = 1 << 20  # 1 MiB


class Readable(Protocol):
    """A binary stream; its `readinto1` or `read1` is preferred if it has one."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; b"" at the end."""


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as TFRecord masks it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_sum_of(crc: bytes, data: bytes) -> bool:
    """Whether the four bytes `crc` are the masked checksum of `data`."""
    return crc == struct.pack("<I", masked_crc(data))


def record_length(header: bytes) -> int | None:
    """The record length in a header of 12 bytes; None if the header is not valid."""
    value, crc = struct.unpack("<QI", header)
    return value if value <= MAX_RECORD_BYTES and crc == masked_crc(header[:8]) else None


class Window:
    """A buffer over a stream: the bytes from `offset` on that have been read and not dropped."""

    def __init__(self, stream: Readable, offset: int):
        self.offset = offset
        # A single read returns the data before damage; `read` would lose it when it raises.
        self._readinto = getattr(stream, "readinto1", None) or functools.partial(_readinto, stream)
        self._buffer = bytearray(_READ_BYTES)
        self._at = self._end = 0  # bounds of the unread bytes in the buffer
        self.broken = ""  # why the compressed stream could not be read further

    def __len__(self) -> int:
        return self._end - self._at

    def need(self, count: int) -> bool:
        """Reads until the window holds `count` bytes; False if the file ends first."""
        while len(self) < count:
            self._make_room(count)
            try:
                with memoryview(self._buffer) as view, view[self._end :] as free:
                    more = self._readinto(free)
            except _DAMAGED_COMPRESSION as error:
                self.broken, more = str(error), 0
            if not more:
                return False
            self._end += more
        return True

    def _make_room(self, count: int) -> None:
        """Makes room after the bytes so that `count` can fit. Grows with what was read, not with what a header says."""
        kept, size = len(self), len(self._buffer)
        if size > _READ_BYTES and kept < _READ_BYTES // 2:  # a large record has been dropped
            self._buffer[:] = self._buffer[self._at : self._end].ljust(_READ_BYTES, b"\0")
            self._at, self._end = 0, kept
        elif self._at and size - self._end < size // 2:
            with memoryview(self._buffer) as view:
                view[:kept] = view[self._at : self._end]
            self._at, self._end = 0, kept
        free = len(self._buffer) - self._end
        if free < min(count - kept, len(self._buffer) // 4):
            self._buffer += bytes(max(_READ_BYTES, min(count - kept - free, kept)))

    def peek(self, at: int, count: int) -> bytes:
        """Up to `count` bytes, starting `at` bytes into the window."""
        start = self._at + at
        return bytes(memoryview(self._buffer)[start : min(start + count, self._end)])

    def drop(self, count: int) -> None:
        """Moves the start of the window forward by `count` bytes."""
        self._at += count
        self.offset += count

    def header(self, at: int = 0) -> int | None:
        """The record length if a valid header starts `at` bytes into the window."""
        if not self.need(at + HEADER_BYTES):
            return None
        return record_length(self.peek(at, HEADER_BYTES))

    def skip_to_header(self) -> None:
        """Moves forward to the nearest valid header, which may be right here; to the end if there is none."""
        if self.header() is not None:
            return
        while True:
            has_more = self.need(_READ_BYTES)
            for at in self._candidates():
                if self.header(int(at)) is not None:
                    self.drop(int(at))
                    return
            if not has_more:
                self.drop(len(self))
                return
            self.drop(len(self) - HEADER_BYTES)

    def _candidates(self) -> np.ndarray:
        """Offsets after the first byte where a header may start: a length whose upper four bytes are zero.

        (Twelve zero bytes are never a valid header: zero padding must not cost a check per byte.)
        """
        zero = np.frombuffer(self.peek(0, len(self)), np.uint8) == 0
        top = zero[5:-7] & zero[6:-6] & zero[7:-5] & zero[8:-4]
        return np.flatnonzero(top & ~(zero[1:-11] & zero[2:-10] & zero[9:-3] & zero[10:-2] & zero[11:-1])) + 1


def _readinto(stream: Readable, buffer: memoryview) -> int:
    data = getattr(stream, "read1", stream.read)(len(buffer))
    buffer[: len(data)] = data
    return len(data)
