"""Opening files for reading, raw or decompressed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from transforms.storage import compression, packing
from transforms.storage.reading import Buffered, Reader
from transforms.storage.stores import is_local, store_of

_DISK_BLOCK_BYTES = (
    4 << 20
)  # 4 MiB; each read is handed to another thread, which may have to wait for this one
_STORE_BLOCK_BYTES = (
    16 << 20
)  # 16 MiB; one request per block, which costs milliseconds of Python, with the GIL
BLOCKS_AHEAD = 3  # requested in parallel with the one that is waited for: 64 MiB of memory per file


def open_input(
    path: str,
    start: int = 0,
    watch: Callable[[Reader], io.RawIOBase] | None = None,
    until: int | None = None,
) -> Any:
    """Opens a file for reading at offset `start` of its decompressed bytes: see `compression`.

    `watch` may wrap the raw stream below the decompression. `until`: as in `open_binary`, of decompressed bytes.
    """
    reader = open_unbuffered(path)
    raw: Any = Buffered(watch(reader) if watch else reader)
    stream = compression.decompressed(raw)
    if until is not None and not compression.is_compressed(stream):
        reader.until = min(until, reader.size)
    if start:
        stream.seek(start)
    return stream


def check_compression(path: str) -> None:
    """Raises ValueError if a file is compressed in a way that is not read, by its name or its first bytes."""
    packing.check_name(path)
    head = read_head(path, packing.HEAD_BYTES)
    packing.check_bytes(head)
    packing.check_is_as_named(path, head)


def check_is_plain(path: str) -> None:
    """Raises ValueError if a file, which is read at many places, is packed as a whole, by its first bytes."""
    packing.check_is_plain(read_head(path, packing.HEAD_BYTES))


def open_unbuffered(path: str, block: int = 0) -> Reader:
    """Opens a file for reading its raw bytes, for callers that add a buffer.

    `block` is how many bytes are read at once; 0 for what suits reading to the end: from a store, several blocks in parallel.
    """
    store = store_of(path)
    ahead = BLOCKS_AHEAD if store.parallel_reads and not block else 0
    return Reader(path, lambda: store.open(path), block or block_bytes(path), ahead)


def read_head(path: str, count: int) -> bytes:
    """The first bytes of a file as they are, at most `count`, in one read."""
    with open_unbuffered(path, count) as stream:
        return stream.read(count) or b""


def block_bytes(path: str) -> int:
    """How many bytes of a file are read at once in sequential reading."""
    return _DISK_BLOCK_BYTES if is_local(path) else _STORE_BLOCK_BYTES


def open_binary(path: str, until: int | None = None) -> io.BufferedReader:
    """Opens a file for buffered reading of its raw bytes, which is expected to end at the offset `until`."""
    reader = open_unbuffered(path)
    if until is not None:
        reader.until = min(until, reader.size)
    return Buffered(reader)
