"""WebP (RFC 9649), and the first frame of an animated one."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np

from transforms.imaging.base import Format, Stored, corrupt, exif_orientation, on_canvas, truncated

# Decoding errors become ItemErrors; OpenCV need not print them on stderr as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def reduce(data: bytes) -> Stored:
    """Keeps the first frame, without its separate alpha chunk."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("WebP", f"at byte {len(data)} of {end}")
    width = height = left = top = 0
    frame, exif = b"", b""
    at = 12
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        body, at = at + 8, at + 8 + size + (size & 1)
        if body + size > end:
            raise corrupt("WebP", f"its {kind!r} chunk reaches beyond the end")
        if kind == b"VP8X" and size >= 10:
            width, height = 1 + _u24(data, body + 4), 1 + _u24(data, body + 7)
        elif kind == b"EXIF":
            exif = data[body : body + size]
        elif not frame and kind == b"ANMF" and size >= 16:
            left, top = 2 * _u24(data, body), 2 * _u24(data, body + 3)
            at, frame_end = body + 16, body + size
            while not frame and at + 8 <= frame_end:
                kind, size = struct.unpack_from("<4sI", data, at)
                if at + 8 + size > frame_end:
                    raise corrupt("WebP", f"its {kind!r} chunk reaches beyond its frame")
                if kind in (b"VP8 ", b"VP8L"):
                    frame = data[at : at + 8 + size + (size & 1)]
                at += 8 + size + (size & 1)
            at = frame_end + (frame_end - body & 1)
        elif not frame and kind in (b"VP8 ", b"VP8L"):
            frame = data[body - 8 : at]
    frame_width, frame_height = _frame_size(frame)
    # An alpha chunk is dropped: it changes no colour.
    return Stored(
        b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame,
        max(width, left + frame_width),
        max(height, top + frame_height),
        exif_orientation(exif),
        left,
        top,
    )


def _frame_size(frame: bytes) -> tuple[int, int]:
    if frame[:4] == b"VP8 " and frame[11:14] == b"\x9d\x01\x2a" and len(frame) >= 18:
        width, height = struct.unpack_from("<HH", frame, 14)
        return width & 0x3FFF, height & 0x3FFF
    if frame[:4] == b"VP8L" and frame[8:9] == b"\x2f" and len(frame) >= 13:
        bits = int.from_bytes(frame[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise corrupt("WebP", "no picture in it")


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The frame on its canvas, without alpha."""
    # Pillow decodes WebP through an animation's canvas: slower, with three times the memory.
    picture = cv2.imdecode(np.frombuffer(stored.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise corrupt("WebP", "the compressed data do not decode")
    to_rgb = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGB
    return on_canvas(cv2.cvtColor(picture, to_rgb), stored)


FORMAT = Format(
    "WEBP",
    re.compile(rb"RIFF....WEBP", re.DOTALL),
    (".webp",),
    reduce,
    decode,
    ("opencv-python-headless",),
)
