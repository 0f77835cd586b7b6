"""From the one stored picture to its pixels, uint8 (height, width, 3) RGB.

All raise ItemError, or whatever the library underneath raises on bytes that it cannot decode.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import threading
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin  # noqa: F401  (makes Image.open know TIFF without a search for plugins)

from transforms.errors import ItemError
from transforms.imaging.containers import Stored, corrupt
from transforms.imaging.jpeg import StoredJpeg, check_length, check_scans, read_jpeg, without_profile
from transforms.imaging.tiff import StoredTiff

# Whatever stops a decoder becomes an ItemError; that OpenCV and libtiff tell it to stderr too helps nobody.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
with contextlib.suppress(AttributeError):  # a Pillow whose libtiff is not a library of its own, or has none
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
# The caller checks the size from the header before any decoder runs; Pillow's check would warn on stderr.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of is metadata, which is not used here; a line on stderr for each picture helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")

_KEPT_BYTES = 48 << 20  # a picture of 16 megapixels
_kept = threading.local()
_FAULTS_MAX = 3  # harmless ones that are mended in one JPEG
_STRIP_PIXELS = 1 << 20


def decode_jpeg(stored: StoredJpeg, least_side: int) -> np.ndarray:
    """The picture in full; or, if `least_side` is not 0, at as few eighths as keep both sides that long.

    At four eighths or fewer: between a half and full size, scaling costs more than it saves.
    The pixels stand until the thread's next call.
    """
    data = stored.data
    check_length(stored)
    shorter, width, height = min(stored.width, stored.height), stored.width, stored.height
    check_scans(stored)
    if 0 < least_side <= -(-shorter // 2):
        width, height = -(-width // 2), -(-height // 2)
    options = {
        "colorspace": "CMYK" if stored.components == 4 else "RGB",
        "min_height": least_side,
        "min_width": least_side,
        "min_factor": 2,
        "buffer": _room(width * height * (4 if stored.components == 4 else 3)),
    }
    for faults_left in range(_FAULTS_MAX, -1, -1):
        try:
            pixels = simplejpeg.decode_jpeg(data, **options)
            break
        except ValueError as error:
            if "Could not determine subsampling" in str(error):
                # TurboJPEG refuses unusual chroma layouts, which Pillow decodes.
                return decode_with_pillow(stored, "JPEG")
            if not faults_left:
                raise
            data = _without_harmless_fault(data, error)
    return _rgb_of_cmyk(pixels, inverted=stored.adobe) if stored.components == 4 else pixels


def _room(size_bytes: int) -> np.ndarray:
    """uint8, at least so many. The thread's own: the system takes longer to give fresh memory than resizing takes."""
    if size_bytes > _KEPT_BYTES:
        return np.empty(size_bytes, np.uint8)
    if not hasattr(_kept, "bytes") or len(_kept.bytes) < size_bytes:
        _kept.bytes = np.empty(size_bytes, np.uint8)
    return _kept.bytes


# Start of scan, with one to four components: then come three numbers that only progressive JPEGs use.
_SCAN = re.compile(rb"(\xff\xda\0(?:\x08\x01.{2}|\x0a\x02.{4}|\x0c\x03.{6}|\x0e\x04.{8})).{3}", re.DOTALL)


def _without_harmless_fault(data: bytes, error: ValueError) -> bytes:
    """The JPEG without the one fault that libjpeg warned of, where cameras make it and the picture is whole.

    To decode once more with all warnings ignored would hide faults that are not harmless.
    """
    message = str(error)
    if message == "Invalid SOS parameters for sequential JPEG":
        return _SCAN.sub(lambda scan: scan[1] + b"\x00\x3f\x00", data)
    if message.startswith("Warning: unknown JFIF revision number"):
        return data.replace(b"JFIF\0" + data[11:13], b"JFIF\0\1\1", 1)
    if message == "Corrupt JPEG data: bad ICC marker":
        return without_profile(data)
    padding = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    start = end - int(padding[1]) if padding else -1
    # Filler is one byte over and over; other bytes that are left over come from damaged compressed data.
    if start > 0 and len(set(data[start:end])) == 1:
        return data[:start] + data[end:]
    raise error


def decode_webp(stored: Stored) -> np.ndarray:
    # Pillow decodes WebP by way of an animation's canvas: slower, and three times the memory.
    picture = cv2.imdecode(np.frombuffer(stored.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise corrupt("WebP", "the compressed data do not decode")
    to_rgb = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGB
    return _on_canvas(cv2.cvtColor(picture, to_rgb), stored)


def decode_gif(stored: Stored) -> np.ndarray:
    return _on_canvas(decode_with_pillow(stored, "GIF"), stored)


def decode_tiff(stored: StoredTiff) -> np.ndarray:
    # libtiff goes on over damaged JPEG data and gives grey pixels; libjpeg can be told not to.
    for jpeg in stored.jpegs():
        strip = read_jpeg(jpeg)
        if strip.width * strip.height > stored.strip_pixels:
            raise corrupt("TIFF", f"a strip of {strip.width} x {strip.height} pixels")
        check_length(strip)
        check_scans(strip)
        simplejpeg.decode_jpeg(jpeg)
    return decode_with_pillow(stored, "TIFF")


def _on_canvas(pixels: np.ndarray, stored: Stored) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (width, height) == (stored.width, stored.height):
        return pixels
    canvas = np.zeros((stored.height, stored.width, 3), np.uint8)
    canvas[stored.top : stored.top + height, stored.left : stored.left + width] = pixels
    return canvas


def decode_with_pillow(stored: Stored, image_format: str) -> np.ndarray:
    image = Image.open(io.BytesIO(stored.data), formats=[image_format])
    width, height = image.size
    # Where the two readers of a header disagree, a limit was held against another picture than would be decoded.
    if image_format == "JPEG" and (width, height) != (stored.width, stored.height):
        raise corrupt("JPEG", f"two sizes, {stored.width} x {stored.height} and {width} x {height}")
    image.load()
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return _rgb_of_pillow(image)
    # In strips, because each of Pillow's conversions makes a copy.
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = _rgb_of_pillow(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _rgb_of_pillow(image: Image.Image) -> np.ndarray:
    if image.mode == "CMYK":
        return _rgb_of_cmyk(np.asarray(image), inverted=False)
    if image.mode.startswith("I;16"):
        return np.repeat(np.right_shift(np.asarray(image), 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise ItemError(
            "unsupported_format", f"{image.mode} samples are not supported; convert to 8 bits RGB"
        )
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_of_cmyk(cmyk: np.ndarray, inverted: bool) -> np.ndarray:
    """As TensorFlow's JPEG reader: no colour profile; the light that an ink leaves times what black leaves.

    Adobe's programs store CMYK in a JPEG inverted, as light instead of ink.
    """
    pixels = np.empty((*cmyk.shape[:2], 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // cmyk.shape[1])
    for top in range(0, len(cmyk), rows):
        light = cmyk[top : top + rows] if inverted else 255 - cmyk[top : top + rows]
        pixels[top : top + rows] = light[..., :3].astype(np.uint16) * light[..., 3:] // 255
    return pixels
