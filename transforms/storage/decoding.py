"""Undoes the Content-Encoding of an answer or of a stored object, with a limit on the size of the result."""

from __future__ import annotations

import sys
import zlib

from transforms.storage.errors import Fault

_ZLIB, _RAW = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS  # | 32: gzip or zlib, by its header
_GZIP_MAGIC = b"\x1f"
_INFLATED = frozenset(("gzip", "x-gzip", "deflate"))
# The other codings in IANA's registry. Any other token, such as a charset, stands for no change of the bytes.
_UNSUPPORTED = frozenset(
    ("aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd")
)
_MOST_LAYERS = 4


class Decoder:
    """Undoes all codings of a Content-Encoding while the bytes arrive; falsy if there is none to undo.

    Raises Fault 'bad_response' for a coding that is not supported.
    """

    def __init__(self, content_encoding: str, max_bytes: float):
        names = [token.partition(";")[0].strip().lower() for token in content_encoding.split(",")]
        for name in names:
            if name in _UNSUPPORTED:
                raise Fault("bad_response", f"Content-Encoding {name!r}, which is not supported")
        layers = [name for name in names if name in _INFLATED]
        if len(layers) > _MOST_LAYERS:
            raise Fault("bad_response", f"a Content-Encoding of {len(layers)} layers")
        self._layers = [_Inflater(max_bytes, name == "deflate") for name in reversed(layers)]

    def __bool__(self) -> bool:
        return bool(self._layers)

    def decode(self, data: bytes) -> bytes:
        """The decoded bytes of the next part. Raises Fault 'bad_response' or 'too_large'."""
        for layer in self._layers:
            data = layer.inflate(data)
        return data

    def finish(self) -> None:
        """Raises Fault 'truncated' if the parts so far do not end with complete data."""
        if not all(layer.complete for layer in self._layers):
            raise Fault("truncated", "a compressed body that ends early", transient=True)


class _Inflater:
    """Inflates gzip (also of several members), zlib, or, for `raw_too`, deflate without zlib's header.

    `complete` is whether the data so far is empty or ends with a complete member.
    """

    def __init__(self, max_bytes: float, raw_too: bool):
        self._limit = int(min(max_bytes, sys.maxsize - 1))
        self._size = self._members = 0
        self._head: bytes | None = b"" if raw_too else None  # what may have to be read again as raw deflate
        self._stream = zlib.decompressobj(_ZLIB)
        self.complete = True

    def inflate(self, data: bytes) -> bytes:
        """The inflated bytes of the next part. Raises Fault if they, or all until now, are more than the limit."""
        pieces = []
        while data:
            if self.complete and self._members:
                if not data.startswith(_GZIP_MAGIC):
                    break  # padding after the last member
                self._stream = zlib.decompressobj(_ZLIB)
            try:
                piece = self._stream.decompress(data, self._limit + 1 - self._size)
            except zlib.error:
                if self._head is None:
                    raise Fault("bad_response", "a body that is not what its Content-Encoding says") from None
                data, self._head = self._head + data, None
                self._stream = zlib.decompressobj(_RAW)
                continue
            if self._head is not None:  # zlib checks its header once it has two bytes
                self._head = self._head + data if len(self._head + data) < 2 else None
            pieces.append(piece)
            self._size += len(piece)
            if self._size > self._limit:
                raise Fault("too_large", f"more than max_bytes={self._limit}, once decoded")
            self.complete = self._stream.eof
            self._members += self.complete
            data = self._stream.unused_data
        return b"".join(pieces)
