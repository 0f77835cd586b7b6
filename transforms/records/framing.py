"""The frame of a record in a TFRecord file, and the search for the next valid one after damage.

A record is: length (uint64 LE), masked CRC-32C of the length, the data, masked CRC-32C of the data
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from transforms import native
from transforms.records.checksums import crc32c
from transforms.storage.damage import DAMAGED

_HEADER = struct.Struct("<QI")
HEADER_BYTES = _HEADER.size
FOOTER_BYTES = 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
MAX_RECORD_BYTES = 1 << 30  # 1 GiB; a larger length is taken for damage, so that memory stays bounded
_READ_BYTES = 1 << 20  # 1 MiB
_HEADERS = 512  # found at once


class Readable(Protocol):
    """A binary stream; its `read_block` or `read1` is preferred if it has one."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; b"" at the end."""


def masked_crc(data: bytes | memoryview) -> int:
    """The CRC-32C of the data, rotated and offset as TFRecord masks it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_sum_of(crc: bytes, data: bytes | memoryview) -> bool:
    """Whether the four bytes `crc` are the masked checksum of `data`."""
    return crc == struct.pack("<I", masked_crc(data))


def record_length(header: bytes | memoryview) -> int | None:
    """The record length in a header of 12 bytes; None if the header is not valid."""
    value, crc = _HEADER.unpack(header)
    return value if value <= MAX_RECORD_BYTES and crc == masked_crc(bytes(header[:8])) else None


class Window:
    """The bytes of a stream from `offset` on that have been read and not dropped: blocks, as the stream gave them.

    A view into a block costs nothing, so a record is only copied where it lies in two of them.
    """

    def __init__(self, stream: Readable, offset: int):
        self.offset = offset
        # One read returns the data before damage; `read` would lose it when it raises.
        single = functools.partial(getattr(stream, "read1", stream.read), _READ_BYTES)
        self._read_block: Callable[[], bytes] = getattr(stream, "read_block", None) or single
        self._blocks: deque[memoryview] = deque()
        self._length = 0
        self._last_header: tuple[int, int | None] = (-1, None)  # offset, and the length there
        self.broken = ""  # why the compressed stream could not be read further

    def __len__(self) -> int:
        return self._length

    def need(self, count: int) -> bool:
        """Reads until the window holds `count` bytes; False if the file ends first."""
        while self._length < count:
            if self.broken:
                return False
            try:
                block = self._read_block()
            except DAMAGED as error:
                self.broken, block = str(error), b""
            if not block:
                return False
            self._blocks.append(memoryview(block))
            self._length += len(block)
        return True

    def view(self, at: int, count: int) -> memoryview:
        """Up to `count` bytes, starting `at` bytes into the window."""
        if self._blocks and at + count <= len(self._blocks[0]):
            return self._blocks[0][at : at + count]
        parts, end = [], at + count
        for block in self._blocks:
            if at < len(block):
                parts.append(block[max(0, at) : max(0, end)])
            at, end = at - len(block), end - len(block)
            if end <= 0:
                break
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def peek(self, at: int, count: int) -> bytes:
        """A copy of `view`."""
        return bytes(self.view(at, count))

    def drop(self, count: int) -> None:
        """Moves the start of the window forward by `count` bytes."""
        self.offset += count
        self._length -= count
        while count and count >= len(self._blocks[0]):
            count -= len(self._blocks.popleft())
        if count:
            self._blocks[0] = self._blocks[0][count:]

    def header(self, at: int = 0) -> int | None:
        """The record length if a valid header starts `at` bytes into the window."""
        place = self.offset + at
        if (
            place != self._last_header[0]
        ):  # readers look at each header twice: as the next one, and as their own
            if not self.need(at + HEADER_BYTES):
                return None
            self._last_header = place, record_length(self.view(at, HEADER_BYTES))
        return self._last_header[1]

    def headers(self) -> tuple[memoryview, list[int]]:
        """The block that the window starts in, and where in it headers of records lie that follow each other without a gap, the
        first at its start. None at all without the native code."""
        if not self._blocks or not native.has_crc():
            return memoryview(b""), []
        block, offsets = self._blocks[0], np.empty(_HEADERS, np.int64)
        assert native.LIBRARY
        count = native.LIBRARY.headers(
            np.frombuffer(block, np.uint8).ctypes.data,
            len(block),
            MAX_RECORD_BYTES,
            offsets.ctypes.data,
            _HEADERS,
        )
        return block, offsets[:count].tolist()

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
