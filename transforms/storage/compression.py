"""Compressed inputs: told by their first bytes, since sharded names often hide the suffix, and read as one stream.

A file may hold several members one after the other, as `cat` and parallel compressors make them. What is behind the last
one and is not zeros is damage: it may be a member whose first bytes were lost.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from backports import zstd

from transforms.storage.damage import DAMAGED, BeyondLimit, Damaged
from transforms.storage.reading import Buffered, Stream

_MAGIC_BYTES = 16
_READ_BYTES = 256 << 10  # 256 KiB, compressed
_XZ_MEMORY_BYTES = 1 << 30  # 1 GiB: what a file may ask for; `xz -9` needs 65 MiB
_ZSTD_WINDOW_LOG = (
    31  # 2 GiB, the most that zstd writes (`--long=31`); memory is used as far as the data fill it
)


class _Format(NamedTuple):
    name: str
    magic: re.Pattern[bytes]
    decompressor: Callable[[], Any]


_FORMATS = (
    _Format("bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), bz2.BZ2Decompressor),
    _Format(
        "xz",
        re.compile(rb"\xfd7zXZ\0"),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
    ),
    _Format(
        "zstd",
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL),
        functools.partial(
            zstd.ZstdDecompressor, options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        ),
    ),
)
_GZIP_MAGIC = b"\x1f\x8b\x08"
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")


def name_of(head: bytes) -> str:
    """The compression that the first bytes of a file are of, if it is one that is read; '' for other bytes."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    return next((format.name for format in _FORMATS if format.magic.match(head)), "")


def decompressed(stream: BinaryIO) -> Any:
    """A stream of the decompressed bytes of a seekable `stream`, which is at its start; `stream` itself if they are plain.

    Reading raises one of DAMAGED where the data is damaged or cut short, after all that precedes it has been read.
    """
    head = stream.read(_MAGIC_BYTES)
    stream.seek(0)
    if head.startswith(_GZIP_MAGIC):
        return _Gzip(fileobj=stream)
    for format in _FORMATS:
        if format.magic.match(head):
            return Decompressed(_Members(stream, format), _READ_BYTES)
    return stream


class _Gzip(gzip.GzipFile):
    """Also closes the file below."""

    def close(self) -> None:
        below: Any = self.fileobj
        super().close()
        if below:
            below.close()

    def __del__(self) -> None:
        """Closes nothing; see Stream."""


class Decompressed(Buffered):
    """The decompressed bytes of a file's members."""


class _Members(Stream):
    """The raw stream below `Decompressed`. Moves back by beginning again, and forward by reading."""

    def __init__(self, stream: BinaryIO, format: _Format):
        self._stream, self._format = stream, format
        self._decompressor = format.decompressor()
        self._position = 0
        self._is_over = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        """Reads some bytes; 0 at the end. Raises Damaged."""
        data = self._next(len(buffer)) if len(buffer) else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next(self, count: int) -> bytes:
        while not self._is_over:
            data = b""
            if self._decompressor.eof:
                data = self._after_member(self._decompressor.unused_data)
                if not data:
                    self._is_over = True
                    return b""
                self._decompressor = self._format.decompressor()
            elif self._decompressor.needs_input:
                data = self._stream.read(_READ_BYTES)
                if not data:
                    raise Damaged(f"the {self._format.name} data ends early")
            try:
                out = self._decompressor.decompress(data, count)
            except (OSError, ValueError, EOFError, lzma.LZMAError, zstd.ZstdError) as error:
                raise _unreadable(self._format.name, error) from error
            if out:
                return out
        return b""

    def _after_member(self, data: bytes) -> bytes:
        """The beginning of the next member, after zeros; b"" if there is none."""
        while not (data := data.lstrip(b"\0")):
            if not (data := self._stream.read(_READ_BYTES)):
                return b""
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Returns the new position, which is the end if `offset` is beyond it."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the size of compressed data is known only once it has been read")
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if target <= self._position:  # also where it stands: what is damaged there has been read already
            self._stream.seek(0)
            self._decompressor, self._position, self._is_over = self._format.decompressor(), 0, False
        while self._position < target and (data := self._next(min(target - self._position, _READ_BYTES))):
            self._position += len(data)
        return self._position

    def close(self) -> None:
        """Also closes the file below."""
        if not self.closed:
            self._stream.close()
            super().close()


def _unreadable(name: str, error: Exception) -> Damaged:
    if "memory" in str(error).lower():  # as xz and zstd say, which have no code for it
        return BeyondLimit(
            f"the {name} data takes more memory to unpack than there is for it ({error}): pack it again with less, as "
            f"`{name} -9` does"
        )
    return Damaged(f"the {name} data is damaged: {error}")


def is_compressed(stream: Any) -> bool:
    """Whether a stream is one that decompresses, so that its offsets are not offsets in the file."""
    return isinstance(stream, (Decompressed, gzip.GzipFile))


def head(stream: Any, count: int) -> bytes:
    """The first bytes of a stream, as far as they can be read: damage behind them is none of theirs."""
    parts: list[bytes] = []
    while count > 0:
        try:  # what reads once gives what there is before it meets damage; `read` would lose that
            part = stream.read1(count)
        except DAMAGED:
            break
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
