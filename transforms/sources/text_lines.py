"""Lines of text lists as UTF-8, whatever the file's compression, encoding and line ends are.

Offsets count bytes of the decompressed text in UTF-8, so that they mean the same to the launcher and the workers.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any

from transforms.sources.base import BadInput
from transforms.storage import door
from transforms.storage.damage import Damaged
from transforms.storage.reading import Buffered, Stream

MARK = codecs.BOM_UTF8
# UTF-32's first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 4 << 10  # 4 KiB
_READ_BYTES = 1 << 20  # 1 MiB


def opened(path: str, until: int | None = None) -> Any:
    """Opens a list at its start, as a seekable stream of UTF-8: without a mark of UTF-16 or UTF-32, its bytes are unchanged.

    `until`: where reading is expected to end."""
    stream = door.open_input(path, until=until)
    head = door.head(stream, len(codecs.BOM_UTF32_LE))
    stream.seek(0)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    return Buffered(_Transcoded(stream, encoding), _READ_BYTES) if encoding else stream


def check_encoding(path: str, stream: Any) -> None:
    """Raises BadInput for UTF-16 and UTF-32 without a byte-order mark; leaves the stream at its start."""
    head = door.head(stream, _HEAD_BYTES)
    stream.seek(0)
    zeros = [head[at::4].count(0) / max(1, len(head[at::4])) for at in range(4)]
    zero = sum(share > 0.5 for share in zeros)  # of ASCII, 2 of 4 bytes are zero in UTF-16, 3 of 4 in UTF-32
    if zero >= 2 or b"\n\0" in head or b"\0\n" in head:
        raise BadInput(
            f"{path} looks like {'UTF-32' if zero == 3 else 'UTF-16'} without a byte-order mark, as it has zero bytes where "
            "letters or line ends would be: save it as UTF-8, or with a byte-order mark"
        )


class _Transcoded(Stream):
    """A stream of UTF-16 or UTF-32 with a byte-order mark, as UTF-8 without it. Moves back by beginning again."""

    def __init__(self, stream: Any, encoding: str):
        self._stream, self._encoding = stream, encoding
        self._restart()

    def _restart(self) -> None:
        self._stream.seek(0)
        # Half a pair of surrogates stays what it is; only what no code unit can be is an error.
        self._decoder: Any = codecs.getincrementaldecoder(self._encoding)("surrogatepass")
        self._ready, self._position, self._is_over = b"", 0, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        while not self._ready and not self._is_over:
            data = self._stream.read1(_READ_BYTES)
            self._is_over = not data
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise Damaged(f"it is no {self._encoding.upper()} there ({error.reason})") from error
            self._ready = text.encode("utf-8", "surrogatepass")
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the size in UTF-8 is known only once all has been read")
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if target <= self._position:  # also where it stands: what is no text there has been read already
            self._restart()
        while self._position < target and self.read(min(_READ_BYTES, target - self._position)):
            pass
        return self._position

    def close(self) -> None:
        """Also closes the file below."""
        if not self.closed:
            self._stream.close()
            super().close()


def lines(stream: Any, limit: int | None = None) -> Iterator[bytes]:
    """The lines of the next `limit` bytes of a stream, with their ends: LF, CRLF or CR alone."""
    pieces: list[bytes] = []  # of a line whose end has not been read
    while block := stream.read1(_READ_BYTES if limit is None else min(_READ_BYTES, limit)):
        if limit is not None:
            limit -= len(block)
        if b"\n" not in block and b"\r" not in block and not (pieces and pieces[-1].endswith(b"\r")):
            pieces.append(block)
            continue
        complete = b"".join((*pieces, block)).splitlines(keepends=True)  # of bytes: at LF, CRLF and CR alone
        # A CR at the end may be half of CRLF.
        pieces = [] if complete[-1].endswith(b"\n") else [complete.pop()]
        yield from complete
    if pieces:
        yield b"".join(pieces)
