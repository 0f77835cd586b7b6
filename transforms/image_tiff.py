"""Reduces a TIFF 6.0 or BigTIFF file to its first page and to the tags that its pixels need."""

from __future__ import annotations

import struct

import numpy as np

from transforms.elements import ItemError
from transforms.image_containers import Stored, corrupt, truncated

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SAMPLE_FORMAT = 339
# Everything else, from colour profiles to private tables, is left out.
_KEPT_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT}
    | {_STRIP_OFFSETS, _STRIP_SIZES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES}
    | {266, 277, 278, 284}  # fill order, samples a pixel, rows a strip, planar configuration
    | {292, 293, 317, 320}  # options of T.4 and T.6, predictor, palette
    | {332, 338, 347}  # inks, extra samples, JPEG tables
    | {512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}  # JPEG of TIFF 6.0, YCbCr
)
_UNIT_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {
    16: 8,
    17: 8,
    18: 8,
}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_TILE_PIXELS_MAX = 1 << 24  # a tile of a small picture may be larger than the picture, but not without limit


def read_tiff(data: bytes) -> Stored:
    try:
        return _first_page(data)
    except struct.error:
        raise truncated("TIFF", f"at byte {len(data)}, before or inside its tag table") from None


def _first_page(data: bytes) -> Stored:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    count_format, entry_format, inline_bytes = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    (table_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_format, data, table_at)
    entry_bytes = struct.calcsize(order + entry_format)
    at = table_at + struct.calcsize(order + count_format)
    if count > len(data) // entry_bytes:
        raise corrupt("TIFF", f"{count} tags in {len(data)} bytes")
    kept: list[bytes] = []
    tags: dict[int, np.ndarray] = {}
    outside = 0
    for entry in range(at, at + count * entry_bytes, entry_bytes):
        tag, kind, number, value = struct.unpack_from(order + entry_format, data, entry)
        if tag in tags or kind not in _UNIT_BYTES or tag not in _KEPT_TAGS | {_ORIENTATION}:
            continue
        size = number * _UNIT_BYTES[kind]
        start = entry + entry_bytes - inline_bytes
        if size > inline_bytes:
            start = int.from_bytes(value, "little" if order == "<" else "big")
            outside += size
            if start + size > len(data):
                raise truncated("TIFF", f"at byte {len(data)}, before the values of its tag {tag}")
        if kind in _UNSIGNED:
            tags[tag] = np.frombuffer(data, order + _UNSIGNED[kind], number, start)
        if tag in _KEPT_TAGS:
            kept.append(data[entry : entry + entry_bytes])
    if outside > len(data):
        raise corrupt("TIFF", "its tags overlap")

    def first(tag: int, default: int) -> int:
        return int(tags[tag][0]) if tag in tags and len(tags[tag]) else default

    width, height = first(_WIDTH, 0), first(_HEIGHT, 0)
    _check_supported(tags, first(_COMPRESSION, 1), first(_PHOTOMETRIC, 0))
    tile_pixels = first(_TILE_WIDTH, 0) * first(_TILE_HEIGHT, 0)
    if tile_pixels > max(_TILE_PIXELS_MAX, 4 * width * height):
        raise corrupt("TIFF", f"tiles of {tile_pixels} pixels for a picture of {width} x {height}")
    for offsets, sizes in ((_STRIP_OFFSETS, _STRIP_SIZES), (_TILE_OFFSETS, _TILE_SIZES)):
        if offsets in tags and sizes in tags and len(tags[offsets]) == len(tags[sizes]):
            ends = tags[offsets].astype(np.float64) + tags[sizes]
            if len(ends) and ends.max() > len(data):
                raise truncated("TIFF", f"at byte {len(data)} of {int(ends.max())}")
    orientation = first(_ORIENTATION, 1)
    table = struct.pack(order + count_format, len(kept)) + b"".join(kept) + bytes(inline_bytes)
    page = data[:table_at] + table + data[table_at + len(table) :]
    return Stored(page, width, height, orientation if 1 <= orientation <= 8 else 1)


def _check_supported(tags: dict[int, np.ndarray], compression: int, photometric: int) -> None:
    bits = set(tags.get(_BITS, np.array([1])).tolist())
    if set(tags.get(_SAMPLE_FORMAT, np.array([1])).tolist()) - {1}:
        problem = "signed or floating-point samples"
    elif bits - {1, 2, 4, 8, 16}:
        problem = f"{max(bits)} bits a sample"
    elif bits == {16} and photometric == 0:
        problem = "16-bit grey with white as zero"
    elif photometric == 6 and compression == 1:
        problem = "uncompressed YCbCr"
    elif photometric in (8, 9, 10):
        problem = "Lab colour"
    else:
        return
    raise ItemError(
        "unsupported_format",
        f"TIFF with {problem} is not supported; convert it to 8 or 16 bits RGB, grey or CMYK",
    )
