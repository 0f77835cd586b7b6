"""Encoded image bytes to model input: `decode` writes one picture into one row of a batch.

Pixels are those of tf.io.decode_jpeg(dct_method='INTEGER_ACCURATE') and of tf.io.decode_image for other
formats, resized to the bits of tf.image.resize(method='bilinear', antialias=False). docs/images.md says how
alpha, orientation, 16 bits, CMYK, animations and pages are treated, and lists every failure code.
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
# So that peak memory does not grow with the number of threads. Feeders, which are processes, replace it.
one_large_at_a_time: contextlib.AbstractContextManager = threading.Lock()


@dataclass(frozen=True)
class Preprocessing:
    """How bytes become model input; recorded in the manifest.

    Attributes:
      profile: name of the preprocessing as a whole.
      image_size: side of the square, in pixels.
      exif_orientation: 'apply' turns a picture as its metadata says; 'ignore' leaves it as stored, as
        tf.io.decode_image does.
      max_pixels: larger pictures are refused before they are decoded. The default is Pillow's own limit;
        docs/images.md says how much memory decoding takes.
      scaled_decoding: decodes a large JPEG at half size or less, at the fewest eighths that keep both sides at least
        `image_size` long. About twice as fast on large photographs, but the pixels differ.
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
    """Decodes and resizes one picture. Thread-safe; calls from several threads run in parallel.

    Args:
      data: the complete image file; its first bytes identify the format.
      out: C-contiguous float32 (image_size, image_size, 3), filled with RGB in [0, 255]. Undefined on error.

    Returns:
      (width, height) of the picture at full size in pixels, after its orientation was applied, if it was.

    Raises:
      ItemError: with one of the codes listed in docs/images.md.
    """
    image_format = format_of(data)
    name = image_format.name
    try:
        stored = image_format.reduce(data)
        width, height = stored.width, stored.height
        check_size(name, width, height, preprocessing.max_pixels)
        least_side = preprocessing.image_size if preprocessing.scaled_decoding else 0
        with one_large_at_a_time if width * height > _LARGE_PIXELS else contextlib.nullcontext():
            pixels = image_format.decode(stored, least_side)
            if preprocessing.exif_orientation == "apply":
                pixels = _turned(pixels, stored.orientation)
                if stored.orientation >= 5:
                    width, height = height, width
            resize(pixels, out)
    except (ItemError, MemoryError):  # running out of memory is the worker's fault, not the image's
        raise
    except Exception as error:
        raise item_error(name, error) from error
    return width, height


def check_size(format_name: str, width: int, height: int, max_pixels: int) -> None:
    """Raises ItemError for a picture without pixels, or with more than `max_pixels`."""
    if width < 1 or height < 1:
        raise corrupt(format_name, f"{width} x {height} pixels")
    if width * height > max_pixels:
        raise ItemError(
            "too_many_pixels",
            f"{format_name} of {width} x {height} pixels is over the limit of "
            f"{max_pixels} pixels; if the picture is genuine, raise --max_pixels",
        )


def can_scale(data: bytes, width: int, height: int, image_size: int) -> bool:
    """Whether `scaled_decoding` would decode this picture at half size or less."""
    return min(width, height) >= 2 * image_size and format_of(data).scales


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of pixels stored with an orientation (Exif 2.32, 4.6.4 A)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def item_error(format_name: str, error: Exception) -> ItemError:
    """The ItemError for what a decoder raised."""
    text = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        # Pillow's text holds a memory address, but ledgers must not differ between runs.
        text = "unknown header"
    if "truncated" in text or "Premature end of JPEG" in text:
        return ItemError("truncated", f"{format_name} ends too early ({text}); fetch or copy it again")
    return corrupt(format_name, text)
