"""The sizes of the frames in HEVC data, read from its parameter sets (ITU-T H.265, 7.3; ISO/IEC 14496-15, 8.3)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from transforms.imaging.base import corrupt
from transforms.imaging.bits import Bits

_UNITS_MAX = 100_000  # each costs a step
_SEQUENCES_MAX = 16  # in one picture's description (H.265, 7.4.3.2)
_PARAMETER_SETS, _SEQUENCE = (
    32,
    33,
)  # types of units: the first that is no slice, and a sequence parameter set
_HEADER_BYTES = 512  # more than is read of a unit
_CODING_UNIT = 64  # the largest block, in pixels: a frame exceeds its picture by less


def check_frames(configuration: bytes, data: bytes, size: tuple[int, int]) -> None:
    """Raises ItemError unless a picture's HEVC data is one frame of this size: (width, height) in pixels."""
    _check_configuration(configuration, size)
    frames = 0
    for kind, unit in _units(data, (configuration[21] & 3) + 1):
        if kind == _SEQUENCE:
            _check_sequence(unit, size)
        frames += kind < _PARAMETER_SETS and unit[2:3] >= b"\x80"  # the first slice of a frame
    if frames != 1:
        raise corrupt("HEIC", f"{frames} frames in one picture")


@functools.lru_cache(1)  # the tiles of a grid have the same
def _check_configuration(configuration: bytes, size: tuple[int, int]) -> None:
    sequences = [unit for kind, unit in _configured(configuration) if kind == _SEQUENCE]
    if not 0 < len(sequences) <= _SEQUENCES_MAX:
        raise corrupt("HEIC", f"{len(sequences)} descriptions of the frames of a picture")
    for unit in sequences:
        _check_sequence(unit, size)


def _check_sequence(unit: bytes, size: tuple[int, int]) -> None:
    coded, shown = _sizes(unit)
    if shown != size:
        raise corrupt("HEIC", "two sizes, {} x {} and {} x {}".format(*size, *shown))
    if any(one - other >= _CODING_UNIT for one, other in zip(coded, shown, strict=True)):
        raise corrupt("HEIC", "a frame of {} x {} pixels for a picture of {} x {}".format(*coded, *shown))


def _configured(configuration: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, unit) of each unit in an HEVCDecoderConfigurationRecord."""
    at = 23
    for _ in range(configuration[22]):
        kind, count = configuration[at] & 63, int.from_bytes(configuration[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(configuration[at : at + 2], "big")
            unit = configuration[at + 2 : at + 2 + size]
            if len(unit) < size or size < 2 or unit[0] >> 1 != kind:
                raise corrupt("HEIC", "the description of its frames")
            yield kind, unit
            at += 2 + size


def _units(data: bytes, length_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(type, first bytes) of each unit of a picture's data."""
    at = 0
    for _ in range(_UNITS_MAX):
        if at >= len(data):
            return
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if size < 2 or at + size > len(data):
            raise corrupt("HEIC", f"a unit of {size} bytes in its data")
        yield data[at] >> 1 & 63, data[at : at + min(size, _HEADER_BYTES)]
        at += size
    raise corrupt("HEIC", f"more than {_UNITS_MAX} units of data")


def _sizes(unit: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the frames that a sequence parameter set describes, and of what is shown of them."""
    # Three bytes that no unit may contain have a 3 among them.
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    take = bits.take
    take(4)
    sub_layers = take(3)
    take(1 + 88 + 8)  # general profile and level
    present = [(take(1), take(1)) for _ in range(sub_layers)]
    take(2 * (8 - sub_layers) if sub_layers else 0)
    for has_profile, has_level in present:
        take(88 * has_profile + 8 * has_level)
    bits.golomb()
    chroma = bits.golomb()
    take(1 if chroma == 3 else 0)
    width, height = bits.golomb(), bits.golomb()
    left = right = top = bottom = 0
    if take(1):  # conformance window
        left, right, top, bottom = (bits.golomb() for _ in range(4))
    across, down = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1)
    return (width, height), (width - across * (left + right), height - down * (top + bottom))
