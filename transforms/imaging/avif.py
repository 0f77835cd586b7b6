"""AVIF: the still picture of a file, also of an animated one, decoded by Pillow, that is by libavif and dav1d.

libavif reads many kinds of boxes, and believes a size until it has decoded a frame of another one. So it gets a new
file with nothing but the picture: its AV1 data, or those of the tiles of its grid, in frames of the size that the file
tells. Sources: ISO/IEC 14496-12 (boxes) and 23008-12 (items), AV1 Image File Format 1.1, AV1 specification 5.3 and 5.5.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin, features

from transforms.errors import ItemError
from transforms.imaging import pillow
from transforms.imaging.base import Format, Stored, corrupt, truncated

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # per picture: the job decodes several at once

_PARTS_MAX = 100_000  # boxes within one, or units in AV1 data: each costs a step
_FRAMES_MAX = 16  # in the data of one picture, of which one is shown
_TILE_PIXELS_MAX = 1 << 24  # tiles of a small picture may be larger than the picture, but not without limit
_SHARED_BYTES_MAX = 64 << 20  # of all tiles together, where they take less in the file
_PROPERTY_BYTES = 1024  # of those that are kept: more than they have
_HEADER_BYTES = 512  # of AV1 data, more than are looked at
_KEPT_PROPERTIES = (b"ispe", b"pixi", b"av1C", b"colr")
_OTHER_PROPERTIES = (b"irot", b"imir", b"clap")  # which Pillow leaves to its caller
_SEQUENCE, _FRAMES = 1, (3, 6, 7)  # types of AV1 units: a sequence header, and what begins a frame
# Of Exif, by the axis of mirroring, if any, and the quarter turns to the left before it.
_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


@dataclass
class _Box:
    """A stretch of the file, read from its start as big-endian numbers or as boxes."""

    data: bytes
    at: int
    end: int

    def number(self, size: int) -> int:
        if self.at + size > self.end:
            raise corrupt("AVIF", f"the box that ends at byte {self.end} is too short")
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def version_and_flags(self) -> tuple[int, int]:
        return self.number(1), self.number(3)

    def boxes(self) -> Iterator[tuple[bytes, _Box]]:
        """Type and content of each box."""
        for _ in range(_PARTS_MAX):
            if self.at >= self.end:
                return
            start = self.at
            size, kind = self.number(4), self.number(4).to_bytes(4, "big")
            if size < 2:  # 1: the size follows; 0: up to the end
                size = self.number(8) if size else self.end - start
            if size < self.at - start or (start + size > self.end != len(self.data)):
                raise corrupt("AVIF", f"a box of {size} bytes at byte {start}")
            if start + size > self.end:
                raise truncated("AVIF", f"at byte {self.end}, inside the box at byte {start}")
            yield kind, _Box(self.data, self.at, start + size)
            self.at = start + size
        raise corrupt("AVIF", f"more than {_PARTS_MAX} boxes in one")


@dataclass
class _Item:
    """A picture, or the description of a grid of pictures."""

    kind: bytes
    properties: list[tuple[bytes, bytes, bool]] = field(default_factory=list)  # type, content, is essential
    extents: list[tuple[int, int]] = field(default_factory=list)  # (start, end) in the file
    tiles: list[int] = field(default_factory=list)  # the items of a grid

    def get(self, kind: bytes, size: int) -> bytes:
        """The first bytes, so many, of the first property of a type; nothing without one."""
        content = next((body for known, body, _ in self.properties if known == kind), b"")
        return content[:size] if len(content) >= size else b""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        width, height = struct.unpack(">4xII", self.get(b"ispe", 12) or bytes(12))
        return width, height


def reduce(data: bytes) -> Stored:
    """A file with the still picture alone: no alpha, metadata, profile, thumbnail or film."""
    metas = [box for kind, box in _Box(data, 0, len(data)).boxes() if kind == b"meta"]
    if not metas:
        raise corrupt("AVIF", "no still picture in it")
    number, items = _items(metas[0])
    picture = items.get(number, _Item(b""))
    used = [picture, *(items.get(tile, _Item(b"")) for tile in picture.tiles if picture.kind == b"grid")]
    _check_items(used, data)
    contents = [b"".join(data[start:end] for start, end in item.extents) for item in used]
    if picture.kind == b"grid":
        _check_grid(contents[0], picture, used[1:])
    pictures = [
        (known, item.size) for item, known in zip(used, contents, strict=True) if item.kind == b"av01"
    ]
    for content, size in dict.fromkeys(pictures):
        _check_frames(content, size)
    turns, mirroring = picture.get(b"irot", 1), picture.get(b"imir", 1)
    orientation = _ORIENTATIONS[mirroring[0] & 1 if mirroring else None][turns[0] & 3 if turns else 0]
    return Stored(_file(used, contents), *picture.size, orientation)


def _items(meta: _Box) -> tuple[int, dict[int, _Item]]:
    """The number of the main item, and all items by number."""
    meta.version_and_flags()
    boxes: dict[bytes, _Box] = {}
    for kind, box in meta.boxes():
        boxes.setdefault(kind, box)
    for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if kind not in boxes:
            raise corrupt("AVIF", f"no {kind.decode()} box")
    items: dict[int, _Item] = {}
    info = boxes[b"iinf"]
    info.number(4 if info.version_and_flags()[0] else 2)
    for kind, entry in info.boxes():
        version, _ = entry.version_and_flags()
        if kind == b"infe" and version >= 2:
            number, _ = entry.number(2 if version == 2 else 4), entry.number(2)
            items[number] = _Item(entry.number(4).to_bytes(4, "big"))
    _add_extents(boxes[b"iloc"], boxes.get(b"idat"), items)
    _add_properties(boxes[b"iprp"], items)
    if references := boxes.get(b"iref"):
        size = 4 if references.version_and_flags()[0] else 2
        for kind, reference in references.boxes():
            item = items.get(reference.number(size))
            if kind == b"dimg" and item:
                item.tiles = [reference.number(size) for _ in range(reference.number(2))]
    main = boxes[b"pitm"]
    return main.number(4 if main.version_and_flags()[0] else 2), items


def _add_extents(places: _Box, idat: _Box | None, items: dict[int, _Item]) -> None:
    version, _ = places.version_and_flags()
    sizes = places.number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    if version > 2 or {offset, length, base} - {0, 4, 8} or not length:
        raise corrupt("AVIF", "the table of where its pictures are")
    for _ in range(places.number(4 if version == 2 else 2)):
        item = items.get(places.number(4 if version == 2 else 2))
        method = places.number(2) & 15 if version else 0
        other_file, start = places.number(2), places.number(base)
        if method == 1 and idat:
            start += idat.at
        extents = []
        for _ in range(places.number(2)):
            places.number(index if version else 0)
            at = start + places.number(offset)
            extents.append((at, at + places.number(length)))
        if item and method in (0, 1) and not other_file:
            item.extents = extents


def _add_properties(properties: _Box, items: dict[int, _Item]) -> None:
    known: list[tuple[bytes, bytes]] = []
    for kind, box in properties.boxes():
        if kind == b"ipco":
            known += [(name, p.data[p.at : min(p.end, p.at + _PROPERTY_BYTES)]) for name, p in box.boxes()]
        elif kind == b"ipma":
            version, flags = box.version_and_flags()
            index_bytes = 1 + (flags & 1)
            for _ in range(box.number(4)):
                item = items.get(box.number(4 if version else 2))
                for _ in range(box.number(1)):
                    essential, index = divmod(box.number(index_bytes), 1 << 8 * index_bytes - 1)
                    if index > len(known):
                        raise corrupt("AVIF", f"no property of number {index}")
                    if index and item:
                        item.properties.append((*known[index - 1], bool(essential)))


def _check_items(used: list[_Item], data: bytes) -> None:
    if not used[0].kind:
        raise corrupt("AVIF", "no still picture in it")
    if used[0].kind not in (b"av01", b"grid"):
        raise _unsupported(f"a picture of type {used[0].kind.decode('latin-1')!r}")
    if len({id(item) for item in used}) < len(used) or any(item.kind != b"av01" for item in used[1:]):
        raise corrupt("AVIF", "a grid of tiles that are no pictures of their own")
    extents = [extent for item in used for extent in item.extents]
    if any(end > len(data) for _, end in extents):
        raise truncated("AVIF", f"at byte {len(data)}, inside its picture")
    # Tiles that are alike may share their data.
    if sum(end - start for start, end in extents) > max(len(data), _SHARED_BYTES_MAX):
        raise corrupt("AVIF", "its pictures overlap")
    for kind, _, essential in (known for item in used for known in item.properties):
        if essential and kind not in _KEPT_PROPERTIES + _OTHER_PROPERTIES:
            raise _unsupported(f"a property of type {kind.decode('latin-1')!r}")


def _unsupported(what: str) -> ItemError:
    return ItemError("unsupported_format", f"AVIF with {what} is not supported; save it as a plain picture")


def _check_grid(grid: bytes, picture: _Item, tiles: list[_Item]) -> None:
    """The tiles are of one size and make up the picture, and not much more."""
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


def _two_sizes(told: tuple[int, int], other: tuple[int, int]) -> ItemError:
    return corrupt("AVIF", "two sizes, {} x {} and {} x {}".format(*told, *other))


def _check_frames(data: bytes, size: tuple[int, int]) -> None:
    """The AV1 data are of this size, and few frames."""
    sequence, frames = None, 0
    for kind, start in _units(data):
        if kind == _SEQUENCE:
            sequence = _sequence(_Bits(data[start : start + _HEADER_BYTES]))
            if sequence.size != size:
                raise _two_sizes(size, sequence.size)
        elif kind in _FRAMES:
            frames += 1
            if sequence is None or _has_own_size(_Bits(data[start : start + _HEADER_BYTES]), sequence):
                raise corrupt("AVIF", "a frame of another size than the picture")
    if not 0 < frames <= _FRAMES_MAX:
        raise corrupt("AVIF", f"{frames} frames in one picture")


def _units(data: bytes) -> Iterator[tuple[int, int]]:
    """Type and start of each open bitstream unit."""
    at = 0
    for _ in range(_PARTS_MAX):
        if at >= len(data):
            return
        header = data[at]
        at += 1 + (header >> 2 & 1)
        size = len(data) - at
        if header & 2:
            digits = data[at : at + 8]  # of seven bits, the lowest first; the last one is below 128
            count = 1 + sum(1 for _ in takewhile(lambda digit: digit & 0x80, digits))
            size = sum((digit & 0x7F) << 7 * n for n, digit in enumerate(digits[:count]))
            at += count
        yield header >> 3 & 15, at
        at += size
    raise corrupt("AVIF", f"more than {_PARTS_MAX} units of AV1 data")


class _Bits:
    """Numbers of some bits each; zeros behind the end."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data.ljust(_HEADER_BYTES, b"\0"), "big"), 8 * _HEADER_BYTES

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1


