"""Where a store writes a whole file that is read at once."""

from __future__ import annotations

import math

from transforms.storage.errors import Fault
from transforms.storage.watching import Beat


class Sink:
    """Takes the bytes of a file, at most `max_bytes` of them.

    Attributes:
      beat: when it last took some.
      abandoned: nobody waits for the file any more; the next write raises.
    """

    def __init__(self, max_bytes: float = math.inf):
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self.beat = Beat()
        self.abandoned = False

    def expect(self, size: int) -> None:
        """Refuses a file that will not fit."""
        if size > self._max_bytes:
            raise Fault("too_large", f"it has {size} bytes, above max_bytes={self._max_bytes}")

    def write(self, data: bytes) -> int:
        """Takes a part. Raises Fault 'too_large', or 'timeout' where nobody waits any more."""
        if self.abandoned:
            raise Fault("timeout", "nobody waits for the file any more")
        self.beat()
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._max_bytes:
            raise Fault("too_large", f"it has more than max_bytes={self._max_bytes}")
        return len(data)

    def seek(self, offset: int) -> int:
        """Takes back what lies behind `offset`: how the client of Cloud Storage starts a transcoded object again."""
        self._parts = [self.data()[:offset]]
        self._size = len(self._parts[0])
        return offset

    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)
