"""The buffer that a store writes a file to when it is read in one operation."""

from __future__ import annotations

import math

from transforms.storage.decoding import Decoder
from transforms.storage.errors import Fault
from transforms.storage.watching import Beat


class Sink:
    """Collects the bytes of a file, at most `max_bytes` of them. `noun` is what messages call it.

    Attributes:
      beat: records the time of the last write.
      abandoned: set when the reader has given up; the next write raises.
    """

    def __init__(self, max_bytes: float = math.inf, noun: str = "object"):
        self._max_bytes, self._noun = max_bytes, noun
        self._parts: list[bytes] = []
        self._size = 0
        self.beat = Beat()
        self.abandoned = False

    def expect(self, size: int) -> None:
        """Raises Fault 'too_large' for a file of `size` bytes that will not fit."""
        if size > self._max_bytes:
            raise Fault("too_large", f"the {self._noun} has {size} bytes, above max_bytes={self._max_bytes}")

    def write(self, data: bytes) -> int:
        """Appends bytes. Raises Fault 'too_large', or 'timeout' if the sink is abandoned."""
        if self.abandoned:
            raise Fault("timeout", "nobody waits for the file any more")
        self.beat()
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._max_bytes:
            raise Fault("too_large", f"the {self._noun} holds more than max_bytes={self._max_bytes}")
        return len(data)

    def undo(self, content_encoding: str) -> None:
        """Undoes the Content-Encoding of what was written. Raises Fault 'bad_response', 'too_large' or 'truncated'."""
        decoder = Decoder(content_encoding, self._max_bytes)
        if decoder:
            self._parts = [decoder.decode(part) for part in self._parts]
            decoder.finish()

    def data(self) -> bytes:
        """All bytes written so far."""
        return b"".join(self._parts)
