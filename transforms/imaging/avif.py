"""AVIF 1.1: the still picture of a file, animated or not, decoded by Pillow, that is, by libavif and dav1d.

libavif reads many kinds of boxes, and trusts the stated size until it has decoded a frame of another size. So it gets a
new file with nothing but the picture: its AV1 data, or that of the tiles of its grid, in frames of the stated size.
"""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import AvifImagePlugin, features

from transforms.errors import ItemError
from transforms.imaging import pillow
from transforms.imaging.av1 import check_frames
from transforms.imaging.avif_items import Box, Item, read_items
from transforms.imaging.base import Format, Stored, corrupt, truncated

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # per picture: the job decodes several at once

_TILE_PIXELS_MAX = 1 << 24  # tiles of a small picture may exceed the picture, but only so far
_SHARED_BYTES_MAX = 64 << 20  # of all tiles together, if they share data in the file
_KEPT_PROPERTIES = (b"ispe", b"pixi", b"av1C", b"colr")
_OTHER_PROPERTIES = (b"irot", b"imir", b"clap")  # which Pillow leaves to its caller
# Exif orientations by axis of mirroring, if any, and number of quarter turns to the left before it.
_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def reduce(data: bytes) -> Stored:
    """A file with only the still picture: no alpha, metadata, profile, thumbnail or video."""
    metas = [box for kind, box in Box(data, 0, len(data)).boxes() if kind == b"meta"]
    if not metas:
        raise corrupt("AVIF", "no still picture in it")
    number, items = read_items(metas[0])
    picture = items.get(number, Item(b""))
    used = [picture, *(items.get(tile, Item(b"")) for tile in picture.tiles if picture.kind == b"grid")]
    _check_items(used, data)
    contents = [b"".join(data[start:end] for start, end in item.extents) for item in used]
    if picture.kind == b"grid":
        _check_grid(contents[0], picture, used[1:])
    pictures = [
        (content, item.size) for item, content in zip(used, contents, strict=True) if item.kind == b"av01"
    ]
    for content, size in dict.fromkeys(pictures):
        check_frames(content, size)
    turns, mirroring = picture.get(b"irot", 1), picture.get(b"imir", 1)
    orientation = _ORIENTATIONS[mirroring[0] & 1 if mirroring else None][turns[0] & 3 if turns else 0]
    return Stored(_file(used, contents), *picture.size, orientation)


def _check_items(used: list[Item], data: bytes) -> None:
    if not used[0].kind:
        raise corrupt("AVIF", "no still picture in it")
    if used[0].kind not in (b"av01", b"grid"):
        raise _unsupported(f"a picture of type {used[0].kind.decode('latin-1')!r}")
    if len({id(item) for item in used}) < len(used) or any(item.kind != b"av01" for item in used[1:]):
        raise corrupt("AVIF", "a grid of tiles that are no pictures of their own")
    extents = [extent for item in used for extent in item.extents]
    if any(end > len(data) for _, end in extents):
        raise truncated("AVIF", f"at byte {len(data)}, inside its picture")
    # Identical tiles may share their data.
    if sum(end - start for start, end in extents) > max(len(data), _SHARED_BYTES_MAX):
        raise corrupt("AVIF", "its pictures overlap")
    for kind, _, essential in (entry for item in used for entry in item.properties):
        if essential and kind not in _KEPT_PROPERTIES + _OTHER_PROPERTIES:
            raise _unsupported(f"a property of type {kind.decode('latin-1')!r}")


def _unsupported(what: str) -> ItemError:
    return ItemError("unsupported_format", f"AVIF with {what} is not supported; save it as a plain picture")


