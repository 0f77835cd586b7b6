"""The value of --input: comma-separated patterns with number ranges, and names that only look like such."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from transforms.storage import globs

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_RANGE_MAX = 1_000_000
_PIECES_MAX = 8  # of a name with commas


def expand(text: str) -> list[str]:
    """The patterns of a value: ranges such as {00..12} are expanded, with as many digits as the first bound has."""
    return [pattern for piece in text.split(",") if piece for pattern in _ranges(piece)]


def bad_range(text: str) -> str:
    """Why a range in `text` is not expanded; '' if there is none like that."""
    bad = [match[0] for match in _RANGE.finditer(text) if not _is_range(match)]
    return f"{bad[0]} is not a range of 1 to {_RANGE_MAX:,} numbers" if bad else ""


def literal(pieces: Sequence[str], index: int) -> Iterator[tuple[int, int, str]]:
    """Patterns that take the piece at `index` literally, alone or with its neighbours and the commas between.

    Each with the first piece that it covers, and the one after its last. Names come before folders in which the rest is
    still a pattern.
    """
    for count in range(1, _PIECES_MAX + 1):
        for start in range(max(index - count + 1, 0), min(index, len(pieces) - count) + 1):
            text = ",".join(pieces[start : start + count])
            parts = text.split("/")
            if count > 1:
                yield start, start + count, text
            for end in range(len(parts), 0, -1):
                if globs.escape(parts[end - 1]) != parts[end - 1]:
                    escaped = globs.escape("/".join(parts[:end]))
                    yield start, start + count, "/".join((escaped, *parts[end:]))


def _ranges(piece: str) -> list[str]:
    match = next(filter(_is_range, _RANGE.finditer(piece)), None)
    if match is None:
        return [piece]
    numbers = range(int(match[1]), int(match[2]) + 1)
    heads = (f"{piece[: match.start()]}{number:0{len(match[1])}d}" for number in numbers)
    tails = _ranges(piece[match.end() :])
    return [head + tail for head in heads for tail in tails]


def _is_range(match: re.Match[str]) -> bool:
    return 0 <= int(match[2]) - int(match[1]) < _RANGE_MAX
