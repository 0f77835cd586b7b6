"""The sizes of the frames in AV1 data, read from their headers (AV1 specification, 5.3, 5.5 and 5.9)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from transforms.imaging.base import corrupt
from transforms.imaging.bits import Bits

_UNITS_MAX = 100_000  # each costs a step
_FRAMES_MAX = 16  # in the data of one picture; one of them is shown
_HEADER_BYTES = 512  # more than is read of a header
_SEQUENCE, _FRAMES = 1, (3, 6, 7)  # OBU types: a sequence header, and those that begin a frame


def check_frames(data: bytes, size: tuple[int, int]) -> None:
    """Raises ItemError unless a picture's AV1 data has few frames, all of this size: (width, height) in pixels."""
    sequence, frames = None, 0
    for kind, start in _units(data):
        if kind == _SEQUENCE:
            sequence = _sequence(Bits(data[start : start + _HEADER_BYTES]))
            if sequence.size != size:
                raise corrupt("AVIF", "two sizes, {} x {} and {} x {}".format(*size, *sequence.size))
        elif kind in _FRAMES:
            frames += 1
            if sequence is None or _has_own_size(Bits(data[start : start + _HEADER_BYTES]), sequence):
                raise corrupt("AVIF", "a frame of another size than the picture")
    if not 0 < frames <= _FRAMES_MAX:
        raise corrupt("AVIF", f"{frames} frames in one picture")


def _units(data: bytes) -> Iterator[tuple[int, int]]:
    """(type, start of the content) of each open bitstream unit (OBU)."""
    at = 0
    for _ in range(_UNITS_MAX):
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
    raise corrupt("AVIF", f"more than {_UNITS_MAX} units of AV1 data")


class _Sequence(NamedTuple):
    """The fields of a sequence header that frame sizes depend on; mostly with the specification's names."""

    size: tuple[int, int]
    reduced_still_picture_header: int
    temporal_point_bits: int
    frame_id_bits: int
    force_screen_content_tools: int  # 2: each frame says
    force_integer_mv: int


def _sequence(bits: Bits) -> _Sequence:
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


def _has_own_size(bits: Bits, sequence: _Sequence) -> bool:
    """Whether a frame's size differs from its sequence's: AV1 5.9.2, up to frame_size_override_flag."""
    take = bits.take
    if sequence.reduced_still_picture_header or take(1):  # the latter shows an earlier frame again
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
