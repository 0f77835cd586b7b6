"""A file as a stream of bytes that is complete or raises: it resumes where a read failed, and is never cut short."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

from transforms.storage import retrying
from transforms.storage.errors import Changed, CutShort
from transforms.storage.stores import Opened


class Stream(io.RawIOBase):
    """A stream over a file of storage. What nobody closes stays open, unlike the streams of `io`: no finalizer waits for storage.

    The system closes a file that nobody has closed. A stream over another one derives from this, too, or from `Buffered`."""

    def __del__(self) -> None:
        """Closes nothing."""


class Buffered(io.BufferedReader):
    """A buffer on a Stream. Its finalizer, too, leaves the file alone."""

    def __del__(self) -> None:
        """Closes nothing; see Stream."""


class Reader(Stream):
    """Reads a file block by block, with retries. Raises StorageFailed.

    Args:
      path: for messages.
      open_file: opens the file; called again after an error.
      block_bytes: how much to read at once while reading is sequential.
    """

    def __init__(self, path: str, open_file: Callable[[], Opened], block_bytes: int):
        self._path, self._open_file, self._block_bytes = path, open_file, block_bytes
        self._file: Opened | None = retrying.call("opening", path, open_file)
        self.size, self._version = self._file.size, self._file.version
        self._position = self._start = 0  # of the next byte to read, and of the block in memory
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves without a request; returns the new position in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        """Reads from the block in memory, after fetching the next block if that is used up."""
        data = self._available(len(buffer))[: len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read_block(self) -> bytes:
        """The rest of the block in memory, or the next block, without a copy; b"" at the end."""
        data = self._available(0)
        block = self._block if len(data) == len(self._block) else bytes(data)
        self._position += len(block)
        return block

    def _available(self, wanted: int) -> memoryview:
        """The bytes in memory from the position on, after fetching some if there are none."""
        at = self._position - self._start
        if not 0 <= at < len(self._block) and self._position < self.size:
            count = max(wanted, self._block_bytes) if at == len(self._block) or not wanted else wanted
            self._start, at = self._position, 0
            self._block = retrying.call("reading", self._path, lambda: self._read(self._start, count))
        return memoryview(self._block)[at:] if 0 <= at <= len(self._block) else memoryview(b"")

    def _read(self, offset: int, count: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._open_file()
                if (self._file.size, self._file.version) != (self.size, self._version):
                    raise Changed(
                        f"it was changed while it was read: {self.size} bytes before, {self._file.size} now"
                    )
            data = self._file.read_at(offset, min(count, self.size - offset))
            if not data:
                raise CutShort(f"it has {self.size} bytes, but reading ends at {offset}")
            return data
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(Exception):
                file.close()

    def close(self) -> None:
        """Gives up a close that hangs, with StorageFailed; its errors are ignored."""
        if not self.closed:
            if self._file:
                retrying.call("closing", self._path, self._drop)  # through `call`, as it may hang
            super().close()
