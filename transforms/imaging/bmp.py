"""BMP of Windows and OS/2."""

from __future__ import annotations

import re
import struct

import numpy as np

from transforms.errors import ItemError
from transforms.imaging import pillow
from transforms.imaging.base import Format, Stored, corrupt, truncated

_MASKED = (3, 6)  # compressions: not compressed, with a mask per channel
_BYTE_OF_MASK = {0xFF << 8 * byte: byte for byte in range(4)}
_MASKS_AT, _MASKS_END = 54, 66  # of red, green and blue, in or behind the header


def reduce(data: bytes) -> Stored:
    """Reads the size; the file is kept unchanged, as there is nothing to leave out."""
    if len(data) < 54:
        raise truncated("BMP", f"at byte {len(data)}, inside its header")
    if data[14] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        compression = 0
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, *_MASKED):
        raise ItemError("unsupported_format", "a compressed BMP is not supported; convert it to PNG")
    return Stored(data, width, abs(height))


def _byte_order(data: bytes) -> tuple[int, ...] | None:
    """Which bytes of a pixel of four are its red, green and blue; None unless the file has such masks."""
    header_bytes, bits, compression = struct.unpack_from("<14xI10xHI", data)
    if header_bytes == 12 or bits != 32 or compression not in _MASKED or len(data) < _MASKS_END:
        return None
    masks = struct.unpack_from("<III", data, _MASKS_AT)
    return tuple(_BYTE_OF_MASK[mask] for mask in masks) if set(masks) <= set(_BYTE_OF_MASK) else None


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The pixels; masks of whole bytes are applied here, as Pillow knows few orders of them, others by Pillow."""
    if order := _byte_order(stored.data):
        return _of_four_bytes(stored, order)
    try:
        return pillow.decode(stored.data, "BMP")
    except OSError as error:
        if not str(error).startswith("Unsupported BMP"):
            raise
        raise ItemError(
            "unsupported_format", f"this kind of BMP is not supported ({error}); convert it to PNG"
        ) from None


def _of_four_bytes(stored: Stored, order: tuple[int, ...]) -> np.ndarray:
    data, shape = stored.data, (stored.height, stored.width, 4)
    (start,) = struct.unpack_from("<I", data, 10)
    size = stored.height * stored.width * 4
    if start < _MASKS_END:
        raise corrupt("BMP", f"its pixels start at byte {start}, inside its header")
    if start + size > len(data):
        raise truncated("BMP", f"at byte {len(data)} of {start + size}")
    rows = np.frombuffer(data, np.uint8, size, start).reshape(shape)
    (height,) = struct.unpack_from("<i", data, 22)
    return np.ascontiguousarray((rows[::-1] if height > 0 else rows)[..., list(order)])


FORMAT = Format(
    "BMP",
    re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL),
    (".bmp", ".dib"),
    reduce,
    decode,
    ("pillow",),
)
