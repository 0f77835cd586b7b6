"""What the image formats share: the picture that a file is reduced to, and the errors of damaged files."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transforms.errors import ItemError

_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Stored:
    """One picture of an image file, located without decoding anything.

    Attributes:
      data: a file of the same format with this picture only.
      width, height: of the canvas, in pixels, before the orientation is applied.
      orientation: Exif 2.32's 1 to 8; 1 is upright.
      left, top: position of the picture on the canvas, in pixels; the rest of the canvas is black.
    """

    data: bytes
    width: int
    height: int
    orientation: int = 1
    left: int = 0
    top: int = 0


class Format(NamedTuple):
    """Everything the job knows about an image format. `formats.FORMATS` lists them.

    Attributes:
      name: Pillow's name for it, used in messages.
      magic: matches the first bytes of a file; it sees `formats.HEAD_BYTES` of them.
      suffixes: of file names, in lower case, with the dot.
      reduce: walks the structure of a complete file and leaves out everything that the pixels of its first picture do
        not need: metadata (a compressed text that unpacks to gigabytes then costs nothing), further frames, separate
        alpha. Called before the size is compared with the limit. Raises ItemError, IndexError or struct.error.
      decode: the pixels of what `reduce` returned, uint8 (height, width, 3) RGB; they may be overwritten by the same
        thread's next call. The second argument is the smallest useful side, or 0 for full size; only formats with
        `scales` use it. Raises ItemError, or whatever the library raises on bytes that it cannot decode.
      packages: distributions whose versions determine the pixels; receipts record them.
      scales: whether `decode` can return a smaller picture in less time.
    """

    name: str
    magic: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    reduce: Callable[[bytes], Stored]
    decode: Callable[[Stored, int], np.ndarray]
    packages: tuple[str, ...]
    scales: bool = False


def truncated(format_name: str, where: str) -> ItemError:
    """The ItemError for a file that ends too early; `where` completes 'FORMAT ends ...'."""
    return ItemError("truncated", f"{format_name} ends {where}; fetch or copy it again")


def corrupt(format_name: str, what: str) -> ItemError:
    """The ItemError for a damaged file; `what` says how it is damaged."""
    return ItemError("corrupt", f"{format_name} is damaged: {what}; fetch or copy it again")


def on_canvas(pixels: np.ndarray, stored: Stored) -> np.ndarray:
    """uint8 (stored.height, stored.width, 3): a frame at its place on the black canvas."""
    height, width = pixels.shape[:2]
    if (width, height) == (stored.width, stored.height):
        return pixels
    canvas = np.zeros((stored.height, stored.width, 3), np.uint8)
    canvas[stored.top : stored.top + height, stored.left : stored.left + width] = pixels
    return canvas


def exif_orientation(exif: bytes) -> int:
    """The orientation in an Exif block, 1 to 8; 1 (upright) if the tag is absent or damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if not order:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
