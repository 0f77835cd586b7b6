"""The files of a shard: their sizes and checksums are computed on writing and compared on reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transforms.records.checksums import crc32c
from transforms.storage import door

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileSummary:
    """The name, size and checksum of a committed file."""

    name: str
    bytes: int
    crc32c: str  # of the complete file, eight hexadecimal digits


class FileWriter:
    """Writes the future file `name` to a temporary `path`, with its size and checksum."""

    def __init__(self, path: str, name: str):
        self._path = path
        self._name = name
        self._bytes = self._crc = 0
        self._stream = door.create(path)

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        self._stream.write(data)
        self._bytes += len(data)
        self._crc = crc32c(data, self._crc)

    def close(self) -> None:
        """Closes the file; its bytes are durable afterwards."""
        door.close_durably(self._stream, self._path)

    def discard(self) -> None:
        """Closes and deletes the file."""
        door.discard(self._stream, self._path)

    def summary(self) -> FileSummary:
        """The size and checksum of what was written so far."""
        return FileSummary(self._name, self._bytes, f"{self._crc:08x}")


@dataclass
class CheckedStream:
    """A stream that, read to its end, can be compared with the summary of its file."""

    stream: Any
    size: int = field(default=0, init=False)
    crc: int = field(default=0, init=False)

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; none at the end."""
        data = self.stream.read(count)
        self.size += len(data)
        self.crc = crc32c(data, self.crc)
        return data

    def difference(self, file: FileSummary) -> str:
        """How the bytes read differ from the receipt's summary; '' if they do not."""
        if self.size != file.bytes:
            return f"{self.size} bytes, the receipt says {file.bytes}"
        if f"{self.crc:08x}" != file.crc32c:
            return f"CRC-32C {self.crc:08x}, the receipt says {file.crc32c}"
        return ""


class CheckedBlocks(CheckedStream):
    """The same over a stream of `door.open_unbuffered`: its blocks pass without a copy."""

    def read_block(self) -> bytes:
        """The next block of a stream of `door.open_unbuffered`, without a copy; none at the end."""
        data = self.stream.read_block()
        self.size += len(data)
        self.crc = crc32c(data, self.crc)
        return data


def is_complete(path: str, file: FileSummary) -> bool:
    """Whether a file exists with the right size and checksum."""
    if not door.exists(path):
        return False
    with door.open_binary(path) as stream:
        checked = CheckedStream(stream)
        while checked.read(_BLOCK_BYTES):
            pass
    return not checked.difference(file)
