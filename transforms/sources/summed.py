"""A file that is read and summed up at once, and the comparison of a file's identity with that of an earlier run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from transforms.storage import door
from transforms.storage.errors import StorageFailed
from transforms.storage.reading import Reader

_BLOCK_BYTES = 1 << 20  # 1 MiB


def change(before: Mapping[str, Any], now: Mapping[str, Any], read_again: Any) -> str:
    """Which part of the identity `before` a file no longer has, now that it has the identity `now`; '' if it is the same.

    A file with another time, as one that was touched or copied has, is summed up by `read_again()`, to see whether its
    bytes are the same.
    """
    for name in now:
        if name not in ("modified", "crc32c") and before.get(name) != now[name]:
            return name
    if before.get("modified") == now["modified"]:
        return ""
    if not before.get("crc32c"):
        return "modified"
    return "" if read_again() == before["crc32c"] else "crc32c"


def crc32c(uri: str, size_bytes: int, start: int = 0, end: int | None = None) -> str:
    """The sum of the bytes in [start, end) of a file, eight hexadecimal digits."""
    with Summed(door.open_unbuffered(uri), uri, size_bytes, start, end) as summed:
        return summed.finish()


class Summed(io.RawIOBase):
    """The bytes of a file, which sums up those in [start, end), each once, in whatever order they are read.

    Raises StorageFailed if the file does not have the size that it was planned with.
    """

    def __init__(self, reader: Reader, uri: str, size_bytes: int, start: int = 0, end: int | None = None):
        if reader.size != size_bytes:
            raise StorageFailed(
                f"reading {uri} failed: it has changed since the job was planned, "
                f"{size_bytes} bytes then, {reader.size} now; run the same command again",
                uri,
                None,
            )
        self._reader = reader
        self._summed_to = start
        self._end = size_bytes if end is None else min(end, size_bytes)
        self._crc = 0

    def finish(self) -> str:
        """The sum, eight hexadecimal digits; reads what has not been read."""
        while self._summed_to < self._end:
            self._reader.seek(self._summed_to)
            self.readinto(bytearray(min(_BLOCK_BYTES, self._end - self._summed_to)))
        return f"{self._crc:08x}"

    def readinto(self, buffer) -> int:
        at = self._reader.tell()
        count = self._reader.readinto(buffer)
        low, high = max(self._summed_to - at, 0), min(self._end - at, count)
        if at <= self._summed_to and low < high:
            # An array, for the extension takes no memoryview, and bytes would be a copy.
            data: Any = np.frombuffer(memoryview(buffer)[low:high], np.uint8)
            self._crc = google_crc32c.extend(self._crc, data)
            self._summed_to = at + high
        return count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
            super().close()
