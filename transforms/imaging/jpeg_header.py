"""A JPEG's headers (ITU-T T.81), read in one pass, and the checks that refuse costly pictures before they are decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from transforms.errors import ItemError
from transforms.imaging.base import Stored, corrupt, exif_orientation, truncated

_SCANS_MAX = 100  # each is a pass over the picture, however few its bytes
_PROGRESSIVE, _ARITHMETIC = (0xC2, 0xCA), (0xC9, 0xCA)
_SCAN = b"\xff\xda"
# In compressed data 0xff stands before a zero, a restart marker, or another 0xff.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
# In a header only those that begin a segment, or the scan: fill bytes, restart markers and TEM are without effect.
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_ADOBE_BYTES = 16  # of Adobe's segment; libjpeg takes no shorter one for it


@dataclass(frozen=True)
class StoredJpeg(Stored):
    """A JPEG, with what its headers say.

    Attributes:
      components: number of colour components.
      adobe: whether it has Adobe's APP14 marker.
      profile: (start, end) of each segment of its colour profile.
      scan_at: byte offset of the first scan.
      one_scan: whether the first scan must be the only one, as libjpeg then accepts no second one.
      least_bytes: with fewer bytes from `scan_at` on, the picture cannot be complete.
    """

    components: int = 3
    adobe: bool = False
    profile: tuple[tuple[int, int], ...] = ()
    scan_at: int = 0
    one_scan: bool = False
    least_bytes: int = 0


def _segments(data: bytes, at: int = 2) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment from `at` to the next scan, then of the scan's marker.

    What libjpeg passes over lies between one segment's end and the next one's start (`next_marker` in its jdmarker.c).

    Raises ItemError; IndexError or struct.error if the data end too early.
    """
    while found := _SEGMENT.search(data, at):
        marker, at = found[1][0], found.start()
        if marker == 0xDA:
            yield marker, at, at + 2
            return
        if marker in (0xD8, 0xD9):
            raise corrupt("JPEG", f"marker {marker:#04x} at byte {at}, inside its header")
        # As in libjpeg, a length below its own two bytes is that of an empty segment.
        end = at + 2 + max(2, *struct.unpack_from(">H", data, at + 2))
        yield marker, at, end
        at = end
    if data[at:].strip(b"\xff"):
        raise corrupt("JPEG", f"no marker from byte {at} on")
    raise IndexError(at)


def _segments_and_scans(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment; a scan ends with its compressed data. Stops at what is not a further scan."""
    header_at = 2
    while header_at < len(data):
        try:
            for marker, at, segment_end in _segments(data, header_at):
                end = _scan_end(data, segment_end) if marker == 0xDA else segment_end
                yield marker, at, end
            header_at = end
        except (ItemError, IndexError, struct.error):
            return


def _scan_end(data: bytes, at: int) -> int:
    """Where the compressed data end of a scan whose marker ends at `at`."""
    found = _MARKER.search(data, at + int.from_bytes(data[at : at + 2], "big"))
    return found.start() if found else len(data)


def without_stray_bytes(data: bytes, segments: Iterable[tuple[int, int, int]] | None = None) -> bytes:
    """The JPEG with nothing between these segments; by default those of all its headers, also between scans."""
    view, kept = memoryview(data), bytearray()
    copied_to, previous_end = 0, 2
    for _, at, end in _segments_and_scans(data) if segments is None else segments:
        if at != previous_end:
            kept += view[copied_to:previous_end]
            copied_to = at
        previous_end = end
    return bytes(kept + view[copied_to:]) if copied_to else data


def read(data: bytes) -> StoredJpeg:
    """`Format.reduce`: reads the headers, and leaves out stray bytes between their segments.

    Some cameras write them. libjpeg only warns, but its warnings are errors here, as most of them mean damage.
    """
    orientation, adobe, size, scan_at, least, progressive = 1, False, None, 0, 0, False
    profile: list[tuple[int, int]] = []
    previous_end = 2
    try:
        for marker, at, end in _segments(data):
            if at != previous_end:
                return read(without_stray_bytes(data, _segments(data)))
            previous_end = end
            if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
                orientation = exif_orientation(data[at + 4 : end])
            elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", at + 4):
                profile.append((at, end))
            elif marker == 0xEE and data.startswith(b"Adobe", at + 4) and end - at >= _ADOBE_BYTES:
                adobe = True
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not size:
                size = struct.unpack_from(">BHHB", data, at + 4)
                _check_kind(marker, *size)
                progressive = marker in _PROGRESSIVE
                least = _least_bytes(marker, size[1], size[2], data[at + 10 : at + 10 + 3 * size[3]])
            scan_at = at
        scan_components = data[scan_at + 4]
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
        one_scan=scan_components == components and not progressive,
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
    """The least compressed data there can be. Counts only the component with the fewest blocks: others may be missing."""
    across, down = [c >> 4 for c in components[1::3]], [c & 15 for c in components[1::3]]
    if not all(1 <= factor <= 4 for factor in (*across, *down)):
        raise corrupt("JPEG", "its sampling factors are not between 1 and 4")
    if marker in _ARITHMETIC or not across:
        return 0
    blocks = min(
        -(-width * h // (8 * max(across))) * -(-height * v // (8 * max(down)))
        for h, v in zip(across, down, strict=True)
    )
    # A Huffman code has at least one bit. Each block has a code for its mean and, unless progressive, one for its end.
    return blocks * (1 if marker in _PROGRESSIVE else 2) // 8


def check_cost(stored: StoredJpeg) -> None:
    """Raises ItemError 'truncated' or 'too_many_scans' for a few bytes that would be large or slow to decode."""
    data = stored.data
    if len(data) - stored.scan_at < stored.least_bytes:
        size = f"{stored.width} x {stored.height}"
        raise truncated("JPEG", f"at byte {len(data)}, long before {size} pixels could be complete")
    # What looks like a scan may be part of a thumbnail, or of a video behind the picture.
    if not stored.one_scan and _count(data, _SCAN) > _SCANS_MAX and _scans(data, stored.scan_at) > _SCANS_MAX:
        raise ItemError("too_many_scans", f"JPEG with more than {_SCANS_MAX} scans; save it again")


def _count(data: bytes, pair: bytes) -> int:
    """data.count(pair) for two different bytes, seven times as fast: every byte of every JPEG is searched."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == pair[0]) & (values[1:] == pair[1])))


def _scans(data: bytes, at: int) -> int:
    """Number of scans of the first picture, starting at its first scan; stops counting at too many."""
    scans = 0
    while scans <= _SCANS_MAX and (marker := _MARKER.search(data, at)) and marker[1] not in b"\xd8\xd9":
        scans += marker[1] == _SCAN[1:]
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans
