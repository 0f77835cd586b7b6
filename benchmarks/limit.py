"""The limit of every exact reader of JPEGs: libjpeg-turbo alone, no resize, into memory that the thread keeps."""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg

_ROOM_BYTES = 48 << 20
_kept = threading.local()


def bare(data: bytes) -> np.ndarray:
    """uint8 (height, width, 3), RGB; valid until the thread's next call."""
    if not hasattr(_kept, "bytes"):
        _kept.bytes = np.empty(_ROOM_BYTES, np.uint8)  # of which the system gives what is used
    return simplejpeg.decode_jpeg(data, buffer=_kept.bytes)