class _Sequence(NamedTuple):
    """What a sequence header says, as far as it tells the sizes of frames; the names are those of the specification."""

    size: tuple[int, int]
    reduced_still_picture_header: int
    temporal_point_bits: int
    frame_id_bits: int
    force_screen_content_tools: int  # 2: each frame says
    force_integer_mv: int


def _sequence(bits: _Bits) -> _Sequence:
    """AV1 5.5.1, up to what frame headers depend on."""
    take = bits.take
    take(4)  # profile, still picture
    reduced = take(1)
    time_bits = delay_bits = id_bits = 0
    if reduced:
        take(5)
    else:
        if take(1):  # timing
            take(64)
            equal_interval = take(1)
            if equal_interval:
                zeros = 0
                while zeros < 32 and not take(1):
                    zeros += 1
                take(zeros)
            if take(1):  # decoder model
                delay_bits = take(5) + 1
                take(37)
                time_bits = 0 if equal_interval else take(5) + 1
                take(5 if equal_interval else 0)
        has_delay = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            take(1 if take(5) > 7 else 0)
            take(2 * delay_bits + 1 if delay_bits and take(1) else 0)
            take(4 if has_delay and take(1) else 0)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    size = take(width_bits) + 1, take(height_bits) + 1
    if not reduced and take(1):
        id_bits = take(4) + 2 + take(3) + 1
    take(3)
    screen_content = integer_mv = 2
    if not reduced:
        take(4)
        take(2 if take(1) else 0)
        screen_content = 2 if take(1) else take(1)
        integer_mv = 2 if not screen_content or take(1) else take(1)
    return _Sequence(size, reduced, time_bits, id_bits, screen_content, integer_mv)


