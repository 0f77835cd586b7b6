"""Compressions and archives that are not read, and files that are not what their names say: told before the job starts."""

from __future__ import annotations

import io
import lzma
import zlib

from transforms.storage.compression import SUFFIXES, decompressed, name_of
from transforms.storage.damage import DAMAGED, BeyondLimit

HEAD_BYTES = 4 << 10  # 4 KiB: enough to tell zlib's streams, which have no real magic, from other bytes
_LZMA_MEMORY_BYTES = 64 << 20  # 64 MiB: with a larger dictionary it is known by the refusal

_NOT_READ_MAGIC = (
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\xff\x06\0\0sNaPpY", "snappy"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"LZIP", "lzip"),
    (b"\x89LZO\0\r\n", "lzop"),
)
_NOT_READ_SUFFIXES = {
    ".deflate": "deflate",
    ".zlib": "zlib",
    ".zz": "zlib",
    ".lz4": "lz4",
    ".snappy": "snappy",
    ".sz": "snappy",
    ".z": "compress (.Z)",
    ".zip": "zip",
    ".7z": "7z",
    ".rar": "rar",
    ".lz": "lzip",
    ".lzma": "lzma",
    ".lzo": "lzop",
    ".br": "brotli",
}


class NotRead(ValueError):
    """A compression or archive format, or a use of one, that is not read; the message names it and says what to do."""


def check_name(path: str) -> None:
    """Raises NotRead if the name of a file is that of a format that is not read."""
    name = path.rpartition("/")[2].lower()
    for suffix, format in _NOT_READ_SUFFIXES.items():
        if name.endswith(suffix):
            raise _not_read(format)


def check_is_as_named(path: str, head: bytes) -> None:
    """Raises ValueError if a file whose name says bzip2, xz or zstd is not compressed at all, by its first bytes.

    Not for gzip: some clients undo it on the way, and keep the name.
    """
    if head and not name_of(head) and path.lower().endswith(tuple(set(SUFFIXES) - {".gz"})):
        raise ValueError(
            "its name says that it is compressed, but its first bytes do not: make or copy it again, or give it another name"
        )


def check_bytes(head: bytes) -> None:
    """Raises NotRead if the first bytes of a file, as they are, are those of a format that is not read."""
    if format := _not_read_format(head):
        raise _not_read(format)
    try:
        decompressed(io.BytesIO(head)).read(1)
    except BeyondLimit as error:
        raise NotRead(str(error)) from error
    except DAMAGED:
        return  # as will be said of the whole


def check_is_plain(head: bytes) -> None:
    """Raises NotRead if the first bytes of a file, which must not be packed as a whole, say that it is, in whatever way."""
    if format := name_of(head) or _not_read_format(head):
        raise NotRead(
            f"it is packed as {format}, and a file of this kind is read at many places, so it must not be packed as a whole: "
            "unpack it"
        )


def _not_read_format(head: bytes) -> str:
    if head[4:8] == bytes(4):  # as in the length of a TFRecord, which may begin like any short magic
        return ""
    by_magic = (format for magic, format in _NOT_READ_MAGIC if head.startswith(magic))
    return next(by_magic, "zlib" if _is_zlib(head) else "lzma" if _is_lzma(head) else "")


def _not_read(format: str) -> NotRead:
    return NotRead(
        f"it is packed as {format}, which this job does not read: unpack it, or pack it with gzip, bzip2, xz or zstd"
    )


def _is_zlib(head: bytes) -> bool:
    """Whether bytes begin a stream of zlib: its header, which other bytes may have, and data that unpacks."""
    if len(head) < 8 or head[0] & 15 != 8 or head[0] >> 4 > 7 or (head[0] << 8 | head[1]) % 31:
        return False
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(head, HEAD_BYTES)
        return bool(data) and (stream.eof or len(data) == HEAD_BYTES or len(head) >= 64)
    except zlib.error:
        return False


def _is_lzma(head: bytes) -> bool:
    """Whether bytes begin a stream of lzma alone: what all tools write by default, a dictionary, and data that unpacks."""
    if not head.startswith(b"\x5d\0\0"):
        return False
    try:
        return bool(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY_BYTES).decompress(head, 1))
    except lzma.LZMAError as error:
        return "memory" in str(error).lower()
