"""The limit of every exact JPEG reader: libjpeg-turbo alone, without resizing, into memory that the thread keeps."""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg

_BUFFER_BYTES = 48 << 20
_thread = threading.local()


def bare(data: bytes) -> np.ndarray:
    """uint8 (height, width, 3), RGB; valid until the thread's next call."""
    if not hasattr(_thread, "buffer"):
        _thread.buffer = np.empty(_BUFFER_BYTES, np.uint8)  # the system provides only what is used
    return simplejpeg.decode_jpeg(data, buffer=_thread.buffer)
