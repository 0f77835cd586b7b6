"""CRC-32C of bytes."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

from transforms import native

_NATIVE_BYTES = 1 << 14  # below, handing the interpreter's lock over takes longer than the sum

_native: Any = native.LIBRARY if native.has_crc() else None


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """The checksum of what has the checksum `crc`, followed by `data`.

    Many bytes are summed without the GIL: `bytes` of a MiB or more by the library, and other buffers in native code, which
    takes a third longer."""
    if isinstance(data, bytes):
        return google_crc32c.extend(crc, data)
    array = np.frombuffer(data, np.uint8)
    if _native and len(array) >= _NATIVE_BYTES:
        return _native.crc32c(crc, array.ctypes.data, len(array))
    return google_crc32c.extend(crc, array)  # it takes no memoryview
