"""CRC-32C of bytes."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

from transforms import native

_NATIVE_BYTES = 1 << 14  # below, handing the interpreter's lock over takes longer than the sum

_native: Any = native.LIBRARY if native.has_crc() else None


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """The checksum of what has the checksum `crc`, followed by `data`. Many bytes are summed without the GIL."""
    if _native and len(data) >= _NATIVE_BYTES:
        if isinstance(data, bytes):
            return _native.crc32c(crc, data, len(data))
        array = np.frombuffer(data, np.uint8)
        return _native.crc32c(crc, array.ctypes.data, len(array))
    part: Any = data if isinstance(data, bytes) else np.frombuffer(data, np.uint8)  # it takes no memoryview
    return google_crc32c.extend(crc, part)
