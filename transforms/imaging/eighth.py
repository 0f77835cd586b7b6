"""Large JPEGs at an eighth of their size in native code: the pixels of libjpeg-turbo's scaled decoding, faster."""

from __future__ import annotations

import struct

import numpy as np

from transforms.imaging import native
from transforms.imaging.jpeg import StoredJpeg, segments

_DONE, _OTHERWISE = 0, 1
_SCRATCH_BYTES = 6 * 64 * 4 + 16  # beside the compressed data


def room_bytes(stored: StoredJpeg) -> int:
    """What `decode_eighth` needs for the pixels and to work in."""
    return 3 * -(-stored.height // 8) * -(-stored.width // 8) + len(stored.data) + _SCRATCH_BYTES


_LAYOUTS = ((0x11,), (0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x22, 0x11, 0x11))  # sampling factors


def decode_eighth(stored: StoredJpeg, room: np.ndarray) -> np.ndarray | None:
    """The picture at an eighth of its size, rounded up; None where libjpeg has to do it, which tells of faults, too.

    Args:
      stored: any JPEG.
      room: uint8, at least `room_bytes`.

    Returns:
      uint8 (height, width, 3), RGB, within `room`.
    """
    height, width = -(-stored.height // 8), -(-stored.width // 8)
    pixels, scratch = np.split(room, [3 * height * width])
    picture = _picture(stored) if native.LIBRARY else None
    if native.LIBRARY is None or picture is None:
        return None
    status = native.LIBRARY.decode_eighth(picture, scratch.ctypes.data, pixels.ctypes.data)
    if status == _DONE:
        return pixels.reshape(height, width, 3)
    if status == _OTHERWISE:
        return None
    raise MemoryError


def _picture(stored: StoredJpeg) -> native.Picture | None:
    """What the native code needs to know; None if it does not decode such a picture."""
    data = stored.data
    tables: dict[int, bytes] = {}  # Huffman tables by class and number
    quantization: dict[int, tuple[int, ...]] = {}
    frame, scan, jfif, restart, end = b"", b"", False, 0, 0
    try:
        for marker, start, end in segments(data):
            body = data[start + 4 : end]
            if marker in (0xC0, 0xC1):
                if frame:
                    return None
                frame = body
            elif marker == 0xC4:
                _add_huffman(body, tables)
            elif marker == 0xDB:
                _add_quantization(body, quantization)
            elif marker == 0xDD:
                (restart,) = struct.unpack(">H", body)
            elif marker == 0xE0 and body.startswith(b"JFIF\0"):
                if len(body) < 14 or body[5] != 1:
                    return None
                jfif = True
            elif marker == 0xDA and data[start] == 0xFF:
                (length,) = struct.unpack_from(">H", data, start + 2)
                scan, end = data[start + 4 : start + 2 + length], start + 2 + length
            elif marker != 0xFE and not 0xE0 <= marker <= 0xEF:
                return None
        ids, factors, numbers = frame[6::3], frame[7::3], frame[8::3]
        count = frame[5]
        layout = tuple(factors) if count == 3 else (0x11,)  # a component alone comes block by block
        ycbcr = count == 1 or jfif or (not stored.adobe and ids == b"\1\2\3")
        expected = (
            bytes([count]) + b"".join(bytes([i, scan[2 + 2 * n]]) for n, i in enumerate(ids)) + b"\0\x3f\0"
        )
        if (
            count not in (1, 3)
            or len(frame) != 6 + 3 * count
            or layout not in _LAYOUTS
            or not ycbcr
            or scan != expected
        ):
            return None
        picture = native.Picture(
            width=stored.width,
            height=stored.height,
            components=count,
            across=layout[0] >> 4,
            down=layout[0] & 15,
            restart=restart,
        )
        for n in range(count):
            chosen = scan[2 + 2 * n]
            picture.dc[n][:] = tables[chosen >> 4]
            picture.ac[n][:] = tables[0x10 | chosen & 15]
            picture.quantization[n][:] = quantization[numbers[n]]
    except (IndexError, KeyError, ValueError, struct.error):
        return None
    picture.hold(data, end)
    return picture


def _add_huffman(body: bytes, tables: dict[int, bytes]) -> None:
    while body:
        count = sum(body[1:17])
        if count > 256 or len(body) < 17 + count or body[0] & ~0x13:
            raise ValueError
        tables[body[0]] = body[1 : 17 + count].ljust(16 + 256, b"\0")
        body = body[17 + count :]


def _add_quantization(body: bytes, quantization: dict[int, tuple[int, ...]]) -> None:
    while body:
        if body[0] & ~0x13:
            raise ValueError
        size, kind = (129, ">64H") if body[0] >> 4 else (65, ">64B")
        quantization[body[0] & 15] = struct.unpack(kind, body[1:size])
        body = body[size:]
