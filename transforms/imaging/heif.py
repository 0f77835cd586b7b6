"""A still picture in a HEIF container (ISO/IEC 23008-12), as AVIF and HEIC files are.

The libraries read many kinds of boxes, and trust the stated size until they have decoded a frame of another size. So they get a
new file with nothing but the picture: its coded data, or that of the tiles of its grid, in frames of the stated size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from transforms.errors import ItemError
from transforms.imaging.base import Stored, corrupt, truncated
from transforms.imaging.heif_items import Box, Item, read_items

_TILE_PIXELS_MAX = 1 << 24  # tiles of a small picture may exceed the picture, but only so far
_SHARED_BYTES_MAX = 64 << 20  # of all tiles together, if they share data in the file
_BOXES = (
    b"ftyp",
    b"meta",
    b"mdat",
    b"moov",
    b"moof",
    b"free",
    b"skip",
    b"uuid",
)  # of a file, as they are usual
_KEPT_PROPERTIES = (b"ispe", b"pixi", b"colr")
_CROP, _TURN, _MIRROR = b"clap", b"irot", b"imir"
_OTHER_PROPERTIES = (_TURN, _MIRROR, _CROP)  # left to the caller, as Pillow does with AVIF
# Exif orientations by axis of mirroring, if any, and number of quarter turns to the left before it.
_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


class Codec(NamedTuple):
    """How pictures in such a file are coded.

    Attributes:
      format: its name in errors.
      brand: of the file.
      kind: of an item that is a coded picture.
      configuration: the property of an item that its decoder needs.
      check_frames: raises ItemError unless the data of a picture, given its configuration, are few frames, all of the size
        given as (width, height) in pixels.
      is_cropped: whether its library applies a crop (`clap`).
    """

    format: str
    brand: bytes
    kind: bytes
    configuration: bytes
    check_frames: Callable[[bytes, bytes, tuple[int, int]], None]
    is_cropped: bool = False


def reduce(data: bytes, codec: Codec) -> Stored:
    """A file with only the still picture: no alpha, metadata, profile, thumbnail or video."""
    number, items = read_items(_meta(data, codec.format))
    picture = items.get(number, Item(b""))
    used = [picture, *(items.get(tile, Item(b"")) for tile in picture.tiles if picture.kind == b"grid")]
    _check_items(used, data, codec)
    contents = [b"".join(data[start:end] for start, end in item.extents) for item in used]
    if picture.kind == b"grid":
        _check_grid(contents[0], picture, used[1:], codec.format)
    pictures = [
        (item.get(codec.configuration), content, item.size)
        for item, content in zip(used, contents, strict=True)
        if item.kind == codec.kind
    ]
    for configuration, content, size in dict.fromkeys(pictures):
        codec.check_frames(configuration, content, size)
    size = _cropped(picture, codec.format) if codec.is_cropped else picture.size
    return Stored(_file(used, contents, codec), *size, _orientation(picture))


def _meta(data: bytes, format_name: str) -> Box:
    """The box that describes the still picture; all boxes of the file must be whole."""
    meta, end = None, 0
    try:
        for kind, box in Box(data, 0, len(data), format_name).boxes():
            if kind == b"meta" and meta is None:
                meta = box
            end = box.end
    except ItemError:
        # Cameras append what is no box: films, and notes of their own.
        if meta is None or data[end + 4 : end + 8] in _BOXES:
            raise
    if meta is None:
        raise corrupt(format_name, "no still picture in it")
    return meta


def _orientation(picture: Item) -> int:
    """Exif's, of the rotation and the mirroring in their order."""
    order = [kind for kind, _, _ in picture.properties if kind in (_TURN, _MIRROR)]
    turns = picture.get(_TURN, 1)
    mirroring = picture.get(_MIRROR, 1)
    count = turns[0] & 3 if turns else 0
    if order[:2] == [_MIRROR, _TURN]:  # turned the other way round and then mirrored is the same
        count = -count & 3
    return _ORIENTATIONS[mirroring[0] & 1 if mirroring else None][count]


