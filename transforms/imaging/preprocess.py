"""Encoded image bytes to model input, as pure functions: `decode` writes one picture into one row of a batch.

Pixels are those of tf.io.decode_jpeg(dct_method='INTEGER_ACCURATE') and of tf.io.decode_image for other
formats, resized to the bits of tf.image.resize(method='bilinear', antialias=False). docs/images.md says what
becomes of alpha, orientation, 16 bits, CMYK, animations and pages, and lists every failure code.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
from PIL import UnidentifiedImageError

from transforms.errors import ItemError
from transforms.imaging.containers import (
    Stored,
    corrupt,
    read_bmp,
    read_gif,
    read_png,
    read_webp,
)
from transforms.imaging.decoders import decode_gif, decode_jpeg, decode_tiff, decode_webp, decode_with_pillow
from transforms.imaging.jpeg import StoredJpeg, read_jpeg
from transforms.imaging.resize import resize
from transforms.imaging.sniff import format_of
from transforms.imaging.tiff import StoredTiff, read_tiff

_LARGE_PIXELS = 32_000_000
# So that peak memory does not grow with the number of threads; where processes decode, they set another.
one_large_at_a_time: contextlib.AbstractContextManager = threading.Lock()


@dataclass(frozen=True)
class Preprocessing:
    """How bytes become model input; recorded in the manifest.

    Attributes:
      profile: name of the whole recipe.
      image_size: side of the square, in pixels.
      exif_orientation: 'apply' turns a picture as its metadata says; 'ignore' takes it as it is stored, which
        is what tf.io.decode_image does.
      max_pixels: larger pictures are refused before they are decoded. The default is the size at which Pillow
        refuses; docs/images.md says what memory it takes.
      scaled_decoding: decodes a large JPEG at a half of its size or less, as few eighths as keep both sides
        at least `image_size` long. Up to twice as fast on large photographs, but other pixels.
    """

    profile: str = "bit"
    image_size: int = 224
    exif_orientation: str = "ignore"
    max_pixels: int = 178_956_970
    scaled_decoding: bool = False

    def __post_init__(self):
        if self.exif_orientation not in ("apply", "ignore"):
            raise ValueError(f"exif_orientation must be 'apply' or 'ignore', got {self.exif_orientation!r}")
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")


def decode(data: bytes, preprocessing: Preprocessing, out: np.ndarray) -> tuple[int, int]:
    """Decodes and resizes one picture. Several threads may call it, and then run side by side.

    Args:
      data: the image file, whole; its format is known by its first bytes.
      out: C-contiguous float32 (image_size, image_size, 3), filled with RGB in [0, 255]. Undefined on error.

    Returns:
      (width, height) of the whole picture in pixels, after the turn that its orientation asks for, if any.

    Raises:
      ItemError: with one of the codes listed in docs/images.md.
    """
    image_format = format_of(data)
    try:
        stored = _READERS[image_format](data)
        width, height = stored.width, stored.height
        if width < 1 or height < 1:
            raise corrupt(image_format, f"{width} x {height} pixels")
        if width * height > preprocessing.max_pixels:
            raise ItemError(
                "too_many_pixels",
                f"{image_format} of {width} x {height} pixels is over the limit of "
                f"{preprocessing.max_pixels} pixels; if the picture is genuine, raise --max_pixels",
            )
        with one_large_at_a_time if width * height > _LARGE_PIXELS else contextlib.nullcontext():
            pixels = _pixels(image_format, stored, preprocessing)
            if preprocessing.exif_orientation == "apply":
                pixels = _turned(pixels, stored.orientation)
                if stored.orientation >= 5:
                    width, height = height, width
            resize(pixels, out)
    except (ItemError, MemoryError):  # out of memory is the worker's trouble, not the image's
        raise
    except Exception as error:
        raise _item_error(image_format, error) from error
    return width, height


def can_scale(data: bytes, width: int, height: int, image_size: int) -> bool:
    """Whether `scaled_decoding` would decode this picture at a half of its size or less."""
    return min(width, height) >= 2 * image_size and format_of(data) == "JPEG"


_READERS = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
}


def _pixels(image_format: str, stored: Stored, preprocessing: Preprocessing) -> np.ndarray:
    if isinstance(stored, StoredJpeg):
        return decode_jpeg(stored, preprocessing.image_size if preprocessing.scaled_decoding else 0)
    if image_format == "WEBP":
        return decode_webp(stored)
    if image_format == "GIF":
        return decode_gif(stored)
    if isinstance(stored, StoredTiff):
        return decode_tiff(stored)
    return decode_with_pillow(stored, image_format)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of pixels that are stored with an orientation of Exif 2.32, 4.6.4 A."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _item_error(image_format: str, error: Exception) -> ItemError:
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        text = "unknown header"  # Pillow's text holds a memory address, and ledgers are the same in each run
    if "truncated" in text or "Premature end of JPEG" in text:
        return ItemError("truncated", f"{image_format} ends too early ({text}); fetch or copy it again")
    if image_format == "TIFF" and text in ("unknown header", "unknown raw mode for given image mode"):
        return ItemError("unsupported_format", "this kind of TIFF is not supported; convert it to 8 bits RGB")
    return corrupt(image_format, text)
