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
from transforms.imaging.base import corrupt
from transforms.imaging.formats import format_of
from transforms.imaging.resize import resize

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
    name = image_format.name
    try:
        stored = image_format.reduce(data)
        width, height = stored.width, stored.height
        if width < 1 or height < 1:
            raise corrupt(name, f"{width} x {height} pixels")
        if width * height > preprocessing.max_pixels:
            raise ItemError(
                "too_many_pixels",
                f"{name} of {width} x {height} pixels is over the limit of "
                f"{preprocessing.max_pixels} pixels; if the picture is genuine, raise --max_pixels",
            )
        least_side = preprocessing.image_size if preprocessing.scaled_decoding else 0
        with one_large_at_a_time if width * height > _LARGE_PIXELS else contextlib.nullcontext():
            pixels = image_format.decode(stored, least_side)
            if preprocessing.exif_orientation == "apply":
                pixels = _turned(pixels, stored.orientation)
                if stored.orientation >= 5:
                    width, height = height, width
            resize(pixels, out)
    except (ItemError, MemoryError):  # out of memory is the worker's trouble, not the image's
        raise
    except Exception as error:
        raise _item_error(name, error) from error
    return width, height


def can_scale(data: bytes, width: int, height: int, image_size: int) -> bool:
    """Whether `scaled_decoding` would decode this picture at a half of its size or less."""
    return min(width, height) >= 2 * image_size and format_of(data).scales


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of pixels that are stored with an orientation of Exif 2.32, 4.6.4 A."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _item_error(format_name: str, error: Exception) -> ItemError:
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        text = "unknown header"  # Pillow's text holds a memory address, and ledgers are the same in each run
    if "truncated" in text or "Premature end of JPEG" in text:
        return ItemError("truncated", f"{format_name} ends too early ({text}); fetch or copy it again")
    return corrupt(format_name, text)
