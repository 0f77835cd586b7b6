"""Headers of tar archives: ustar, GNU and pax, with what extends them. No Beam."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import NamedTuple

BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 1 << 30  # 1 GiB; the content of a longer member is not held, so that memory stays bounded
_MAX_EXTENSION_BYTES = 1 << 20  # 1 MiB: a long name, or a pax header

# Types of members, each a byte.
_PLAIN, _LINKS, _NO_FILES = (
    b"07\0",
    b"12",
    b"5DV",
)  # the last: folders, lists of what they hold, volume labels
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes
_EXTENSIONS = b"LKxXg"  # GNU's long name and link, pax headers


class Header(NamedTuple):
    """What the header of a member says, together with those that extend it. `size` is that of the content as stored."""

    name: str
    size: int
    type: bytes
    is_sparse: bool

    @property
    def is_file(self) -> bool:
        return self.type not in _NO_FILES

    @property
    def stored_bytes(self) -> int:
        return 0 if self.type in _WITHOUT_CONTENT else self.size

    @property
    def problem(self) -> str:
        """Why the content cannot be had as it stands in the archive; '' if it can."""
        if self.type in _LINKS:
            return "is a link, without content of its own"
        if self.is_sparse:
            return "is a sparse file; pack it without --sparse"
        if self.type not in _PLAIN:
            return f"is not a plain file (type {self.type!r})"
        if self.size > MAX_MEMBER_BYTES:
            return f"has {self.size} bytes, more than {MAX_MEMBER_BYTES}"
        return ""


def has_magic(block: bytes) -> bool:
    """Whether a block has the magic that all headers since 1988 have: ustar, GNU and pax."""
    return block[257:262] == b"ustar"


def parse(block: bytes, read: Callable[[int], bytes], needs_magic: bool) -> Header | None:
    """The header that begins with `block`; None if it is not valid. `read` gives the bytes behind it.

    `needs_magic`: without a magic a header that is shifted by one byte can have the right checksum.
    """
    if needs_magic and not has_magic(block):
        return None
    said: dict[str, str] = {}
    while (info := _info(block)) and info.type in _EXTENSIONS:
        if info.size > _MAX_EXTENSION_BYTES:
            return None
        data = read(info.size)
        read(-info.size % BLOCK_BYTES)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            said["path"] = _text(data.partition(b"\0")[0])
        elif info.type in b"xX":
            try:
                said |= _pax(data)
            except ValueError:
                return None
        block = read(BLOCK_BYTES)
    if info is None:
        return None
    goes_on = info.type == tarfile.GNUTYPE_SPARSE and block[482]
    while goes_on:  # more of the map of a sparse file
        block = read(BLOCK_BYTES)
        goes_on = len(block) == BLOCK_BYTES and block[504]
    size = said.get("size", str(info.size))
    if not size.isdecimal():
        return None
    is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse.") for name in said)
    name = said.get("GNU.sparse.name") or said.get("path") or info.name
    return Header(name, int(size), info.type, is_sparse)


def is_archive(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a tar archive with a magic."""
    return has_magic(head) and _info(head[:BLOCK_BYTES]) is not None


def is_certain(block: bytes) -> bool:
    """Whether this is a header that stands for itself, whatever came before it.

    Behind a damaged extension a name that is too long is cut, and one that is not ASCII may have question marks.
    """
    info = _info(block)
    return info is not None and (info.type in _EXTENSIONS or not (block[99] or b"?" in block[:100]))


def _info(block: bytes) -> tarfile.TarInfo | None:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _pax(data: bytes) -> dict[str, str]:
    """Of the records `length key=value\\n` of a pax header those that are used. Raises ValueError if it is damaged."""
    records: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits)
        if length <= len(digits) + 1:
            raise ValueError("a record without a length")
        record, data = data[len(digits) + 1 : length - 1], data[length:]
        key, _, value = record.partition(b"=")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            records[_text(key)] = _text(value)
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
