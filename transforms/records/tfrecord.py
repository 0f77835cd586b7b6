"""Reading and writing TFRecord files; damage is reported and skipped. No Beam, no TensorFlow."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from transforms.records.framing import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Readable,
    Window,
    is_sum_of,
    masked_crc,
    record_length,
)

NO_HEADER = "no valid record header"
WRONG_CHECKSUM = "wrong data checksum"


class Record(NamedTuple):
    """One record; `offset` is the start of its header, in bytes of the (decompressed) file.

    `crc` is the stored checksum of `data` if they were not compared yet, else b"".
    """

    offset: int
    data: bytes | memoryview
    crc: bytes = b""


@dataclass(frozen=True)
class Damage:
    """A range of bytes that holds no intact record."""

    offset: int
    length: int
    reason: str


def frame(data: bytes) -> bytes:
    """The bytes of one record as stored in a TFRecord file."""
    return b"".join((_header(len(data)), data, struct.pack("<I", masked_crc(data))))


@functools.lru_cache(4096)
def _header(length: int) -> bytes:
    data = struct.pack("<Q", length)
    return data + struct.pack("<I", masked_crc(data))


def read(
    stream: Readable, start: int = 0, end: int | None = None, aligned: bool = False, check: bool = True
) -> Iterator[Record | Damage]:
    """Yields the records that start in [start, end), and the damage between them.

    Args:
      stream: a readable binary file, positioned at `start`.
      start: offset of the stream's position. If it is not 0, it may lie inside a record: reading begins at the next
        valid header, unless `aligned`.
      end: records that start here or later belong to the next range; None for the end of the file. Damage after the
        last record is reported, unless `aligned`: the next range takes it for the rest of that record.
      aligned: `start` is the beginning of a record or of damage, as `starts` yields them.
      check: whether to compare the data of each record with its checksum. If not, most records have views of the blocks
        read as their data, and a checksum; a caller that finds it wrong has found the damage that would be yielded here,
        `WRONG_CHECKSUM`. (Where the reader has to know to find the next record, it compares them all the same.)
    """
    window = Window(stream, start)
    if start and not aligned:
        window.skip_to_header()
    while end is None or window.offset < end or (not aligned and window.header() is None):
        if not check:
            yield from _followed(window, end)
        offset, length = window.offset, window.header()
        if length is None:
            if not window.need(1):
                if window.broken:
                    yield Damage(offset, 0, f"the compressed file is damaged from here on ({window.broken})")
                return
            window.skip_to_header()
            yield Damage(offset, window.offset - offset, NO_HEADER)
            continue
        size = HEADER_BYTES + length + FOOTER_BYTES
        if window.need(size):
            data_and_crc = window.view(HEADER_BYTES, length + FOOTER_BYTES)
            data, crc = data_and_crc[:length], bytes(data_and_crc[length:])
            is_trusted = not check and (end is None or offset + size < end) and _goes_on(window, size)
            is_trusted = is_trusted and not window.broken
            if is_trusted or is_sum_of(crc, data):
                window.drop(size)
                yield Record(offset, data, crc) if is_trusted else Record(offset, bytes(data))
                continue
            reason = WRONG_CHECKSUM
            # If bytes are missing, the length points past the next header.
            is_length_right = _goes_on(window, size)
        else:
            reason = f"the compressed file is damaged ({window.broken})" if window.broken else "the file ends"
            reason += f" inside a record of {size} bytes"
            is_length_right = False
        window.drop(size if is_length_right else 1)
        if not is_length_right:
            window.skip_to_header()
        yield Damage(offset, window.offset - offset, reason)
        if window.broken and not window.need(1):
            return


def _followed(window: Window, end: int | None) -> Iterator[Record]:
    """The next records in the window's first block that another one follows there, up to the last that starts before `end`."""
    if window.broken:
        return
    block, headers = window.headers()
    at = 0
    for start, following in itertools.pairwise(headers):
        if end is not None and window.offset + following >= end:
            break
        crc = following - FOOTER_BYTES
        yield Record(window.offset + start, block[start + HEADER_BYTES : crc], bytes(block[crc:following]))
        at = following
    window.drop(at)


def _goes_on(window: Window, size: int) -> bool:
    """Whether another record, or the end of the file, follows `size` bytes into the window."""
    return window.header(size) is not None or len(window) == size


def starts(stream: BinaryIO, size_bytes: int) -> Iterator[int]:
    """The offset of each record and each damage that `read` yields for a complete uncompressed file.

    Seeks from header to header; only after damage are the bytes searched for the next one.
    """
    offset, length = 0, _length_at(stream, 0)
    while offset < size_bytes:
        yield offset
        following = offset if length is None else offset + HEADER_BYTES + length + FOOTER_BYTES
        after = _length_at(stream, following) if offset < following < size_bytes else None
        # As in `read`: the length of a damaged record is trusted if a header or the end of the file follows.
        if length is None or (
            after is None and following != size_bytes and not _is_intact(stream, offset, length)
        ):
            at = offset + (length is not None)
            stream.seek(at)
            window = Window(stream, at)
            window.skip_to_header()
            offset, length = window.offset, window.header()
        else:
            offset, length = following, after


def _length_at(stream: BinaryIO, offset: int) -> int | None:
    stream.seek(offset)
    header = stream.read(HEADER_BYTES)
    return record_length(header) if len(header) == HEADER_BYTES else None


def _is_intact(stream: BinaryIO, offset: int, length: int) -> bool:
    stream.seek(offset + HEADER_BYTES)
    data, crc = stream.read(length), stream.read(FOOTER_BYTES)
    return len(data) == length and is_sum_of(crc, data)
