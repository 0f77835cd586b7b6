"""The first directory of tags of a TIFF 6.0 or BigTIFF file, reduced to the tags that its pixels need."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from transforms.imaging.base import corrupt, truncated

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES = 273, 279, 324, 325
TILE_WIDTH, TILE_HEIGHT = 322, 323
SAMPLES, PLANES, SAMPLE_FORMAT, JPEG_TABLES = 277, 284, 339, 347
# Everything else is dropped, from colour profiles to private tables.
_KEPT_TAGS = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT}
    | {STRIP_OFFSETS, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES}
    | {SAMPLES, PLANES, 266, 278}  # and fill order, rows per strip
    | {292, 293, 317, 320}  # options of T.4 and T.6, predictor, palette
    | {332, 338, JPEG_TABLES}  # and inks, extra samples
    | {529, 530, 531, 532}  # YCbCr
)
_UNIT_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {
    16: 8,
    17: 8,
    18: 8,
}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}


@dataclass(frozen=True)
class Page:
    """One directory of tags: the values of each tag by number, and the file with only what decoding needs."""

    tags: dict[int, np.ndarray]
    data: bytes

    def all(self, tag: int, default: int) -> list[int]:
        """The unsigned values of a tag; `[default]` if it is absent or of another type."""
        return self.tags[tag].tolist() if tag in self.tags and self.tags[tag].size else [default]

    def one(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return self.all(tag, default)[0]


def first_page(data: bytes) -> Page:
    """Reads the first directory of a TIFF. Raises ItemError; struct.error if the data end before or inside it."""
    order, byteorder = ("<", "little") if data[:2] == b"II" else (">", "big")
    is_big = 43 in data[2:4]
    pointer, counter, entry_format, value_bytes = ("Q", "Q", "HHQ", 8) if is_big else ("I", "H", "HHI", 4)
    (table_at,) = struct.unpack_from(order + pointer, data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + counter, data, table_at)
    entry_bytes = struct.calcsize(order + entry_format) + value_bytes
    if count > len(data) // entry_bytes:
        raise corrupt("TIFF", f"{count} tags in {len(data)} bytes")
    kept: dict[int, bytes] = {}
    tags: dict[int, np.ndarray] = {}
    outside = 0
    for number in range(count):
        at = table_at + struct.calcsize(order + counter) + number * entry_bytes
        tag, kind, length = struct.unpack_from(order + entry_format, data, at)
        if tag in tags or kind not in _UNIT_BYTES or tag not in _KEPT_TAGS | {ORIENTATION}:
            continue
        size = length * _UNIT_BYTES[kind]
        start = at + entry_bytes - value_bytes
        if size > value_bytes:
            start = int.from_bytes(data[start : at + entry_bytes], byteorder)  # type: ignore[arg-type]
            outside += size
        if start + size > len(data):
            raise truncated("TIFF", f"at byte {len(data)}, before the values of its tag {tag}")
        tags[tag] = np.frombuffer(
            data, order + _UNSIGNED.get(kind, "u1"), length if kind in _UNSIGNED else 0, start
        )
        if tag in _KEPT_TAGS:
            kept[tag] = data[at : at + entry_bytes]
    if outside > len(data):
        raise corrupt("TIFF", "its tags overlap")
    if SAMPLES not in tags or 1 in tags[SAMPLES]:
        kept.pop(PLANES, None)  # one sample per pixel means one plane, and the tag confuses Pillow
    table = struct.pack(order + counter, len(kept)) + b"".join(kept.values()) + bytes(value_bytes)
    return Page(tags, data[:table_at] + table + data[table_at + len(table) :])
