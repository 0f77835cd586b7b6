"""Opening files for reading: as they are, or decompressed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

from apache_beam.io.filesystem import CompressedFile, CompressionTypes

from transforms.storage.reading import Reader
from transforms.storage.stores import is_local, store_of

GZIP_MAGIC = b"\x1f\x8b"
_DISK_BLOCK_BYTES = 1 << 20
_STORE_BLOCK_BYTES = 8 << 20  # a request each


def open_input(path: str, start: int = 0, watch: Callable[[Reader], io.RawIOBase] | None = None):
    """Opens a file for reading at offset `start` of its decompressed bytes.

    Compression goes by the suffix, and gzip also by its first bytes: sharded names often hide the suffix. `watch` may
    put itself between the file's own bytes and their decompression.
    """
    stream: Any
    compression = CompressionTypes.detect_compression_type(path)
    reader = open_unbuffered(path)
    stream = io.BufferedReader(watch(reader) if watch else reader)
    if compression not in (CompressionTypes.UNCOMPRESSED, CompressionTypes.GZIP):
        stream = CompressedFile(stream, compression)
    else:
        zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        if zipped:  # Beam's own reader takes a file that was cut short for one that has ended
            stream = _Gzip(fileobj=stream)
    if start:
        stream.seek(start)
    return stream


def open_unbuffered(path: str, block: int = 0) -> Reader:
    """Opens a file for reading its bytes as they are, for who puts a buffer above it.

    `block` is how many bytes are read at once; 0 for what suits a reading to the end.
    """
    return Reader(path, lambda: store_of(path).open(path), block or block_bytes(path))


def read_head(path: str, count: int) -> bytes:
    """The first bytes of a file as they are, at most `count`, in one read."""
    with open_unbuffered(path, count) as stream:
        return stream.read(count) or b""


def block_bytes(path: str) -> int:
    """How much of a file is read at once."""
    return _DISK_BLOCK_BYTES if is_local(path) else _STORE_BLOCK_BYTES


class _Gzip(gzip.GzipFile):
    """Closes the file below it, too."""

    def close(self) -> None:
        below: Any = self.fileobj
        super().close()
        if below:
            below.close()


def is_compressed(stream) -> bool:
    """Whether offsets in a stream of `open_input` are not offsets in the file."""
    return isinstance(stream, (CompressedFile, gzip.GzipFile))


def open_binary(path: str) -> io.BufferedReader:
    """Opens a file for reading its bytes as they are."""
    return io.BufferedReader(open_unbuffered(path))
