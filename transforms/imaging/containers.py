"""Reduces an image file to the one picture that is wanted, before any decoder sees it.

Each function walks the file's structure, finds truncation, the size and the orientation, and leaves out
all that the pixels of the first picture do not need: metadata (so that a compressed text that unpacks to
gigabytes costs nothing), further frames, separate alpha. Formats: PNG 1.2, GIF89a, RFC 9649 (WebP), Exif 2.32;
JPEG and TIFF have modules of their own.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from transforms.errors import ItemError

_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Stored:
    """One picture of an image file.

    Attributes:
      data: a file of the same format with this picture only.
      width, height: of the canvas, in pixels, before any turn.
      orientation: Exif 2.32's 1 to 8; 1 is upright.
      left, top: where the picture stands on the canvas, which is black around it.
    """

    data: bytes
    width: int
    height: int
    orientation: int = 1
    left: int = 0
    top: int = 0


def truncated(image_format: str, where: str) -> ItemError:
    return ItemError("truncated", f"{image_format} ends {where}; fetch or copy it again")


def corrupt(image_format: str, what: str) -> ItemError:
    return ItemError("corrupt", f"{image_format} is damaged: {what}; fetch or copy it again")


def read_png(data: bytes) -> Stored:
    kept, exif, at = [data[:8]], b"", 8
    seen_pixels = False
    while True:
        if at + 12 > len(data):
            raise truncated("PNG", f"at byte {len(data)}, before its IEND chunk")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf"):
            if kind == b"CgBI":
                raise ItemError(
                    "unsupported_format", "Apple's CgBI variant of PNG is not supported; convert it"
                )
            if not kind[0] & 0x20:
                raise corrupt("PNG", f"unknown critical chunk {kind!r} at byte {at}")
            at = end
            continue
        if end > len(data):
            raise truncated("PNG", f"at byte {len(data)}, inside its {kind.decode()} chunk")
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            if kind == b"eXIf":
                at = end
                continue
            raise corrupt("PNG", f"checksum of the {kind.decode()} chunk at byte {at}")
        if kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        else:
            kept.append(data[at:end])
        seen_pixels = seen_pixels or kind == b"IDAT"
        if kind == b"IEND":
            break
        at = end
    if not kept[1][4:8] == b"IHDR" or len(kept[1]) != 25:
        raise corrupt("PNG", "no IHDR chunk at its start")
    if not seen_pixels:
        raise corrupt("PNG", "no IDAT chunk")
    width, height = struct.unpack_from(">II", kept[1], 8)
    return Stored(b"".join(kept), width, height, exif_orientation(exif))


def read_webp(data: bytes) -> Stored:
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
    frame_width, frame_height = _webp_frame_size(frame)
    # An alpha chunk stays behind: it changes no colour.
    return Stored(
        b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame,
        max(width, left + frame_width),
        max(height, top + frame_height),
        exif_orientation(exif),
        left,
        top,
    )


def _webp_frame_size(frame: bytes) -> tuple[int, int]:
    if frame[:4] == b"VP8 " and frame[11:14] == b"\x9d\x01\x2a" and len(frame) >= 18:
        width, height = struct.unpack_from("<HH", frame, 14)
        return width & 0x3FFF, height & 0x3FFF
    if frame[:4] == b"VP8L" and frame[8:9] == b"\x2f" and len(frame) >= 13:
        bits = int.from_bytes(frame[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise corrupt("WebP", "no picture in it")


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def read_gif(data: bytes) -> Stored:
    try:
        return _first_frame_of_gif(data)
    except (IndexError, struct.error):
        raise truncated("GIF", f"at byte {len(data)}, inside its first picture") from None


def _first_frame_of_gif(data: bytes) -> Stored:
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
            at += 1  # a stray terminator, which every reader steps over
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


def read_bmp(data: bytes) -> Stored:
    if len(data) < 54:
        raise truncated("BMP", f"at byte {len(data)}, inside its header")
    if data[14] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        compression = 0
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3, 6):  # plain, or with masks for each channel
        raise ItemError("unsupported_format", "a compressed BMP is not supported; convert it to PNG")
    return Stored(data, width, abs(height))


def exif_orientation(exif: bytes) -> int:
    """1 to 8 of an Exif block; 1, which is upright, where the tag is absent or damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if not order:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
