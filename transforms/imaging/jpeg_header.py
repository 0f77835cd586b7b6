"""A JPEG's headers (ITU-T T.81), read in one walk, and what they say of pictures that would cost much and give nothing."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transforms.errors import ItemError
from transforms.imaging.base import Stored, corrupt, exif_orientation, truncated

_SCANS_MAX = 100  # each is a pass over the picture, however few its bytes
_PROGRESSIVE, _ARITHMETIC = (0xC2, 0xCA), (0xC9, 0xCA)
_SCAN = b"\xff\xda"
# In compressed data 0xff stands before a zero, a restart marker, or another 0xff.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")


@dataclass(frozen=True)
class StoredJpeg(Stored):
    """A JPEG.

    Attributes:
      components: how many colour components.
      adobe: whether it has Adobe's marker.
      profile: where the segments of its colour profile stand, (start, end).
      scan_at: where the first scan starts.
      one_scan: whether the first scan must be the only one: libjpeg takes no second one then.
      least_bytes: without so many from there on the picture cannot be whole.
    """

    components: int = 3
    adobe: bool = False
    profile: tuple[tuple[int, int], ...] = ()
    scan_at: int = 0
    one_scan: bool = False
    least_bytes: int = 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of what stands before the first scan and has a length, and of the scan's marker.

    Raises ItemError, and IndexError or struct.error where the data end too early.
    """
    at = 2
    while data[at + 1] != 0xDA:
        marker, length = struct.unpack_from(">xBH", data, at)
        if data[at] != 0xFF:
            raise corrupt("JPEG", f"no marker at byte {at}")
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2  # a fill byte, or a marker that stands alone
            continue
        if marker in (0x00, 0xD9) or length < 2:
            raise corrupt("JPEG", f"marker {marker:#04x} at byte {at}")
        yield marker, at, at + 2 + length
        at += 2 + length
    if data[at] != 0xFF:
        raise corrupt("JPEG", f"no marker at byte {at}")
    yield 0xDA, at, at + 2


def read(data: bytes) -> StoredJpeg:
    """What the headers say; the file stays as it is."""
    orientation, adobe, size, scan_at, least, progressive = 1, False, None, 0, 0, False
    profile: list[tuple[int, int]] = []
    try:
        for marker, at, end in _segments(data):
            if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
                orientation = exif_orientation(data[at + 4 : end])
            elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", at + 4):
                profile.append((at, end))
            elif marker == 0xEE and data.startswith(b"Adobe", at + 4):
                adobe = True
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not size:
                size = struct.unpack_from(">BHHB", data, at + 4)
                _check_kind(marker, *size)
                progressive = marker in _PROGRESSIVE
                least = _least_bytes(marker, size[1], size[2], data[at + 10 : at + 10 + 3 * size[3]])
            scan_at = at
        in_scan = data[scan_at + 4]  # how many components
    except (IndexError, struct.error):
        raise truncated("JPEG", f"at byte {len(data)}, inside its header") from None
    if not size:
        raise corrupt("JPEG", "no frame header")
    _, height, width, components = size
    return StoredJpeg(
        data,
        width,
        height,
        orientation,
        components=components,
        adobe=adobe,
        profile=tuple(profile),
        scan_at=scan_at,
        one_scan=in_scan == components and not progressive,
        least_bytes=least,
    )


def _check_kind(marker: int, bits: int, height: int, width: int, components: int) -> None:
    if bits != 8:
        problem = f"{bits} bits a sample"
    elif marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        problem = "lossless or hierarchical coding"
    elif components not in (1, 3, 4):
        problem = f"{components} components"
    elif height == 0 and width:
        problem = "its height after the picture"
    else:
        return
    raise ItemError("unsupported_format", f"JPEG with {problem} is not supported; save it as an 8-bit JPEG")


def _least_bytes(marker: int, height: int, width: int, components: bytes) -> int:
    """Of compressed data. Counts only the component with the fewest blocks: others may be left out."""
    across, down = [c >> 4 for c in components[1::3]], [c & 15 for c in components[1::3]]
    if not all(1 <= factor <= 4 for factor in (*across, *down)):
        raise corrupt("JPEG", "its sampling factors are not between 1 and 4")
    if marker in _ARITHMETIC or not across:
        return 0
    blocks = min(
        -(-width * h // (8 * max(across))) * -(-height * v // (8 * max(down)))
        for h, v in zip(across, down, strict=True)
    )
    # Huffman codes have a bit at least: one for the mean of a block and, unless progressive, one for the end of it.
    return blocks * (1 if marker in _PROGRESSIVE else 2) // 8


def check_cost(stored: StoredJpeg) -> None:
    """Refuses what few bytes make large or slow: ItemError 'truncated' or 'too_many_scans'."""
    data = stored.data
    if len(data) - stored.scan_at < stored.least_bytes:
        size = f"{stored.width} x {stored.height}"
        raise truncated("JPEG", f"at byte {len(data)}, long before {size} pixels could be complete")
    # What looks like a scan may stand in a thumbnail or in a film behind the picture.
    if not stored.one_scan and _count(data, _SCAN) > _SCANS_MAX and _scans(data, stored.scan_at) > _SCANS_MAX:
        raise ItemError("too_many_scans", f"JPEG with more than {_SCANS_MAX} scans; save it again")


def _count(data: bytes, pair: bytes) -> int:
    """data.count(pair) of two different bytes, seven times as fast: it looks at every byte of every JPEG."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == pair[0]) & (values[1:] == pair[1])))


def _scans(data: bytes, at: int) -> int:
    """Of the first picture, from the first scan on; stops to count when there are too many."""
    scans = 0
    while scans <= _SCANS_MAX and (marker := _MARKER.search(data, at)) and marker[1] not in b"\xd8\xd9":
        scans += marker[1] == _SCAN[1:]
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans
