"""Which pictures of a sample are alike, by the cosine similarities of `transforms.similarity`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.look.scan import Row
from transforms.similarity import exact, table
from transforms.similarity.groups import Groups
from transforms.similarity.pictures import Pictures
from transforms.similarity.vectors import Vectors

NEIGHBOURS = 12
_BLOCK = 512  # rows compared with as many others at a time


def neighbours(vectors: Vectors, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each vector: numbers and cosine similarities, (vectors, count) each, the nearest first.

    Of equally near ones the first come first. There are fewer than `count` if there are not so many vectors.
    """
    total = len(vectors)
    count = min(count, total - 1)
    indices, cosines = np.empty((total, count), np.int64), np.empty((total, count))
    for start in range(0, total, _BLOCK):
        rows = vectors.block(slice(start, start + _BLOCK))
        others = (vectors.block(slice(at, at + _BLOCK)) for at in range(0, total, _BLOCK))
        block = np.concatenate([rows.cosines(columns) for columns in others], axis=1)
        block[np.arange(len(block)), start + np.arange(len(block))] = -2  # not itself
        nearest = np.argsort(-block, axis=1, kind="stable")[:, :count]
        indices[start : start + len(block)] = nearest
        cosines[start : start + len(block)] = np.take_along_axis(block, nearest, axis=1)
    return indices, cosines


def near_duplicates(vectors: Vectors, rows: Sequence[Row], threshold: float) -> list[list[int]]:
    """The groups of `python -m pipeline.duplicates`, each with its representative first, the largest group first.

    A group of nothing but the same image is left out: these are exact duplicates.

    Args:
      vectors: those of `rows`.
      rows: the sample.
      threshold: the least cosine similarity of two that are alike.
    """
    groups = Groups(len(rows))
    exact.search(vectors, threshold, groups, lambda done, total: None)
    every = Pictures(
        pa.chunked_array([[row.key for row in rows]], pa.binary()),
        pa.chunked_array([[row.sha256 for row in rows]], pa.string()),
        np.array([row.width * row.height for row in rows]),
        np.arange(len(rows)),
        vectors,
    )
    found = table.members(every, groups.all())
    by_group = np.split(found.rows, np.flatnonzero(np.diff(found.groups)) + 1)
    several = [group.tolist() for group in by_group if len({rows[row].sha256 for row in group}) > 1]
    return sorted(several, key=len, reverse=True)
