"""The value of --input: comma-separated patterns with number ranges, and names that only look like such."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from transforms.sources.base import BadInput
from transforms.storage import globs

T = TypeVar("T")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_RANGE_MAX = 1_000_000
_PIECES_MAX = 8  # of a name with commas


class NoFiles(BadInput):
    """Nothing matches a pattern."""


def expand(text: str) -> list[str]:
    """The patterns of a value: ranges such as {00..12} are expanded, with as many digits as the first bound has."""
    return [pattern for piece in text.split(",") if piece for pattern in _ranges(piece)]


def resolved(text: str, files_of: Callable[[str], T]) -> list[T]:
    """What `files_of` gives for each pattern of a value; it raises NoFiles for one that matches nothing.

    A piece of which that is true is taken for a name with these characters, alone or with its neighbours and the commas
    between them. Raises NoFiles, or BadInput, if there is no such name either.
    """
    pieces, found = text.split(","), dict[int, list[T]]()  # by the first piece that they are of
    index = 0
    while index < len(pieces):
        start, index, files = _at(pieces, index, files_of)
        found = {first: earlier for first, earlier in found.items() if first < start}
        found[start] = files
    return [files for of_pieces in found.values() for files in of_pieces]


def _at(pieces: Sequence[str], index: int, files_of: Callable[[str], T]) -> tuple[int, int, list[T]]:
    """The first of the pieces around `index` that make up a name or pattern, the one after its last, and its files."""
    try:
        return index, index + 1, list(map(files_of, expand(pieces[index])))
    except NoFiles:
        for start, end, alternatives in _literal(pieces, index):
            with contextlib.suppress(NoFiles):
                return start, end, list(map(files_of, alternatives))
        if hint := _bad_range(pieces[index]):
            raise BadInput(f"--input={pieces[index]}: {hint}") from None
        raise


def _literal(pieces: Sequence[str], index: int) -> Iterator[tuple[int, int, list[str]]]:
    """Patterns that take the piece at `index` literally, with the pieces that they cover, as in `_at`.

    Names come before folders in which the rest is still a pattern.
    """
    for count in range(1, _PIECES_MAX + 1):
        for start in range(max(index - count + 1, 0), min(index, len(pieces) - count) + 1):
            text = ",".join(pieces[start : start + count])
            parts = text.split("/")
            if count > 1:
                yield start, start + count, [text]
            for end in range(len(parts), 0, -1):
                if globs.escape(parts[end - 1]) != parts[end - 1]:
                    pattern = "/".join((globs.escape("/".join(parts[:end])), *parts[end:]))
                    yield start, start + count, [pattern] if count > 1 else expand(pattern)


def _bad_range(text: str) -> str:
    """Why a range in `text` is not expanded; '' if there is none like that."""
    bad = [match[0] for match in _RANGE.finditer(text) if not _is_range(match)]
    return f"{bad[0]} is not a range of 1 to {_RANGE_MAX:,} numbers" if bad else ""


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
