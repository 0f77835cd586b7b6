"""Opening files for reading, raw or decompressed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

from apache_beam.io.filesystem import CompressedFile, CompressionTypes

from transforms.storage.reading import Buffered, Reader
from transforms.storage.stores import is_local, store_of

GZIP_MAGIC = b"\x1f\x8b"
_DISK_BLOCK_BYTES = (
    4 << 20
)  # 4 MiB; each read is handed to another thread, which may have to wait for this one
_STORE_BLOCK_BYTES = 8 << 20  # 8 MiB; one request per block


def open_input(path: str, start: int = 0, watch: Callable[[Reader], io.RawIOBase] | None = None):
    """Opens a file for reading at offset `start` of its decompressed bytes.

    Compression is recognized by the suffix, gzip also by its first bytes: sharded names often hide the suffix. `watch`
    may wrap the raw stream below the decompression.
    """
    stream: Any
    compression = CompressionTypes.detect_compression_type(path)
    reader = open_unbuffered(path)
    stream = Buffered(watch(reader) if watch else reader)
    if compression not in (CompressionTypes.UNCOMPRESSED, CompressionTypes.GZIP):
        stream = CompressedFile(stream, compression)
    else:
        is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        if is_gzip:  # not by Beam's reader, which does not notice that a file was cut short
            stream = _Gzip(fileobj=stream)
    if start:
        stream.seek(start)
    return stream


def open_unbuffered(path: str, block: int = 0) -> Reader:
    """Opens a file for reading its raw bytes, for callers that add a buffer.

    `block` is how many bytes are read at once; 0 for what suits reading to the end.
    """
    return Reader(path, lambda: store_of(path).open(path), block or block_bytes(path))


def read_head(path: str, count: int) -> bytes:
    """The first bytes of a file as they are, at most `count`, in one read."""
    with open_unbuffered(path, count) as stream:
        return stream.read(count) or b""


def block_bytes(path: str) -> int:
    """How many bytes of a file are read at once in sequential reading."""
    return _DISK_BLOCK_BYTES if is_local(path) else _STORE_BLOCK_BYTES


class _Gzip(gzip.GzipFile):
    """Also closes the file below."""

    def close(self) -> None:
        below: Any = self.fileobj
        super().close()
        if below:
            below.close()

    def __del__(self) -> None:
        """Closes nothing; see Reader."""


def is_compressed(stream) -> bool:
    """Whether a stream of `open_input` decompresses, so that its offsets are not offsets in the file."""
    return isinstance(stream, (CompressedFile, gzip.GzipFile))


def open_binary(path: str) -> io.BufferedReader:
    """Opens a file for buffered reading of its raw bytes."""
    return Buffered(open_unbuffered(path))
