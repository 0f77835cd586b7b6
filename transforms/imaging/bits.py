"""Numbers of a few bits each, as video headers have them."""

from __future__ import annotations

_BYTES = 512  # more than is read of a header
_GOLOMB_BITS_MAX = 32


class Bits:
    """Reads numbers from the beginning of some bytes; zeros beyond the end."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data[:_BYTES].ljust(_BYTES, b"\0"), "big"), 8 * _BYTES

    def take(self, count: int) -> int:
        """The next number, `count` bits long."""
        self._left -= count
        return self._value >> self._left & (1 << count) - 1 if self._left >= 0 else 0

    def golomb(self) -> int:
        """The next number in Exp-Golomb code."""
        zeros = 0
        while zeros < _GOLOMB_BITS_MAX and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
