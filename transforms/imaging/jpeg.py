"""JPEG, by libjpeg-turbo, which reports damage where other readers return grey pixels; full size, or at most half size."""

from __future__ import annotations

import re
import threading

import numpy as np
import simplejpeg

from transforms.errors import ItemError
from transforms.imaging import jpeg_header, pillow
from transforms.imaging.base import Format, Stored, corrupt
from transforms.imaging.jpeg_header import StoredJpeg

_BUFFER_BYTES_MAX = 48 << 20  # a picture of 16 megapixels
_thread = threading.local()
_FAULTS_MAX = 3  # harmless faults that are repaired in one JPEG


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The picture at full size; or, if `least_side` is not 0, at the fewest eighths that keep both sides that long.

    Never between half and full size, where scaling costs more than it saves.
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
        "buffer": _buffer(width * height * (4 if stored.components == 4 else 3)),
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
    """The full-size pixels of a JPEG whose chroma layout TurboJPEG refuses."""
    image = pillow.opened(stored.data, "JPEG")
    # If the two header readers disagree, the limits were checked for another picture than the one decoded here.
    if image.size != (stored.width, stored.height):
        width, height = image.size
        raise corrupt("JPEG", f"two sizes, {stored.width} x {stored.height} and {width} x {height}")
    return pillow.pixels_of(image)


def _buffer(size_bytes: int) -> np.ndarray:
    """At least this many uint8. Each thread reuses its own: fresh memory takes the system longer than resizing takes."""
    if size_bytes > _BUFFER_BYTES_MAX:
        return np.empty(size_bytes, np.uint8)
    if not hasattr(_thread, "buffer") or len(_thread.buffer) < size_bytes:
        _thread.buffer = np.empty(size_bytes, np.uint8)
    return _thread.buffer


def _without(spans: tuple[tuple[int, int], ...], data: bytes) -> bytes:
    """The data without these (start, end) spans, which are in order."""
    starts, ends = (0, *(end for _, end in spans)), (*(start for start, _ in spans), len(data))
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


# Start of scan with one to four components, then three numbers that only progressive JPEGs use.
_SCAN = re.compile(rb"(\xff\xda\0(?:\x08\x01.{2}|\x0a\x02.{4}|\x0c\x03.{6}|\x0e\x04.{8})).{3}", re.DOTALL)


def _without_harmless_fault(data: bytes, error: ValueError) -> bytes:
    """The JPEG without the fault that libjpeg warned about, if cameras produce it and the picture is complete.

    Decoding again with all warnings ignored would also hide faults that are not harmless.
    """
    message = str(error)
    if message == "Invalid SOS parameters for sequential JPEG":
        return _SCAN.sub(lambda scan: scan[1] + b"\x00\x3f\x00", data)
    if message.startswith("Warning: unknown JFIF revision number"):
        return data.replace(b"JFIF\0" + data[11:13], b"JFIF\0\1\1", 1)
    leftover = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x..", message)
    if not leftover:
        raise error
    at_end = message.endswith("d9")
    # Stray bytes before the first scan are gone already. To find those between scans takes a search of all data.
    if not at_end and (clean := jpeg_header.without_stray_bytes(data)) != data:
        return clean
    end = data.rfind(b"\xff\xd9") if at_end else -1
    start = end - int(leftover[1])
    # Padding repeats one byte. Other leftover bytes mostly come from damage: the decoder then read less than was written.
    if start > 0 and len(set(data[start:end])) == 1:
        return data[:start] + data[end:]
    raise ItemError(
        "corrupt",
        f"JPEG is probably damaged: at least {leftover[1]} bytes of its compressed data are left over; "
        "fetch or copy it again, or save it again if the picture looks right",
    ) from error


FORMAT = Format(
    "JPEG",
    re.compile(rb"\xff\xd8\xff"),
    (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    jpeg_header.read,
    decode,
    ("simplejpeg", "pillow"),
    scales=True,
)
