"""Reduces a TIFF 6.0 or BigTIFF file to its first page and to the tags that its pixels need."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transforms.errors import ItemError
from transforms.imaging.containers import Stored, corrupt, truncated

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SAMPLES, _PLANES, _SAMPLE_FORMAT, _JPEG_TABLES = 277, 284, 339, 347
# All else is left out, from colour profiles to private tables.
_KEPT_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT}
    | {_STRIP_OFFSETS, _STRIP_SIZES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES}
    | {_SAMPLES, _PLANES, 266, 278}  # and fill order, rows a strip
    | {292, 293, 317, 320}  # options of T.4 and T.6, predictor, palette
    | {332, 338, _JPEG_TABLES}  # and inks, extra samples
    | {529, 530, 531, 532}  # YCbCr
)
_UNIT_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {
    16: 8,
    17: 8,
    18: 8,
}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}
_TILE_PIXELS_MAX = 1 << 24  # a tile of a small picture may be larger than the picture, but not without limit
_JPEG_COMPRESSION = 7


@dataclass(frozen=True)
class StoredTiff(Stored):
    """A TIFF.

    Attributes:
      strips: where strips or tiles stand that are JPEGs, (start, size).
      strip_pixels: no strip or tile can need more.
      tables: what those JPEGs have in common, as a JPEG without a picture; or nothing.
    """

    strips: tuple[tuple[int, int], ...] = ()
    strip_pixels: int = 0
    tables: bytes = b""

    def jpegs(self) -> Iterator[bytes]:
        """Each strip as a JPEG that stands alone."""
        for start, size in self.strips:
            strip = self.data[start : start + size]
            yield self.tables[:-2] + strip[2:] if self.tables else strip


@dataclass(frozen=True)
class _Page:
    """What one directory of tags says: `tags` by number, and the file with only what decoding needs."""

    tags: dict[int, np.ndarray]
    data: bytes

    def all(self, tag: int, default: int) -> list[int]:
        return self.tags[tag].tolist() if tag in self.tags and self.tags[tag].size else [default]

    def one(self, tag: int, default: int) -> int:
        return self.all(tag, default)[0]


def read_tiff(data: bytes) -> Stored:
    try:
        page = _first_page(data)
    except struct.error:
        raise truncated("TIFF", f"at byte {len(data)}, before or inside its tag table") from None
    problem = _problem(page)
    if problem:
        raise ItemError(
            "unsupported_format",
            f"TIFF with {problem} is not supported; convert it to 8 bits RGB, grey or CMYK",
        )
    width, height = page.one(_WIDTH, 0), page.one(_HEIGHT, 0)
    tile_pixels = page.one(_TILE_WIDTH, 0) * page.one(_TILE_HEIGHT, 0)
    if tile_pixels > max(_TILE_PIXELS_MAX, 4 * width * height):
        raise corrupt("TIFF", f"tiles of {tile_pixels} pixels for a picture of {width} x {height}")
    orientation = page.one(_ORIENTATION, 1)
    return StoredTiff(
        page.data,
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        strips=_check_pixel_data(page, data),
        strip_pixels=max(tile_pixels, width * height),
        tables=page.tags.get(_JPEG_TABLES, np.empty(0, np.uint8)).tobytes(),
    )


def _first_page(data: bytes) -> _Page:
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
        if tag in tags or kind not in _UNIT_BYTES or tag not in _KEPT_TAGS | {_ORIENTATION}:
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
    if _SAMPLES not in tags or 1 in tags[_SAMPLES]:
        kept.pop(_PLANES, None)  # of one sample a pixel there is one plane, and the tag confuses Pillow
    table = struct.pack(order + counter, len(kept)) + b"".join(kept.values()) + bytes(value_bytes)
    return _Page(tags, data[:table_at] + table + data[table_at + len(table) :])


def _problem(page: _Page) -> str:
    """What Pillow or libtiff would not decode, decode wrongly, or decode without telling of damage; or ''."""
    bits, samples = set(page.all(_BITS, 1)), page.one(_SAMPLES, 1)
    compression, photometric = page.one(_COMPRESSION, 1), page.one(_PHOTOMETRIC, 0)
    if set(page.all(_SAMPLE_FORMAT, 1)) != {1}:
        return "signed or floating-point samples"
    if bits - {1, 2, 4, 8, 16}:
        return f"{max(bits)} bits a sample"
    if samples > 4:
        return f"{samples} samples a pixel"
    if 16 in bits and samples > 1 and page.one(_PLANES, 1) != 1:
        return "16 bits a sample in separate planes"
    if 16 in bits and photometric == 0:
        return "16 bits a sample and white as zero"
    if photometric in (8, 9, 10):
        return "Lab colour"
    if compression in (6, 50001) or (photometric == 6 and compression != _JPEG_COMPRESSION):
        return "WebP compression, the JPEG compression of TIFF 6.0, or YCbCr without JPEG compression"
    return ""


def _check_pixel_data(page: _Page, data: bytes) -> tuple[tuple[int, int], ...]:
    """Raises ItemError unless all strips or tiles are there; (start, size) of those that are JPEGs, each once."""
    jpegs: dict[tuple[int, int], None] = {}
    for offsets_tag, sizes_tag in ((_STRIP_OFFSETS, _STRIP_SIZES), (_TILE_OFFSETS, _TILE_SIZES)):
        offsets, sizes = page.all(offsets_tag, 0), page.all(sizes_tag, 0)
        if offsets_tag not in page.tags or sizes_tag not in page.tags:
            continue
        if len(offsets) != len(sizes):
            raise corrupt("TIFF", f"{len(offsets)} places and {len(sizes)} sizes of its strips")
        end = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
        if end > len(data):
            raise truncated("TIFF", f"at byte {len(data)} of {end}")
        if page.one(_COMPRESSION, 1) == _JPEG_COMPRESSION:
            jpegs |= dict.fromkeys(zip(offsets, sizes, strict=True))
    if sum(size for _, size in jpegs) > len(data):
        raise corrupt("TIFF", "its strips overlap")
    return tuple(jpegs)
