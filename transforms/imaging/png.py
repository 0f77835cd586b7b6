"""PNG 1.2, and the first picture of an APNG."""

from __future__ import annotations

import re
import struct
import zlib

from transforms.errors import ItemError
from transforms.imaging import pillow
from transforms.imaging.base import Format, Stored, corrupt, exif_orientation, truncated


def reduce(data: bytes) -> Stored:
    """Keeps the picture's own chunks and drops all others, including the further frames of an APNG."""
    kept, exif, at = [data[:8]], b"", 8
    has_pixels = False
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
        has_pixels = has_pixels or kind == b"IDAT"
        if kind == b"IEND":
            break
        at = end
    if not kept[1][4:8] == b"IHDR" or len(kept[1]) != 25:
        raise corrupt("PNG", "no IHDR chunk at its start")
    if not has_pixels:
        raise corrupt("PNG", "no IDAT chunk")
    width, height = struct.unpack_from(">II", kept[1], 8)
    return Stored(b"".join(kept), width, height, exif_orientation(exif))


FORMAT = Format(
    "PNG",
    re.compile(rb"\x89PNG\r\n\x1a\n"),
    (".png", ".apng"),
    reduce,
    pillow.decoder("PNG"),
    ("pillow",),
)
