"""Undoing a Content-Encoding without trusting how much comes out."""

from __future__ import annotations

import zlib

from transforms.errors import ItemError


class Inflater:
    """gzip (members one after another) or zlib, never more than `max_bytes` + 1 out at once."""

    def __init__(self, max_bytes: int):
        self._limit = max_bytes + 1
        self._stream = _new_stream()
        self.complete = False

    def inflate(self, data: bytes) -> bytes:
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
