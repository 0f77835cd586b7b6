"""Pictures by way of Pillow, for the formats that have no quicker way."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image

from transforms.errors import ItemError
from transforms.imaging.base import Stored

# The caller checks the size from the header before any decoder runs; Pillow's check would warn on stderr.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of is metadata, which is not used here; a line on stderr for each picture helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

_STRIP_PIXELS = 1 << 20


def decoder(format_name: str) -> Callable[[Stored, int], np.ndarray]:
    """`Format.decode` of a format that Pillow decodes as it stands."""
    return lambda stored, least_side: decode(stored.data, format_name)


def decode(data: bytes, format_name: str) -> np.ndarray:
    """uint8 (height, width, 3) RGB of a file of this format."""
    return pixels_of(opened(data, format_name))


def opened(data: bytes, format_name: str) -> Image.Image:
    """The picture, of which only the header is read yet."""
    return Image.open(io.BytesIO(data), formats=[format_name])


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, 3) RGB."""
    image.load()
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return _rgb(image)
    # In strips, because each of Pillow's conversions makes a copy.
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = _rgb(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "CMYK":
        return rgb_of_cmyk(np.asarray(image), inverted=False)
    if image.mode.startswith("I;16"):
        return np.repeat(np.right_shift(np.asarray(image), 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise ItemError(
            "unsupported_format", f"{image.mode} samples are not supported; convert to 8 bits RGB"
        )
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def rgb_of_cmyk(cmyk: np.ndarray, inverted: bool) -> np.ndarray:
    """As TensorFlow's JPEG reader: no colour profile; the light that an ink leaves times what black leaves.

    Adobe's programs store CMYK in a JPEG inverted, as light instead of ink.
    """
    pixels = np.empty((*cmyk.shape[:2], 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // cmyk.shape[1])
    for top in range(0, len(cmyk), rows):
        light = cmyk[top : top + rows] if inverted else 255 - cmyk[top : top + rows]
        pixels[top : top + rows] = light[..., :3].astype(np.uint16) * light[..., 3:] // 255
    return pixels
