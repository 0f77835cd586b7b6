"""JPEG, by libjpeg-turbo, which tells of damage that other readers make grey; in full or at a half of its size or less."""

from __future__ import annotations

import re
import threading

import numpy as np
import simplejpeg

from transforms.imaging import jpeg_header, pillow
from transforms.imaging.base import Format, Stored, corrupt
from transforms.imaging.jpeg_header import StoredJpeg

_KEPT_BYTES = 48 << 20  # a picture of 16 megapixels
_kept = threading.local()
_FAULTS_MAX = 3  # harmless ones that are mended in one JPEG


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The picture in full; or, if `least_side` is not 0, at as few eighths as keep both sides that long.

    At four eighths or fewer: between a half and full size, scaling costs more than it saves.
    """
    assert isinstance(stored, StoredJpeg)
    jpeg_header.check_cost(stored)
    data, profile = stored.data, stored.profile
    width, height = stored.width, stored.height
    if 0 < least_side <= -(-min(width, height) // 2):
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
                return _decode_with_pillow(stored)
            if not faults_left:
                raise
            if profile and str(error) == "Corrupt JPEG data: bad ICC marker":
                data, profile = _without(profile, data), ()
            else:
                data = _without_harmless_fault(data, error)
    return pillow.rgb_of_cmyk(pixels, inverted=stored.adobe) if stored.components == 4 else pixels


def _decode_with_pillow(stored: StoredJpeg) -> np.ndarray:
    """The pixels, in full, of a JPEG whose chroma layout TurboJPEG refuses."""
    image = pillow.opened(stored.data, "JPEG")
    # Where the two readers of a header disagree, a limit was held against another picture than would be decoded.
    if image.size != (stored.width, stored.height):
        width, height = image.size
        raise corrupt("JPEG", f"two sizes, {stored.width} x {stored.height} and {width} x {height}")
    return pillow.pixels_of(image)


def _room(size_bytes: int) -> np.ndarray:
    """uint8, at least so many. The thread's own: the system takes longer to give fresh memory than resizing takes."""
    if size_bytes > _KEPT_BYTES:
        return np.empty(size_bytes, np.uint8)
    if not hasattr(_kept, "bytes") or len(_kept.bytes) < size_bytes:
        _kept.bytes = np.empty(size_bytes, np.uint8)
    return _kept.bytes


def _without(spans: tuple[tuple[int, int], ...], data: bytes) -> bytes:
    """The data without these stretches, which are in order."""
    starts, ends = (0, *(end for _, end in spans)), (*(start for start, _ in spans), len(data))
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


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
    padding = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    start = end - int(padding[1]) if padding else -1
    # Filler is one byte over and over; other bytes that are left over come from damaged compressed data.
    if start > 0 and len(set(data[start:end])) == 1:
        return data[:start] + data[end:]
    raise error


FORMAT = Format(
    "JPEG",
    re.compile(rb"\xff\xd8\xff"),
    (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    jpeg_header.read,
    decode,
    ("simplejpeg", "pillow"),
    scales=True,
)
