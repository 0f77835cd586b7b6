"""GIF87a and GIF89a, and the first frame of an animated one."""

from __future__ import annotations

import re
import struct

import numpy as np

from transforms.imaging import pillow
from transforms.imaging.base import Format, Stored, corrupt, on_canvas, truncated


def reduce(data: bytes) -> Stored:
    """The first frame as a GIF of its own, with a colour table that is black where the frame is transparent."""
    try:
        return _first_frame(data)
    except (IndexError, struct.error):
        raise truncated("GIF", f"at byte {len(data)}, inside its first picture") from None


def _first_frame(data: bytes) -> Stored:
    canvas_width, canvas_height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13
    palette = b""
    if flags & 0x80:
        palette = data[at : at + (6 << (flags & 7))]
        at += 6 << (flags & 7)
    transparent = None
    while data[at] != 0x2C:
        if data[at] == 0x3B:
            raise corrupt("GIF", "no picture in it")
        if data[at] == 0x21:
            if data[at + 1] == 0xF9 and data[at + 3] & 1:
                transparent = data[at + 6]
            at = _end_of_sub_blocks(data, at + 2)
        elif data[at] == 0:
            at += 1  # a stray terminator, which every reader skips
        else:
            raise corrupt("GIF", f"unknown block {data[at]:#04x} at byte {at}")
    left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
    at += 10
    if flags & 0x80:
        palette = data[at : at + (6 << (flags & 7))]
        at += 6 << (flags & 7)
    if not palette:
        raise corrupt("GIF", "no colour table")
    end = _end_of_sub_blocks(data, at + 1)
    # Transparent pixels, and indices that the colour table lacks, are black.
    table = bytearray(palette.ljust(768, b"\0"))
    if transparent is not None:
        table[3 * transparent : 3 * transparent + 3] = b"\0\0\0"
    frame = b"".join(
        (
            b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0),
            table,
            struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, flags & 0x40),
            data[at:end],
            b";",
        )
    )
    return Stored(
        frame, max(canvas_width, left + width), max(canvas_height, top + height), left=left, top=top
    )


def _end_of_sub_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The frame on its canvas."""
    return on_canvas(pillow.decode(stored.data, "GIF"), stored)


FORMAT = Format(
    "GIF",
    re.compile(rb"GIF8[79]a"),
    (".gif",),
    reduce,
    decode,
    ("pillow",),
)
