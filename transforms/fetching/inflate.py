"""Decodes a Content-Encoding, with a limit on the size of the result."""

from __future__ import annotations

import zlib

from transforms.errors import ItemError


class Inflater:
    """Decodes gzip (also of several members) or zlib; `complete` is whether the data so far ends with a complete member.

    One call returns at most `max_bytes` + 1 bytes, which is enough to see that a body is too large."""

    def __init__(self, max_bytes: int):
        self._limit = max_bytes + 1
        self._stream = _new_stream()
        self.complete = False

    def inflate(self, data: bytes) -> bytes:
        """The decoded bytes of the next part of a body. Raises ItemError 'bad_response'."""
        pieces = []
        room = self._limit
        while data and room:
            if self.complete:
                self._stream = _new_stream()
            try:
                piece = self._stream.decompress(data, room)
            except zlib.error:
                if self.complete:
                    break  # padding after the last member
                raise ItemError("bad_response", "the body is not what its Content-Encoding says") from None
            pieces.append(piece)
            room -= len(piece)
            self.complete = self._stream.eof
            data = self._stream.unused_data
        return b"".join(pieces)


def _new_stream():
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # | 32: gzip or zlib, by its header
