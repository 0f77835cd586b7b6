"""TIFF 6.0 and BigTIFF, and the first page of one with several."""

from __future__ import annotations

import contextlib
import ctypes
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin, UnidentifiedImageError  # noqa: F401  (makes Image.open know TIFF without a search)

from transforms.errors import ItemError
from transforms.imaging import jpeg_header, pillow, tiff_page
from transforms.imaging.base import Format, Stored, corrupt, truncated

# Decoding errors become ItemErrors; libtiff need not print them on stderr as well.
with contextlib.suppress(AttributeError):  # a Pillow without libtiff, or with one that exports no symbols
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

_TILE_PIXELS_MAX = 1 << 24  # a tile of a small picture may be larger than the picture, but not without limit
_JPEG_COMPRESSION = 7


@dataclass(frozen=True)
class StoredTiff(Stored):
    """A TIFF, with what decoding its JPEG strips needs.

    Attributes:
      strips: (start, size) of each strip or tile that is a JPEG.
      strip_pixels: the most pixels that a strip or tile can need.
      tables: the tables those JPEGs share, as a JPEG without a picture; may be empty.
    """

    strips: tuple[tuple[int, int], ...] = ()
    strip_pixels: int = 0
    tables: bytes = b""

    def jpegs(self) -> Iterator[bytes]:
        """Each strip as a self-contained JPEG."""
        for start, size in self.strips:
            strip = self.data[start : start + size]
            yield self.tables[:-2] + strip[2:] if self.tables else strip


def reduce(data: bytes) -> StoredTiff:
    """Keeps the first page, with the tags that its pixels need."""
    try:
        page = tiff_page.first_page(data)
    except struct.error:
        raise truncated("TIFF", f"at byte {len(data)}, before or inside its tag table") from None
    problem = _problem(page)
    if problem:
        raise ItemError(
            "unsupported_format",
            f"TIFF with {problem} is not supported; convert it to 8 bits RGB, grey or CMYK",
        )
    width, height = page.one(tiff_page.WIDTH, 0), page.one(tiff_page.HEIGHT, 0)
    tile_pixels = page.one(tiff_page.TILE_WIDTH, 0) * page.one(tiff_page.TILE_HEIGHT, 0)
    if tile_pixels > max(_TILE_PIXELS_MAX, 4 * width * height):
        raise corrupt("TIFF", f"tiles of {tile_pixels} pixels for a picture of {width} x {height}")
    orientation = page.one(tiff_page.ORIENTATION, 1)
    return StoredTiff(
        page.data,
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        strips=_check_pixel_data(page, data),
        strip_pixels=max(tile_pixels, width * height),
        tables=page.tags.get(tiff_page.JPEG_TABLES, np.empty(0, np.uint8)).tobytes(),
    )


def _problem(page: tiff_page.Page) -> str:
    """What Pillow or libtiff would refuse, decode wrongly, or decode without reporting damage; or ''."""
    bits, samples = set(page.all(tiff_page.BITS, 1)), page.one(tiff_page.SAMPLES, 1)
    compression, photometric = page.one(tiff_page.COMPRESSION, 1), page.one(tiff_page.PHOTOMETRIC, 0)
    if set(page.all(tiff_page.SAMPLE_FORMAT, 1)) != {1}:
        return "signed or floating-point samples"
    if bits - {1, 2, 4, 8, 16}:
        return f"{max(bits)} bits a sample"
    if samples > 4:
        return f"{samples} samples a pixel"
    if 16 in bits and samples > 1 and page.one(tiff_page.PLANES, 1) != 1:
        return "16 bits a sample in separate planes"
    if 16 in bits and photometric == 0:
        return "16 bits a sample and white as zero"
    if photometric in (8, 9, 10):
        return "Lab colour"
    if compression in (6, 50001) or (photometric == 6 and compression != _JPEG_COMPRESSION):
        return "WebP compression, the JPEG compression of TIFF 6.0, or YCbCr without JPEG compression"
    return ""


def _check_pixel_data(page: tiff_page.Page, data: bytes) -> tuple[tuple[int, int], ...]:
    """(start, size) of each strip or tile that is a JPEG, without repeats. Raises ItemError unless all of them are there."""
    jpegs: dict[tuple[int, int], None] = {}
    for offsets_tag, sizes_tag in (
        (tiff_page.STRIP_OFFSETS, tiff_page.STRIP_SIZES),
        (tiff_page.TILE_OFFSETS, tiff_page.TILE_SIZES),
    ):
        offsets, sizes = page.all(offsets_tag, 0), page.all(sizes_tag, 0)
        if offsets_tag not in page.tags or sizes_tag not in page.tags:
            continue
        if len(offsets) != len(sizes):
            raise corrupt("TIFF", f"{len(offsets)} places and {len(sizes)} sizes of its strips")
        end = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
        if end > len(data):
            raise truncated("TIFF", f"at byte {len(data)} of {end}")
        if page.one(tiff_page.COMPRESSION, 1) == _JPEG_COMPRESSION:
            jpegs |= dict.fromkeys(zip(offsets, sizes, strict=True))
    if sum(size for _, size in jpegs) > len(data):
        raise corrupt("TIFF", "its strips overlap")
    return tuple(jpegs)


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The pixels of the page, after libjpeg has decoded all its JPEG strips without a fault."""
    assert isinstance(stored, StoredTiff)
    # libtiff continues over damaged JPEG data and returns grey pixels; libjpeg can be told not to.
    for jpeg in stored.jpegs():
        strip = jpeg_header.read(jpeg)
        if strip.width * strip.height > stored.strip_pixels:
            raise corrupt("TIFF", f"a strip of {strip.width} x {strip.height} pixels")
        jpeg_header.check_cost(strip)
        simplejpeg.decode_jpeg(jpeg)
    try:
        return pillow.decode(stored.data, "TIFF")
    except UnidentifiedImageError:
        pass
    except ValueError as error:
        if str(error) != "unknown raw mode for given image mode":
            raise
    raise ItemError("unsupported_format", "this kind of TIFF is not supported; convert it to 8 bits RGB")


FORMAT = Format(
    "TIFF",
    re.compile(rb"II[*+]\x00|MM\x00[*+]"),
    (".tif", ".tiff"),
    reduce,
    decode,
    ("pillow", "simplejpeg"),
)
