"""A file that is checksummed as it is read, and the comparison of a file's identity with an earlier run's."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from transforms.records import checksums
from transforms.storage import door
from transforms.storage.errors import changed_since_planned
from transforms.storage.reading import Reader, Stream

_BLOCK_BYTES = 1 << 20  # 1 MiB


def change(before: Mapping[str, Any], now: Mapping[str, Any], read_again: Any) -> str:
    """The name of a value that differs between the identities `before` and `now` of a file; '' if it is the same file.

    If only the time differs, as after a touch or copy, `read_again()` gives the checksum of the file's bytes now.
    """
    for name in now:
        if name not in ("modified", "crc32c") and before.get(name) != now[name]:
            return name
    if before.get("modified") == now["modified"]:
        return ""
    if not before.get("crc32c"):
        return "modified"
    return "" if read_again() == before["crc32c"] else "crc32c"


@contextlib.contextmanager
def opened(
    uri: str, size_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[BinaryIO, Summed]]:
    """A file's bytes from `start` on, decompressed, and the stream below that checksums what is stored in [start, end)."""
    below: list[Summed] = []

    def watch(reader: Reader) -> Summed:
        below.append(Summed(reader, uri, size_bytes, start, end))
        return below[0]

    with door.open_input(uri, start, watch) as stream:
        yield stream, below[0]


def crc32c(uri: str, size_bytes: int, start: int = 0, end: int | None = None) -> str:
    """The CRC-32C of the bytes in [start, end) of a file, eight hexadecimal digits. Raises StorageFailed."""
    with Summed(door.open_unbuffered(uri), uri, size_bytes, start, end) as summed:
        return summed.finish()


class Summed(Stream):
    """A stream of a file's bytes that checksums those in [start, end), each once, also after seeks.

    Raises StorageFailed if the file's size is not `size_bytes`, its size when the job was planned.
    """

    def __init__(self, reader: Reader, uri: str, size_bytes: int, start: int = 0, end: int | None = None):
        if reader.size != size_bytes:
            reader.close()
            raise changed_since_planned(uri, size_bytes, reader.size)
        self._reader = reader
        self._summed_to = start
        self._end = size_bytes if end is None else min(end, size_bytes)
        reader.until = min(self._end + _BLOCK_BYTES, size_bytes)  # the last record may reach beyond the range
        self._crc = 0

    def finish(self) -> str:
        """The CRC-32C, eight hexadecimal digits; reads the bytes that have not been read yet."""
        while self._summed_to < self._end:
            self._reader.seek(self._summed_to)
            self.readinto(bytearray(min(_BLOCK_BYTES, self._end - self._summed_to)))
        return f"{self._crc:08x}"

    def readinto(self, buffer) -> int:
        """Reads like the file itself; a read that begins beyond the checksummed bytes is left to `finish`."""
        at = self._reader.tell()
        count = self._reader.readinto(buffer)
        self._add(at, memoryview(buffer)[:count])
        return count

    def read_block(self) -> bytes:
        """The next block of the file, however long, without a copy; b"" at the end."""
        at = self._reader.tell()
        block = self._reader.read_block()
        self._add(at, block)
        return block

    def _add(self, at: int, data: bytes | memoryview) -> None:
        low, high = max(self._summed_to - at, 0), min(self._end - at, len(data))
        if at <= self._summed_to and low < high:
            part = data if high - low == len(data) else memoryview(data)[low:high]
            self._crc = checksums.crc32c(part, self._crc)
            self._summed_to = at + high

    mode = "rb"  # which Beam's decompression asks for

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """True: decompression and the search for records move back."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves without reading; returns the new position in bytes."""
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        """The position in the file, in bytes."""
        return self._reader.tell()

    def close(self) -> None:
        """Closes the file below, too."""
        if not self.closed:
            self._reader.close()
            super().close()
