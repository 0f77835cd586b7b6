"""Tar archives: members in order, streamed, with damage reported and stepped over. No Beam.

A member is a header of 512 bytes, which holds a checksum of itself, then the content, padded with zeros to a multiple of 512;
blocks of zeros end an archive (POSIX.1-2017, pax, "ustar Interchange Format"). Nothing sums up the content: a member counts as
intact if the next header, or the end of the archive, stands where its size says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from transforms.records import tar_headers
from transforms.records.tar_headers import BLOCK_BYTES
from transforms.records.tfrecord import Damage
from transforms.storage.damage import DAMAGED

NO_HEADER, NO_END, ZEROS = "no valid tar header", "the archive ends without its end mark", "zeros, no members"
CUT, MISPLACED = "the file ends inside a member", "no tar header where the size of a member says"
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_END_BLOCKS_MAX = (
    21  # two, then zeros up to a multiple of 20 blocks: GNU's record, which other writers follow
)
_READ_BYTES = 1 << 20  # 1 MiB


class Member(NamedTuple):
    """A member that is not a folder; `offset` is where its first header starts, in the decompressed archive."""

    offset: int
    name: str
    data: bytes | None = None  # None if it was not wanted, or there is a problem
    problem: str = ""  # why its content cannot be had


def read(stream: BinaryIO, wants: Callable[[str], bool]) -> Iterator[Member | Damage]:
    """Yields the members of an archive, or of several in one file, and the damage between them, by offset.

    Args:
      stream: a seekable binary file, at its start. It is read straight on; only damage makes it seek.
      wants: whether the content of the member of this name is to be held. Asked once all before it has been yielded.
    """
    source = _Source(stream)
    last: _Last | None = None  # yielded once it is known to be intact
    has_magic = False  # of the header before
    while True:
        zeros = 0
        while (block := source.read(BLOCK_BYTES)) == _ZERO_BLOCK:
            zeros += 1
        start = source.offset - len(block)
        is_end_mark = zeros in range(2 if block else 1, _END_BLOCKS_MAX + 1)
        empty = 0 if is_end_mark else zeros * BLOCK_BYTES  # where members may have been
        is_over = not block and (last is None or start >= last.end) and (zeros or source.broken)
        header = tar_headers.parse(block, source.read, has_magic)
        if header is None and not is_over:
            # Bytes may be missing from `last`, so that the next header was read as its content.
            can_search = not source.broken and (last or block)
            found = source.find(last.begin if last else start, start) if can_search else None
            stop = source.offset if found is None else found
            reason = f"the compressed file is damaged ({source.broken})" if source.broken else ""
            if last and not source.holds(last, found):
                start, reason = last.member.offset, reason or (CUT if found is None else MISPLACED)
            else:
                if last:
                    yield last.member
                reason = reason or (MISPLACED if stop < start else NO_HEADER if block else NO_END)
                start = min(start - empty, stop)
            yield Damage(start, stop - start, reason)
            if found is None:
                return
            last = None
            continue
        if last:
            yield last.member
        if empty:
            yield Damage(start - empty, empty, ZEROS)
        if header is None:
            if source.broken:
                yield Damage(start, 0, f"the compressed file is damaged from here on ({source.broken})")
            return
        has_magic = tar_headers.has_magic(block)
        begin, size = source.offset, header.stored_bytes
        is_wanted = header.is_file and not header.problem and wants(header.name)
        data = source.read(size) if is_wanted else None
        if data is None:
            source.skip(size)
        padding = source.read(-size % BLOCK_BYTES)
        member = Member(start, header.name, data, header.problem)
        last = _Last(member, begin, begin + size, padding) if header.is_file else None


class _Last(NamedTuple):
    """A member that has been read, until it is known whether what follows is in its place."""

    member: Member
    begin: int  # of its content
    end: int
    padding: bytes


class _Source:
    """The bytes of an archive, as far as they can be read."""

    def __init__(self, stream: Any):
        self._stream = stream
        # What reads once gives what there is before it meets damage; `read` would lose that with the error.
        self._read = getattr(stream, "read1", stream.read)
        self.offset = 0
        self.broken = ""  # why the compressed stream could not be read on

    def _pieces(self, count: int) -> Iterator[bytes]:
        """In pieces, so that memory grows with what is read, not with what a header says."""
        while count > 0 and not self.broken:
            try:
                piece = self._read(min(count, _READ_BYTES))
            except DAMAGED as error:
                self.broken, piece = str(error) or type(error).__name__, b""
            if not piece:
                return
            count -= len(piece)
            self.offset += len(piece)
            yield piece

    def read(self, count: int) -> bytes:
        """`count` bytes; fewer where no more can be read."""
        return b"".join(self._pieces(count))

    def skip(self, count: int) -> None:
        """Reads on without holding what is read."""
        for _ in self._pieces(count):
            pass

    def holds(self, last: _Last, found: int | None) -> bool:
        """Whether a member is intact as far as can be told, where the header behind it is at `found` or missing."""
        if (self.offset if found is None else found) < last.end:
            return False
        whole = last.end + -(last.end - last.begin) % BLOCK_BYTES
        if found is None or found >= whole:  # where the content has grown, its end stands in the padding
            return not last.padding.strip(b"\0")
        # Some bytes are missing. Where they are of the content, padding stands at its end.
        self._seek(max(last.begin, last.end - (whole - found)))
        has_end = bool(self.read(last.end - self.offset).strip(b"\0"))
        self._seek(found)
        return has_end

    def find(self, start: int, tried: int) -> int | None:
        """Goes to the first header from `start` on, at whatever byte but `tried`, or to the end: None if there is none."""
        self._seek(start)
        window = b""
        while more := self.read(_READ_BYTES):
            window = window[1 - BLOCK_BYTES :] + more  # a header may lie across the border
            at = 256
            while (at := window.find(b"ustar", at + 1)) >= 0:
                offset = self.offset - len(window) + at - 257
                if offset != tried and tar_headers.is_certain(window[at - 257 : at - 257 + BLOCK_BYTES]):
                    self._seek(offset)
                    return offset
        return None

    def _seek(self, offset: int) -> None:
        self._stream.seek(offset)
        self.offset = offset