def _cropped(picture: Item, format_name: str) -> tuple[int, int]:
    """(width, height) of what is shown of a picture."""
    crop = picture.get(_CROP, 32)
    if not crop:
        return picture.size
    if any(kind in (_TURN, _MIRROR) for kind, _, _ in takewhile(lambda p: p[0] != _CROP, picture.properties)):
        raise _unsupported(format_name, "a crop after a rotation")
    width, by, height, by_too, *_ = struct.unpack(">8I", crop)
    if not (by and by_too) or width % by or height % by_too:
        raise _unsupported(format_name, "a crop by parts of a pixel")
    shown = width // by, height // by_too
    # The whole picture is decoded, and `--max_pixels` is compared with what is shown.
    if picture.size[0] * picture.size[1] > max(_TILE_PIXELS_MAX, 4 * shown[0] * shown[1]):
        raise corrupt(format_name, "a crop to {} x {} of {} x {} pixels".format(*shown, *picture.size))
    return shown


def _check_items(used: list[Item], data: bytes, codec: Codec) -> None:
    if not used[0].kind:
        raise corrupt(codec.format, "no still picture in it")
    if used[0].kind not in (codec.kind, b"grid"):
        raise _unsupported(codec.format, f"a picture of type {used[0].kind.decode('latin-1')!r}")
    if len({id(item) for item in used}) < len(used) or any(item.kind != codec.kind for item in used[1:]):
        raise corrupt(codec.format, "a grid of tiles that are no pictures of their own")
    extents = [extent for item in used for extent in item.extents]
    if any(end > len(data) for _, end in extents):
        raise truncated(codec.format, f"at byte {len(data)}, inside its picture")
    # Identical tiles may share their data.
    if sum(end - start for start, end in extents) > max(len(data), _SHARED_BYTES_MAX):
        raise corrupt(codec.format, "its pictures overlap")
    known = (*_KEPT_PROPERTIES, codec.configuration, *_OTHER_PROPERTIES)
    for kind, _, essential in (entry for item in used for entry in item.properties):
        if essential and kind not in known:
            raise _unsupported(codec.format, f"a property of type {kind.decode('latin-1')!r}")


def _unsupported(format_name: str, what: str) -> ItemError:
    return ItemError(
        "unsupported_format", f"{format_name} with {what} is not supported; save it as a plain picture"
    )


def _check_grid(grid: bytes, picture: Item, tiles: list[Item], format_name: str) -> None:
    """Raises ItemError unless the tiles have one size and cover the picture without much excess."""
    grid = grid.ljust(12, b"\0")
    rows, columns = grid[2] + 1, grid[3] + 1
    width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
    if (width, height) != picture.size:
        raise two_sizes(format_name, picture.size, (width, height))
    sizes = {tile.size for tile in tiles}
    tile_width, tile_height = min(sizes, default=(0, 0))
    if (
        len(tiles) != rows * columns
        or len(sizes) > 1
        or not (columns - 1) * tile_width < width <= columns * tile_width
        or not (rows - 1) * tile_height < height <= rows * tile_height
        or len(tiles) * tile_width * tile_height > max(_TILE_PIXELS_MAX, 4 * width * height)
    ):
        raise corrupt(format_name, f"its {len(tiles)} tiles do not make up {width} x {height} pixels")


def two_sizes(format_name: str, stated: tuple[int, int], actual: tuple[int, int]) -> ItemError:
    """The ItemError for a picture whose data have another size than the file says."""
    return corrupt(format_name, "two sizes, {} x {} and {} x {}".format(*stated, *actual))


def boxed(kind: bytes, *parts: bytes) -> bytes:
    """A box (ISO/IEC 14496-12) of this type with these contents."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _file(items: list[Item], contents: list[bytes], codec: Codec) -> bytes:
    """A file of these items, the first of which is the picture and the others the tiles of its grid."""
    numbers = range(1, len(items) + 1)
    kept_properties = (*_KEPT_PROPERTIES, codec.configuration, *((_CROP,) if codec.is_cropped else ()))
    pool: dict[tuple[bytes, bytes], int] = {}  # properties and their numbers
    associations = []
    for number, item in zip(numbers, items, strict=True):
        kept: dict[bytes, int] = {}  # in their order: what turns or crops comes last
        for kind, body, essential in item.properties:
            if kind in kept_properties and kind not in kept and (kind != b"colr" or body.startswith(b"nclx")):
                kept[kind] = pool.setdefault((kind, body), len(pool) + 1) | essential << 15
        associations.append(struct.pack(f">HB{len(kept)}H", number, len(kept), *kept.values()))
    if len(pool) > 0x7FFF:
        raise corrupt(codec.format, f"{len(pool)} properties")
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
        return boxed(b"ftyp", codec.brand, bytes(4), codec.brand, b"mif1miaf") + meta + mdat

    return head(len(head(0))) + b"".join(contents)
