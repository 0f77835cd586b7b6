"""BMP of Windows and OS/2."""

from __future__ import annotations

import re
import struct

from transforms.errors import ItemError
from transforms.imaging import pillow
from transforms.imaging.base import Format, Stored, truncated


def reduce(data: bytes) -> Stored:
    """Reads the size; the file is kept unchanged, as there is nothing to leave out."""
    if len(data) < 54:
        raise truncated("BMP", f"at byte {len(data)}, inside its header")
    if data[14] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        compression = 0
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3, 6):  # plain, or with a mask per channel
        raise ItemError("unsupported_format", "a compressed BMP is not supported; convert it to PNG")
    return Stored(data, width, abs(height))


FORMAT = Format(
    "BMP",
    re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL),
    (".bmp", ".dib"),
    reduce,
    pillow.decoder("BMP"),
    ("pillow",),
)
