"""What tells whether an input is still the one that a shard was made of: its size, its time, and a sum of its bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np

from transforms.elements import RecordFile, Shard
from transforms.storage import door
from transforms.storage.errors import StorageFailed
from transforms.storage.reading import Reader

_BLOCK_BYTES = 1 << 20


def input_identity(shard: Shard) -> dict[str, Any]:
    """What a shard is made of. The sum of a record file's bytes is '' until they have been read."""
    source = shard.source
    if isinstance(source, RecordFile):
        known = {"size_bytes": source.size_bytes, "modified": source.modified, "crc32c": source.crc32c}
        cut = {"start": source.start, "end": source.end, "first": source.first}
        return known | (cut if source.end is not None else {})
    return {"start": source.start, "end": source.end, "rows": source.rows, "sha256": source.sha256}


def same_bytes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities, both of inputs that have been read, are of the same content."""
    summed = bool(one.get("crc32c")) and bool(other.get("crc32c"))
    return _without_time(one) == _without_time(other) if summed else dict(one) == dict(other)


def change(before: Mapping[str, Any], shard: Shard) -> str:
    """Which part of the identity `before` an input no longer has; '' if it is the same input.

    A file with another time, as one that was touched or copied has, is read to see whether its bytes are the same.
    """
    now = input_identity(shard)
    for name in now:
        if name not in ("modified", "crc32c") and before.get(name) != now[name]:
            return name
    if not isinstance(shard.source, RecordFile) or before.get("modified") == now["modified"]:
        return ""
    if not before.get("crc32c"):
        return "modified"
    return "" if read_again(shard.source).crc32c == before["crc32c"] else "crc32c"


def read_again(source: RecordFile) -> RecordFile:
    """The record file with the sum of its bytes."""
    with Summed(door.open_unbuffered(source.uri), source) as summed:
        return summed.finish()


def _without_time(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name != "modified"}


class Summed(io.RawIOBase):
    """The bytes of a record file, which sums up those of its range, each once, in whatever order they are read.

    Raises StorageFailed if the file does not have the size that it was planned with.
    """

    def __init__(self, reader: Reader, source: RecordFile):
        if reader.size != source.size_bytes:
            raise StorageFailed(
                f"reading {source.uri} failed: it has changed since the job was planned, "
                f"{source.size_bytes} bytes then, {reader.size} now; run the same command again",
                source.uri,
                None,
            )
        self._reader, self._source = reader, source
        self._summed_to = source.start
        self._end = source.size_bytes if source.end is None else min(source.end, source.size_bytes)
        self._crc = 0

    def finish(self) -> RecordFile:
        """The record file with its sum; reads what has not been read."""
        while self._summed_to < self._end:
            self._reader.seek(self._summed_to)
            self.readinto(bytearray(min(_BLOCK_BYTES, self._end - self._summed_to)))
        return replace(self._source, crc32c=f"{self._crc:08x}")

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
