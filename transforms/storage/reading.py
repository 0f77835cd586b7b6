"""A file as a stream of bytes that is complete or raises: it resumes where a read failed, and is never cut short."""

from __future__ import annotations

import contextlib
import functools
import io
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from transforms.storage import retrying
from transforms.storage.errors import Changed, CutShort
from transforms.storage.stores import Opened
from transforms.storage.watching import Begun

_LEAST_BYTES = 1 << 20  # 1 MiB, in a request to a store: many a file is only looked into


class Stream(io.RawIOBase):
    """A stream over a file of storage. What nobody closes stays open, unlike the streams of `io`: no finalizer waits for storage.

    The system closes a file that nobody has closed. A stream over another one derives from this, too, or from `Buffered`."""

    def __del__(self) -> None:
        """Closes nothing."""


class Buffered(io.BufferedReader):
    """A buffer on a Stream. Its finalizer, too, leaves the file alone."""

    def __del__(self) -> None:
        """Closes nothing; see Stream."""


class _Begun(NamedTuple):
    """A request for a block that is under way."""

    offset: int
    end: int
    data: Begun[bytes]


class Reader(Stream):
    """Reads a file block by block, with retries. Raises StorageFailed.

    Args:
      path: for messages.
      open_file: opens the file; called again after an error.
      block_bytes: how much to read at once while reading is sequential.
      blocks_ahead: how many more blocks are requested meanwhile, in parallel: a store answers each request late, and sends
        each answer at a limited rate.

    Attributes:
      until: where sequential reading is expected to end: little more than is asked for is requested from there on.
    """

    def __init__(self, path: str, open_file: Callable[[], Opened], block_bytes: int, blocks_ahead: int = 0):
        self._path, self._open_file, self._block_bytes = path, open_file, block_bytes
        self._blocks_ahead = blocks_ahead
        self._file: Opened | None = retrying.call("opening", path, open_file)
        self.size, self._version = self._file.size, self._file.version
        self.until = self.size
        self._position = self._start = 0  # of the next byte to read, and of the block in memory
        self._block = b""
        self._has_read = self._jumps = False
        self._begun: deque[_Begun] = deque()  # in the order of their offsets, without gaps

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
        while not 0 <= self._position - self._start < len(self._block) and self._position < self.size:
            self._fetch(wanted)
        return memoryview(self._block)[max(0, self._position - self._start) :]

    def _fetch(self, wanted: int) -> None:
        """Replaces the block in memory by one that the position lies in, or that ends before it."""
        skipped = self._position - self._start - len(self._block)
        # Frees memory for the next block, and leaves no old bytes after an error.
        self._start, self._block = self._position, b""
        # Skipping from one record's header to the next is sequential where a request takes longer than what lies between.
        is_near = bool(self._blocks_ahead) and not self._jumps and 0 < skipped < self._block_bytes
        is_sequential = not wanted or skipped == 0 or is_near
        self._jumps |= not is_sequential and self._has_read
        is_within = self._position < self.until
        limit = self.until if is_within else self.size
        # The first small read need not be followed by more, nor any where the reader jumps, as those of Parquet do.
        if is_within and (not wanted or (is_sequential and self._has_read and not self._jumps)):
            block = self._block_bytes
            end = limit if self._blocks_ahead else self._position + max(wanted, block)
        else:
            least = min(_LEAST_BYTES, self._block_bytes) if self._blocks_ahead else self._block_bytes
            end = self._position + max(wanted, least if is_sequential else 0)
            block = max(least, -(-wanted // (self._blocks_ahead + 1)))
        self._has_read = True
        self._start, self._block = self._requested(min(end, limit), min(block, self._block_bytes))

    def _requested(self, end: int, block: int) -> tuple[int, bytes]:
        """Where a block that the position lies in starts, and its bytes. Requests ahead, of a block each, go on to `end`."""
        while self._begun and self._begun[0].end <= self._position:
            self._begun.popleft()
        if self._begun and self._begun[0].offset > self._position:
            self._begun.clear()
        if self._blocks_ahead:
            self._begin(end, block)
        begun = self._begun.popleft() if self._begun else None
        start, first = (begun.offset, [begun.data]) if begun else (self._position, [])
        read = functools.partial(self._read, start, (begun.end if begun else end) - start)
        return start, retrying.call("reading", self._path, lambda: read(first.pop() if first else None))

    def _begin(self, end: int, block: int) -> None:
        """Requests blocks until one more than those ahead are under way."""
        while len(self._begun) <= self._blocks_ahead and self._file:
            offset = self._begun[-1].end if self._begun else self._position
            if offset >= end:
                break
            after = min(offset + block, end)
            read = functools.partial(self._file.read_at, offset, after - offset)
            self._begun.append(_Begun(offset, after, Begun(read)))

    def _read(self, offset: int, count: int, begun: Begun[bytes] | None) -> bytes:
        try:
            if self._file is None:
                self._file = self._open_file()
                if (self._file.size, self._file.version) != (self.size, self._version):
                    raise Changed(
                        f"it was changed while it was read: {self.size} bytes before, {self._file.size} now"
                    )
            data = begun.value() if begun else self._file.read_at(offset, min(count, self.size - offset))
            if not data:
                raise CutShort(f"it has {self.size} bytes, but reading ends at {offset}")
            return data
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        file, self._file = self._file, None
        self._begun.clear()
        if file:
            with contextlib.suppress(Exception):
                file.close()

    def close(self) -> None:
        """Gives up a close that hangs, with StorageFailed; its errors are ignored."""
        if not self.closed:
            if self._file:
                retrying.call("closing", self._path, self._drop)  # through `call`, as it may hang
            super().close()
