"""The structure of an AVIF or HEIC file: its boxes (ISO/IEC 14496-12) and the items they describe (ISO/IEC 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from transforms.imaging.base import corrupt, truncated

_BOXES_MAX = 100_000  # in one box: each costs a step
_PROPERTY_BYTES = 16384  # of a property: more than those that are used have


@dataclass
class Box:
    """A stretch of the file, read from its start as big-endian numbers or as boxes.

    `format` names the format in errors."""

    data: bytes
    at: int
    end: int
    format: str

    def number(self, size: int) -> int:
        """The next number, `size` bytes long."""
        if self.at + size > self.end:
            raise corrupt(self.format, f"the box that ends at byte {self.end} is too short")
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def version_and_flags(self) -> tuple[int, int]:
        """The first fields of a box that has a version (a FullBox)."""
        return self.number(1), self.number(3)

    def boxes(self) -> Iterator[tuple[bytes, Box]]:
        """(type, content) of each box within this one."""
        for _ in range(_BOXES_MAX):
            if self.at >= self.end:
                return
            start = self.at
            size, kind = self.number(4), self.number(4).to_bytes(4, "big")
            if size < 2:  # 1: the size follows; 0: up to the end
                size = self.number(8) if size else self.end - start
            if size < self.at - start or (start + size > self.end != len(self.data)):
                raise corrupt(self.format, f"a box of {size} bytes at byte {start}")
            if start + size > self.end:
                raise truncated(self.format, f"at byte {self.end}, inside the box at byte {start}")
            yield kind, Box(self.data, self.at, start + size, self.format)
            self.at = start + size
        raise corrupt(self.format, f"more than {_BOXES_MAX} boxes in one")


@dataclass
class Item:
    """A picture, or the description of a grid of pictures."""

    kind: bytes
    properties: list[tuple[bytes, bytes, bool]] = field(default_factory=list)  # type, content, is essential
    extents: list[tuple[int, int]] = field(default_factory=list)  # (start, end) in the file
    tiles: list[int] = field(default_factory=list)  # the items of a grid

    def get(self, kind: bytes, size: int | None = None) -> bytes:
        """The first property of a type, or its first `size` bytes; b'' if it is absent or shorter."""
        content = next((body for name, body, _ in self.properties if name == kind), b"")
        return content[:size] if len(content) >= (size or 0) else b""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        width, height = struct.unpack(">4xII", self.get(b"ispe", 12) or bytes(12))
        return width, height


def read_items(meta: Box) -> tuple[int, dict[int, Item]]:
    """The number of the primary item, and all items by number."""
    meta.version_and_flags()
    boxes: dict[bytes, Box] = {}
    for kind, box in meta.boxes():
        boxes.setdefault(kind, box)
    for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if kind not in boxes:
            raise corrupt(meta.format, f"no {kind.decode()} box")
    items: dict[int, Item] = {}
    info = boxes[b"iinf"]
    info.number(4 if info.version_and_flags()[0] else 2)
    for kind, entry in info.boxes():
        version, _ = entry.version_and_flags()
        if kind == b"infe" and version >= 2:
            number, _ = entry.number(2 if version == 2 else 4), entry.number(2)
            items[number] = Item(entry.number(4).to_bytes(4, "big"))
    _add_extents(boxes[b"iloc"], boxes.get(b"idat"), items)
    _add_properties(boxes[b"iprp"], items)
    if references := boxes.get(b"iref"):
        size = 4 if references.version_and_flags()[0] else 2
        for kind, reference in references.boxes():
            item = items.get(reference.number(size))
            if kind == b"dimg" and item:
                item.tiles = [reference.number(size) for _ in range(reference.number(2))]
    primary = boxes[b"pitm"]
    return primary.number(4 if primary.version_and_flags()[0] else 2), items


def _add_extents(places: Box, idat: Box | None, items: dict[int, Item]) -> None:
    version, _ = places.version_and_flags()
    sizes = places.number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    if version > 2 or {offset, length, base} - {0, 4, 8} or not length:
        raise corrupt(places.format, "the table of where its pictures are")
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


def _add_properties(properties: Box, items: dict[int, Item]) -> None:
    values: list[tuple[bytes, bytes]] = []
    for kind, box in properties.boxes():
        if kind == b"ipco":
            values += [(name, p.data[p.at : min(p.end, p.at + _PROPERTY_BYTES)]) for name, p in box.boxes()]
        elif kind == b"ipma":
            version, flags = box.version_and_flags()
            index_bytes = 1 + (flags & 1)
            for _ in range(box.number(4)):
                item = items.get(box.number(4 if version else 2))
                for _ in range(box.number(1)):
                    essential, index = divmod(box.number(index_bytes), 1 << 8 * index_bytes - 1)
                    if index > len(values):
                        raise corrupt(properties.format, f"no property of number {index}")
                    if index and item:
                        item.properties.append((*values[index - 1], bool(essential)))
