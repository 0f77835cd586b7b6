"""Which pictures of a sample are alike: cosine similarities, in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.look.scan import Row
from transforms.exporting.vectors import l2_normalized

NEIGHBOURS = 12
_BLOCK = 512  # rows compared with all at a time


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32 (rows, dimensions); zeros stay zeros."""
    out = np.empty_like(vectors)
    for start in range(0, len(vectors), _BLOCK):
        out[start : start + _BLOCK] = l2_normalized(vectors[start : start + _BLOCK])
    return out


def neighbours(unit: np.ndarray, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each row: indices and cosine similarities, (rows, count) each, the nearest first.

    Args:
      unit: vectors of length 1, (rows, dimensions).
      count: of neighbours; fewer if there are not so many rows.
    """
    count = min(count, len(unit) - 1)
    indices = np.empty((len(unit), count), np.int64)
    cosines = np.empty((len(unit), count))
    for start, block in _cosines(unit):
        block[np.arange(len(block)), start + np.arange(len(block))] = -2  # not itself
        nearest = np.argsort(-block, axis=1, kind="stable")[:, :count]
        indices[start : start + len(block)] = nearest
        cosines[start : start + len(block)] = np.take_along_axis(block, nearest, axis=1)
    return indices, cosines


def near_duplicates(unit: np.ndarray, rows: Sequence[Row], threshold: float) -> list[list[int]]:
    """Groups of rows whose cosine similarity to the first of the group is at least `threshold`, the largest first.

    A group of nothing but the same image is left out: these are exact duplicates.
    """
    taken = np.zeros(len(unit), bool)
    groups = []
    for start, block in _cosines(unit):
        for offset, cosines in enumerate(block):
            row = start + offset
            if not taken[row]:
                near = np.flatnonzero((cosines >= threshold) & ~taken)
                group = [row, *near[near > row].tolist()]
                taken[group] = True
                if len({rows[one].sha256 for one in group}) > 1:
                    groups.append(group)
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _cosines(unit: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, cosines (rows, all rows)), rounded so that ties do not depend on the order of sums."""
    for start in range(0, len(unit), _BLOCK):
        yield start, np.round((unit[start : start + _BLOCK] @ unit.T).astype(np.float64), 4)
