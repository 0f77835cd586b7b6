"""Decoding by Pillow, for the formats that have no faster decoder."""

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
# Pillow warns about metadata, which is not used here: one line on stderr per picture would help nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

_STRIP_PIXELS = 1 << 20


def decoder(format_name: str) -> Callable[[Stored, int], np.ndarray]:
    """The `Format.decode` of a format that Pillow decodes without further help."""
    return lambda stored, least_side: decode(stored.data, format_name)


def decode(data: bytes, format_name: str) -> np.ndarray:
    """uint8 (height, width, 3) RGB of a file of this format."""
    return pixels_of(opened(data, format_name))


def opened(data: bytes, format_name: str) -> Image.Image:
    """The picture, with only its header read."""
    return Image.open(io.BytesIO(data), formats=[format_name])


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, 3) RGB of an opened picture."""
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
    """uint8 (h, w, 4) -> (h, w, 3), as TensorFlow's JPEG reader does: R = (255 - C)(255 - K) / 255; no colour profile.

    `inverted`: the values are light instead of ink, which is how Adobe's programs store CMYK in a JPEG.
    """
    pixels = np.empty((*cmyk.shape[:2], 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // cmyk.shape[1])
    for top in range(0, len(cmyk), rows):
        light = cmyk[top : top + rows] if inverted else 255 - cmyk[top : top + rows]
        pixels[top : top + rows] = light[..., :3].astype(np.uint16) * light[..., 3:] // 255
    return pixels
