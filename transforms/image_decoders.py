"""From the one stored picture to its pixels, uint8 (height, width, 4): red, green, blue and an unused byte.

All raise ItemError, or whatever the library underneath raises on bytes that it cannot decode.
"""

from __future__ import annotations

import io
import re
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin  # noqa: F401  (makes Image.open know TIFF without a search for plugins)

from transforms.elements import ItemError
from transforms.image_containers import Stored, corrupt, jpeg_markers

# The caller checks the size from the header before any decoder runs; Pillow's check would warn on stderr.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of is metadata, which is not used here; a line on stderr for each picture helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

_SCANS_MAX = 100  # of a large progressive JPEG: each scan is a pass over the picture, however few its bytes
_COUNT_SCANS_FROM_PIXELS = 4_000_000
_STRIP_PIXELS = 1 << 20


def decode_jpeg(stored: Stored, least_side: int) -> np.ndarray:
    """The picture in full; or, if `least_side` is not 0, at as few eighths as keep both sides that long.

    At four eighths or fewer: between a half and full size, scaling costs more than it saves.
    """
    data = stored.data
    if stored.width * stored.height > _COUNT_SCANS_FROM_PIXELS and data.count(b"\xff\xda") > _SCANS_MAX:
        raise ItemError("too_many_scans", f"JPEG with more than {_SCANS_MAX} scans; save it again")
    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        # TurboJPEG refuses unusual chroma layouts, which Pillow decodes.
        return decode_with_pillow(stored, "JPEG")
    options = {
        "colorspace": "CMYK" if colorspace == "CMYK" else "RGBX",
        "min_height": least_side,
        "min_width": least_side,
        "min_factor": 2,
    }
    try:
        pixels = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if not _is_padding_before_end(data, str(error)):
            raise
        pixels = simplejpeg.decode_jpeg(data, strict=False, **options)
    if colorspace == "CMYK":
        return _rgbx_of_cmyk(pixels, inverted=jpeg_markers(data)[1])
    return pixels


def _is_padding_before_end(data: bytes, message: str) -> bool:
    """Whether libjpeg only stumbled over filler bytes, which some cameras leave before the end marker.

    By then it has decoded every block without complaint. Other left-over bytes mean damaged compressed data.
    """
    extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    if not extra or end < int(extra[1]):
        return False
    return len(set(data[end - int(extra[1]) : end])) == 1


def decode_webp(stored: Stored) -> np.ndarray:
    # Pillow decodes WebP by way of an animation's canvas: slower, and three times the memory.
    picture = cv2.imdecode(np.frombuffer(stored.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise corrupt("WebP", "the compressed data do not decode")
    to_rgbx = cv2.COLOR_BGR2RGBA if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return _on_canvas(cv2.cvtColor(picture, to_rgbx), stored)


def decode_gif(stored: Stored) -> np.ndarray:
    return _on_canvas(decode_with_pillow(stored, "GIF"), stored)


def _on_canvas(pixels: np.ndarray, stored: Stored) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (width, height) == (stored.width, stored.height):
        return pixels
    canvas = np.zeros((stored.height, stored.width, 4), np.uint8)
    canvas[stored.top : stored.top + height, stored.left : stored.left + width] = pixels
    return canvas


def decode_with_pillow(stored: Stored, image_format: str) -> np.ndarray:
    image = Image.open(io.BytesIO(stored.data), formats=[image_format])
    image.load()
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return _rgbx_of_pillow(image)
    # In strips, because each of Pillow's conversions makes a copy.
    pixels = np.empty((height, width, 4), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = _rgbx_of_pillow(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _rgbx_of_pillow(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "RGBX"):
        return np.asarray(image)
    if image.mode == "CMYK":
        return _rgbx_of_cmyk(np.asarray(image), inverted=False)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 4, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise ItemError(
            "unsupported_format", f"{image.mode} samples are not supported; convert to 8 bits RGB or grey"
        )
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)


def _rgbx_of_cmyk(cmyk: np.ndarray, inverted: bool) -> np.ndarray:
    """As TensorFlow's JPEG reader: no colour profile; the light that an ink leaves times what black leaves.

    Adobe's programs store CMYK in a JPEG inverted, as light instead of ink.
    """
    pixels = np.empty_like(cmyk)
    rows = max(1, _STRIP_PIXELS // cmyk.shape[1])
    for top in range(0, len(cmyk), rows):
        light = cmyk[top : top + rows] if inverted else 255 - cmyk[top : top + rows]
        pixels[top : top + rows] = light.astype(np.uint16) * light[..., 3:] // 255
    return pixels
