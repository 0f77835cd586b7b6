"""Encoded image bytes to model input, as pure functions: `decode` writes one picture into one row of a batch.

Pixels are exactly those of `tf.io.decode_jpeg(dct_method='INTEGER_ACCURATE')` and its siblings for other
formats, resized as `tf.image.resize(method='bilinear', antialias=False)` does. docs/images.md says what becomes of
alpha, orientation, 16 bit, CMYK, animations and pages, and lists every failure code.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,  # noqa: F401  (registers its format with Image.open; so do the next four)
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from transforms.elements import ItemError
from transforms.image_formats import format_of

# Pictures are decoded on the caller's threads; OpenCV's own pool underneath would oversubscribe the cores.
cv2.setNumThreads(1)
# `decode` checks the size against `max_pixels` itself, from the header; Pillow's check would warn on stderr.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata, which is not used here; a line on stderr for each such picture helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION_TAG = 0x0112
_BAND_ROWS = 28  # of output: the float32 source rows of one band stay in a core's second-level cache


@dataclass(frozen=True)
class Preprocessing:
    """How bytes become model input; recorded in the manifest.

    Attributes:
      profile: name of the whole recipe.
      image_size: side of the square, in pixels.
      exif_orientation: 'apply' turns the picture as its EXIF tag says; 'ignore' takes it as stored, which is
        what tf.io.decode_image does.
      max_pixels: larger pictures are refused before they are decoded.
    """

    profile: str = "bit"
    image_size: int = 224
    exif_orientation: str = "ignore"
    max_pixels: int = 178_956_970

    def __post_init__(self):
        if self.exif_orientation not in ("apply", "ignore"):
            raise ValueError(f"exif_orientation must be 'apply' or 'ignore', got {self.exif_orientation!r}")
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")


def decode(data: bytes, preprocessing: Preprocessing, out: np.ndarray) -> tuple[int, int]:
    """Decodes and resizes one picture.

    Args:
      data: the image file, whole; its format is known by its first bytes.
      out: C-contiguous float32 (image_size, image_size, 3), filled with RGB in [0, 255]. Undefined on error.

    Returns:
      (width, height) of the picture before resizing, after any turn that its orientation asks for.

    Raises:
      ItemError: with one of the codes listed in docs/images.md.
    """
    image_format = format_of(data)
    try:
        if image_format == "JPEG":
            pixels, orientation = _decode_jpeg(data, preprocessing)
        else:
            pixels, orientation = _decode_with_pillow(data, image_format, preprocessing)
        pixels = _turned(pixels, orientation)
        resize(pixels, out)
    except ItemError:
        raise
    except Exception as error:
        raise _item_error(image_format, error) from error
    height, width = pixels.shape[:2]
    return width, height


def _decode_jpeg(data: bytes, preprocessing: Preprocessing) -> tuple[np.ndarray, int]:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        # TurboJPEG knows the usual chroma layouts only; Pillow decodes any, or says what is wrong.
        return _decode_with_pillow(data, "JPEG", preprocessing)
    _check_size("JPEG", width, height, preprocessing)
    orientation = 1
    if preprocessing.exif_orientation == "apply":
        orientation = _exif_orientation(Image.open(io.BytesIO(data), formats=["JPEG"]))
    wanted = "CMYK" if colorspace == "CMYK" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=wanted)
    except ValueError as error:
        if not _is_padding_before_end(data, str(error)):
            raise
        pixels = simplejpeg.decode_jpeg(data, colorspace=wanted, strict=False)
    if wanted == "CMYK":
        adobe = "adobe" in Image.open(io.BytesIO(data), formats=["JPEG"]).info
        pixels = _rgb_of_cmyk(pixels, inverted=adobe)
    return pixels, orientation


def _is_padding_before_end(data: bytes, message: str) -> bool:
    """Whether libjpeg only stumbles over filler bytes that some cameras leave before the end marker.

    By then it has decoded every block without complaint. Other left-over bytes mean damaged compressed data.
    """
    extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    if not extra or int(extra[1]) > len(data):
        return False
    end = data.rfind(b"\xff\xd9")
    return end >= 0 and len(set(data[max(0, end - int(extra[1])) : end])) == 1


def _decode_with_pillow(
    data: bytes, image_format: str, preprocessing: Preprocessing
) -> tuple[np.ndarray, int]:
    image = Image.open(io.BytesIO(data), formats=[image_format])
    _check_size(image_format, *image.size, preprocessing)
    orientation = _exif_orientation(image) if image_format == "TIFF" else 1
    stored_orientation = orientation
    if preprocessing.exif_orientation == "apply" and image_format != "TIFF":
        orientation = _exif_orientation(image)
    image.load()
    _check_size(image_format, *image.size, preprocessing)
    pixels = _rgb_of_pillow(image)
    if image_format == "TIFF":
        # Pillow has turned the picture while loading it.
        turn_back = {6: 8, 8: 6}.get(stored_orientation, stored_orientation)
        return pixels, 1 if preprocessing.exif_orientation == "apply" else turn_back
    return pixels, orientation


def _rgb_of_pillow(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, 3); alpha is dropped, 16 bits keep the high byte."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise ItemError(
            "unsupported_format",
            f"{image.format} with pixels of mode {image.mode}: 32-bit and Lab samples have no agreed 8-bit "
            "form; convert the picture to 8 or 16 bits RGB or grey",
        )
    if image.mode == "CMYK":
        return _rgb_of_cmyk(np.asarray(image), inverted=False)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_of_cmyk(cmyk: np.ndarray, inverted: bool) -> np.ndarray:
    """As TensorFlow's JPEG reader does it: ink times black, no colour profile."""
    light = cmyk if inverted else 255 - cmyk
    return (light[..., :3].astype(np.uint16) * light[..., 3:] // 255).astype(np.uint8)


def _exif_orientation(image: Image.Image) -> int:
    """1 to 8; 1, which is upright, where the tag is absent or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of pixels stored with an EXIF orientation (Exif 2.32, 4.6.4 A)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_size(image_format: str, width: int, height: int, preprocessing: Preprocessing) -> None:
    if width < 1 or height < 1:
        raise ItemError("corrupt", f"{image_format} of {width} x {height} pixels; the header is damaged")
    if width * height > preprocessing.max_pixels:
        raise ItemError(
            "too_many_pixels",
            f"{image_format} of {width} x {height} pixels is over the limit of {preprocessing.max_pixels}; "
            "if the picture is genuine, raise --max_pixels",
        )


def _item_error(image_format: str, error: Exception) -> ItemError:
    text = str(error) or type(error).__name__
    if re.search(r"truncated|Premature end of JPEG|not enough image data", text):
        return ItemError("truncated", f"{image_format} ends too early ({text}); fetch or copy it again")
    if re.search(r"[Uu]nsupported", text):
        return ItemError(
            "unsupported_format", f"no support for this kind of {image_format} ({text}); convert it"
        )
    return ItemError("corrupt", f"{image_format} is damaged ({text}); fetch or copy it again")


@functools.lru_cache(maxsize=256)
def _source_coordinates(size: int, side: int) -> np.ndarray:
    """float32 (side,): where each output pixel's centre falls in a source of `size` pixels.

    In float32 from the first step, because TensorFlow's rounding of these coordinates shows in the result.
    """
    scale = np.float32(size) / np.float32(side)
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    return np.clip(centres, 0, size - 1)


def resize(pixels: np.ndarray, out: np.ndarray) -> None:
    """Resizes uint8 (height, width, 3) into `out`, float32 (side, side, 3): bilinear, no antialiasing.

    Equals tf.image.resize but for a few float32 roundings; cv2.resize differs by up to 1e-2 of 255.
    """
    side = out.shape[0]
    height, width = pixels.shape[:2]
    columns, rows = _source_coordinates(width, side), _source_coordinates(height, side)
    if width > 4 * side:
        # Few of the columns are looked at: converting the others would cost more than picking these.
        left = columns.astype(np.intp)
        picked = np.stack([left, np.minimum(left + 1, width - 1)], axis=1).ravel()
        columns = columns - left + np.arange(0, 2 * side, 2, dtype=np.float32)
    else:
        picked = None
    column_map = np.empty((_BAND_ROWS, side), np.float32)
    column_map[:] = columns
    row_map = np.empty((_BAND_ROWS, side), np.float32)
    for start in range(0, side, _BAND_ROWS):
        band = rows[start : start + _BAND_ROWS]
        top = band.astype(np.intp)
        if height > 4 * side:
            source = pixels[np.stack([top, np.minimum(top + 1, height - 1)], axis=1).ravel()]
            band = band - top + np.arange(0, 2 * len(top), 2, dtype=np.float32)
        else:
            source = pixels[top[0] : top[-1] + 2]
            band = band - top[0]
        if picked is not None:
            source = source[:, picked]
        row_map[: len(band)] = band[:, None]
        cv2.remap(
            source.astype(np.float32, order="C"),
            column_map[: len(band)],
            row_map[: len(band)],
            cv2.INTER_LINEAR,
            dst=out[start : start + len(band)],
            borderMode=cv2.BORDER_REPLICATE,
        )