def _check_grid(grid: bytes, picture: Item, tiles: list[Item]) -> None:
    """Raises ItemError unless the tiles have one size and cover the picture without much excess."""
    grid = grid.ljust(12, b"\0")
    rows, columns = grid[2] + 1, grid[3] + 1
    width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
    if (width, height) != picture.size:
        raise _two_sizes(picture.size, (width, height))
    sizes = {tile.size for tile in tiles}
    tile_width, tile_height = min(sizes, default=(0, 0))
    if (
        len(tiles) != rows * columns
        or len(sizes) > 1
        or not (columns - 1) * tile_width < width <= columns * tile_width
        or not (rows - 1) * tile_height < height <= rows * tile_height
        or len(tiles) * tile_width * tile_height > max(_TILE_PIXELS_MAX, 4 * width * height)
    ):
        raise corrupt("AVIF", f"its {len(tiles)} tiles do not make up {width} x {height} pixels")


def _two_sizes(stated: tuple[int, int], actual: tuple[int, int]) -> ItemError:
    return corrupt("AVIF", "two sizes, {} x {} and {} x {}".format(*stated, *actual))


def boxed(kind: bytes, *parts: bytes) -> bytes:
    """A box (ISO/IEC 14496-12) of this type with these contents."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _file(items: list[Item], contents: list[bytes]) -> bytes:
    """An AVIF file of these items, the first of which is the picture and the others the tiles of its grid."""
    numbers = range(1, len(items) + 1)
    pool: dict[tuple[bytes, bytes], int] = {}  # properties and their numbers
    associations = []
    for number, item in zip(numbers, items, strict=True):
        kept = {
            kind: pool.setdefault((kind, body), len(pool) + 1) | essential << 15
            for kind, body, essential in reversed(item.properties)  # the first of each type counts
            if kind in _KEPT_PROPERTIES and (kind != b"colr" or body.startswith(b"nclx"))
        }
        associations.append(struct.pack(f">HB{len(kept)}H", number, len(kept), *kept.values()))
    if len(pool) > 0x7FFF:
        raise corrupt("AVIF", f"{len(pool)} properties")
    entries = [
        boxed(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, item.kind))
        for number, item in zip(numbers, items, strict=True)
    ]
    tiles = boxed(b"dimg", struct.pack(f">HH{len(items) - 1}H", 1, len(items) - 1, *numbers[1:]))

    def head(start: int) -> bytes:
        """Everything before the contents, the first of which starts at byte `start`."""
        places = []
        for number, content in zip(numbers, contents, strict=True):
            places.append(struct.pack(">HHHII", number, 0, 1, start, len(content)))
            start += len(content)
        meta = boxed(
            b"meta",
            bytes(4),
            boxed(b"hdlr", bytes(8), b"pict", bytes(13)),
            boxed(b"pitm", struct.pack(">IH", 0, 1)),
            boxed(b"iloc", struct.pack(">IHH", 0, 0x4400, len(items)), *places),
            boxed(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
            boxed(b"iref", bytes(4), tiles) if len(items) > 1 else b"",
            boxed(
                b"iprp",
                boxed(b"ipco", *(boxed(*entry) for entry in pool)),
                boxed(b"ipma", struct.pack(">II", 1, len(items)), *associations),
            ),
        )
        mdat = struct.pack(">I4s", 8 + sum(map(len, contents)), b"mdat")
        return boxed(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + meta + mdat

    return head(len(head(0))) + b"".join(contents)


def decode(stored: Stored, least_side: int) -> np.ndarray:
    """The pixels as Pillow gives them."""
    if not features.check("avif"):
        raise ItemError("unsupported_format", "this build of Pillow reads no AVIF; install the one from PyPI")
    image = pillow.opened(stored.data, "AVIF")
    if image.size != (stored.width, stored.height):
        raise _two_sizes((stored.width, stored.height), image.size)
    return pillow.pixels_of(image)


FORMAT = Format(
    "AVIF",
    # The first brand, or one of the compatible brands: those are printable, and what follows them is not.
    re.compile(rb"....ftyp(avi[fs]|(mif1|msf1)....([ -~]{4})*?avi[fs])", re.DOTALL),
    (".avif", ".avifs"),
    reduce,
    decode,
    ("pillow",),
)
