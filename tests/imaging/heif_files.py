"""AVIF and HEIC files built box by box, including those that no encoder writes."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image

from tests.imaging import image_files as files


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


class Item(NamedTuple):
    """A picture or a grid: its type, its properties as boxes, and its data."""

    kind: bytes
    properties: tuple[bytes, ...]
    content: bytes


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


def coded(pixels: np.ndarray | Image.Image, size: tuple[int, int] | None = None, **options) -> Item:
    """A picture that Pillow encodes; `size` is the stated one."""
    data = files.save(pixels, "AVIF", **{"speed": 10, **options})
    at = data.index(b"av1C") - 4
    width, height = size or (pixels.size if isinstance(pixels, Image.Image) else pixels.shape[1::-1])
    return Item(b"av01", (ispe(width, height), data[at : at + 12]), data[data.index(b"mdat") + 4 :])


def grid(columns: int, rows: int, width: int, height: int) -> Item:
    content = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    return Item(b"grid", (ispe(width, height),), content)


def avif(
    *items: Item,
    tiles: Sequence[int] = (),
    brand: bytes = b"avif",
    essential: int = 0,
    extents: int = 1,
    in_idat: bool = False,
    more: bytes = b"",
    compatible: bytes = b"avif",
) -> bytes:
    """A file whose first item is the picture; `tiles` are the numbers, from 1 on, of the items of its grid.

    `extents`: number of pieces of each item's data; `in_idat`: whether they are in that box; `more`: boxes before the
    others in the meta box.
    """
    contents = [item.content for item in items]
    pool = [entry for item in items for entry in item.properties]
    uses, first = b"", 1
    for number, item in enumerate(items, 1):
        indices = bytes(essential | index for index in range(first, first + len(item.properties)))
        uses += struct.pack(">HB", number, len(indices)) + indices
        first += len(indices)
    entries = [
        box(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, item.kind))
        for number, item in enumerate(items, 1)
    ]

    def head(start: int) -> bytes:
        places = b""
        for number, content in enumerate(contents, 1):
            places += struct.pack(">HHHH", number, int(in_idat), 0, extents)
            step = -(-len(content) // extents)
            for at in range(0, extents * step, step):
                places += struct.pack(
                    ">QI", start + min(at, len(content)), max(0, min(step, len(content) - at))
                )
            start += len(content)
        references = box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles))
        meta = box(
            b"meta",
            bytes(4),
            more,
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", struct.pack(">IHH", 1 << 24, 0x8400, len(items)), places),
            box(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
            box(b"iref", bytes(4), references) if tiles else b"",
            box(b"iprp", box(b"ipco", *pool), box(b"ipma", struct.pack(">II", 0, len(items)), uses)),
            box(b"idat", *contents) if in_idat else b"",
        )
        return box(b"ftyp", brand, bytes(4), compatible, b"mif1miaf") + meta

    if in_idat:
        return head(0)
    start = len(head(0)) + 8
    return head(start) + box(b"mdat", *contents)


def hevc(pixels: np.ndarray, size: tuple[int, int] | None = None, **options) -> Item:
    """A picture that pillow-heif encodes; `size` is the stated one."""
    data = heic_of(pixels, **options)
    at = data.index(b"hvcC") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    return Item(b"hvc1", (ispe(*size or pixels.shape[1::-1]), data[at:end]), data[data.index(b"mdat") + 4 :])


def heic_of(pixels: np.ndarray | Image.Image, **options) -> bytes:
    """A file as pillow-heif writes it."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    pillow_heif.from_pillow(image).save(file, **{"quality": 60, **options})
    return file.getvalue()


def heic(*items: Item, **options) -> bytes:
    """A file whose first item is the picture; options as of `avif`."""
    return avif(*items, **{"brand": b"heic", "compatible": b"heic", **options})


def packed(bits: str) -> bytes:
    """Zeros and ones, with spaces for readability, as bytes."""
    bits = bits.replace(" ", "")
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def unit(kind: int, content: bytes) -> bytes:
    """An open bitstream unit of AV1."""
    size, digits = len(content), b""
    while size > 127:
        size, digits = size >> 7, digits + bytes([size & 127 | 128])
    return bytes([kind << 3 | 2]) + digits + bytes([size]) + content


def sequence(width: int, height: int, before: str = "0 0 00000 000000000000 00000") -> bytes:
    """A sequence header, not of a still picture; `before`: timing, delays and operating points."""
    size = f"1111 1111 {width - 1:016b} {height - 1:016b}"
    return unit(1, packed(f"000 0 0 {before} {size} 0 000 0000 0 1 1 0 000"))


def frame(has_own_size: bool, before: str = "0 00 1") -> bytes:
    """The header of a frame without its data: a shown key frame, unless `before` says otherwise."""
    return unit(6, packed(f"{before} 0 0 {int(has_own_size)}") + bytes(20))


AV1C = box(b"av1C", b"\x81\0\x0c\0")


def claimed(width: int, height: int, *units: bytes) -> bytes:
    """A file of these units that states this size."""
    return avif(Item(b"av01", (ispe(width, height), AV1C), b"".join(units)))