def _has_own_size(bits: _Bits, sequence: _Sequence) -> bool:
    """Whether a frame is of another size than its sequence: AV1 5.9.2, up to frame_size_override_flag."""
    take = bits.take
    if sequence.reduced_still_picture_header or take(1):  # the latter shows a frame that was there before
        return False
    frame_type, show_frame = take(2), take(1)
    take(sequence.temporal_point_bits if show_frame else 1)
    if not (frame_type == 3 or (frame_type == 0 and show_frame)):
        take(1)  # error resilient
    take(1)
    force = sequence.force_screen_content_tools
    if (take(1) if force == 2 else force) and sequence.force_integer_mv == 2:
        take(1)
    take(sequence.frame_id_bits)
    return frame_type == 3 or bool(take(1))


def _boxed(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _file(items: list[_Item], contents: list[bytes]) -> bytes:
    """An AVIF file of these items, the first of which is the picture and the others the tiles of its grid."""
    numbers = range(1, len(items) + 1)
    pool: dict[tuple[bytes, bytes], int] = {}  # properties and their numbers
    associations = []
    for number, item in zip(numbers, items, strict=True):
        kept = {
            kind: pool.setdefault((kind, body), len(pool) + 1) | essential << 15
            for kind, body, essential in reversed(
                item.properties
            )  # of several of a type the first one counts
            if kind in _KEPT_PROPERTIES and (kind != b"colr" or body.startswith(b"nclx"))
        }
        associations.append(struct.pack(f">HB{len(kept)}H", number, len(kept), *kept.values()))
    if len(pool) > 0x7FFF:
        raise corrupt("AVIF", f"{len(pool)} properties")
    entries = [
        _boxed(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, item.kind))
        for number, item in zip(numbers, items, strict=True)
    ]
    tiles = _boxed(b"dimg", struct.pack(f">HH{len(items) - 1}H", 1, len(items) - 1, *numbers[1:]))

    def head(start: int) -> bytes:
        """All that stands before the contents, the first of which starts there."""
        places = []
        for number, content in zip(numbers, contents, strict=True):
            places.append(struct.pack(">HHHII", number, 0, 1, start, len(content)))
            start += len(content)
        meta = _boxed(
            b"meta",
            bytes(4),
            _boxed(b"hdlr", bytes(8), b"pict", bytes(13)),
            _boxed(b"pitm", struct.pack(">IH", 0, 1)),
            _boxed(b"iloc", struct.pack(">IHH", 0, 0x4400, len(items)), *places),
            _boxed(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
            _boxed(b"iref", bytes(4), tiles) if len(items) > 1 else b"",
            _boxed(
                b"iprp",
                _boxed(b"ipco", *(_boxed(*known) for known in pool)),
                _boxed(b"ipma", struct.pack(">II", 1, len(items)), *associations),
            ),
        )
        mdat = struct.pack(">I4s", 8 + sum(map(len, contents)), b"mdat")
        return _boxed(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + meta + mdat

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
    # By the first brand, or by one of those that follow, which are printable, as what stands behind them is not.
    re.compile(rb"....ftyp(avi[fs]|(mif1|msf1)....([ -~]{4})*?avi[fs])", re.DOTALL),
    (".avif", ".avifs"),
    reduce,
    decode,
    ("pillow",),
)
