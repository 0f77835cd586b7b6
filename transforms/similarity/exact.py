"""Exact search for vectors that are alike: all pairs, in blocks, by float32 matrix products.

A product in float32 decides only where its error cannot matter; pairs nearer to the threshold are computed again in float64.
So the result does not depend on the processor, the number of threads or the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from transforms.similarity.groups import Groups
from transforms.similarity.vectors import Block, Vectors

_ROWS, _COLUMNS = (8192, 192 << 20), (2048, 48 << 20)  # vectors and bytes at most, per block
_EXACT_ROWS = 512  # rows that are computed again in float64 at a time, which takes twice the memory
_SAMPLE = 1000  # vectors whose pairs measure the recall

Tick = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Recall:
    """Of the pairs of a sample of vectors with all others that are alike by exact search: how many are in one group."""

    vectors: int
    pairs: int
    found: int

    @property
    def share(self) -> float:
        """0 to 1; 1 where there is no such pair."""
        return self.found / self.pairs if self.pairs else 1.0


def search(vectors: Vectors, threshold: float, groups: Groups, tick: Tick) -> None:
    """Joins all vectors with a cosine similarity of at least `threshold`. Time grows with the square of their number.

    `tick` is called after each block, with the pairs compared and those in all.
    """
    count, dimensions = vectors.shape
    row_step, column_step = (_step(limits, dimensions) for limits in (_ROWS, _COLUMNS))
    total = sum((count - start) * min(row_step, count - start) for start in range(0, count, row_step))
    done = 0
    for start in range(0, count, row_step):
        rows = np.arange(start, min(start + row_step, count))
        row_block = vectors.block(slice(rows[0], rows[-1] + 1))
        for left in range(start, count, column_step):
            columns = np.arange(left, min(left + column_step, count))
            block = vectors.block(slice(columns[0], columns[-1] + 1))
            found = alike(row_block, block, threshold, groups.of(rows), groups.of(columns))
            groups.join_pairs(rows, columns, found)
            done += len(rows) * len(columns)
            tick(done, total)


def alike(
    rows: Block, columns: Block, threshold: float, of_rows: np.ndarray, of_columns: np.ndarray
) -> np.ndarray:
    """Which pairs have a cosine similarity of at least `threshold`, and unequal numbers in `of_rows` and `of_columns`.

    bool (rows, columns). Pairs with equal numbers are not asked for: the same vector, or the same group.
    """
    cosines = rows.unit @ columns.unit.T
    # |fl(x.y) - x.y| <= n u |x||y| (Higham, Accuracy and Stability of Numerical Algorithms, 3.5), and rounding to unit vectors.
    bound = (rows.unit.shape[1] + 8) * 2.0**-24
    found = cosines >= threshold - bound
    if not found.any():
        return found
    found &= of_rows[:, None] != of_columns[None, :]
    near = found & (cosines < threshold + bound)
    of_interest = np.flatnonzero(near.any(axis=1))
    for start in range(0, len(of_interest), _EXACT_ROWS):
        these = of_interest[start : start + _EXACT_ROWS]
        those = np.flatnonzero(near[these].any(axis=0))
        exactly = rows.cosines(columns, these, those)
        found[np.ix_(these, those)] &= ~near[np.ix_(these, those)] | (exactly >= threshold)
    return found


def recall(vectors: Vectors, threshold: float, groups: Groups, tick: Tick) -> Recall:
    """How much of what exact search finds is in `groups`, on an evenly spread sample of vectors."""
    count, dimensions = vectors.shape
    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    rows, step = vectors.block(sample), _step(_COLUMNS, dimensions)
    of_rows, pairs, same = groups.of(sample), 0, 0
    for start in range(0, count, step):
        columns = np.arange(start, min(start + step, count))
        block = vectors.block(slice(columns[0], columns[-1] + 1))
        found = alike(rows, block, threshold, sample, columns)
        pairs += int(found.sum())
        same += int((found & (of_rows[:, None] == groups.of(columns)[None, :])).sum())
        tick(columns[-1] + 1, count)
    return Recall(len(sample), pairs, same)


def _step(limits: tuple[int, int], dimensions: int) -> int:
    """Vectors per block."""
    most, size = limits
    return max(1, min(most, size // (4 * dimensions)))
