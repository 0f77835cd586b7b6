"""Search for vectors that are alike with an index of faiss, for more of them than an exact search can compare.

The index holds random projections of the vectors, 2 KB each, and proposes the nearest ones; each proposal is then checked with
the vectors themselves. So no pair is joined wrongly, and `exact.recall` says how many are missed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from transforms.similarity.exact import Tick
from transforms.similarity.groups import Groups
from transforms.similarity.vectors import Vectors

_PROJECTED = 512  # dimensions
_NEIGHBOURS = 32  # proposed per vector
_PROBES = 32  # cells searched per vector
_TRAINING = 64  # vectors per cell, of which the cells are learned
_BLOCK_BYTES = 64 << 20  # 64 MiB of vectors
_SEED = 1


def is_there() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def search(vectors: Vectors, threshold: float, groups: Groups, tick: Tick) -> None:
    """Joins vectors with a cosine similarity of at least `threshold`, among the nearest ones that the index proposes.

    Two runs on one machine give the same groups. `tick` is called after each block, with the steps done and those in all.
    """
    count, dimensions = vectors.shape
    step = max(1, _BLOCK_BYTES // (4 * dimensions))
    starts, steps = range(0, count, step), 1 + 2 * -(-count // step)
    project = _projection(dimensions)
    index = _trained(vectors, project, step)
    tick(1, steps)
    for number, start in enumerate(starts):
        index.add(project(vectors.block(slice(start, start + step)).unit))
        tick(2 + number, steps)
    # A projection estimates 1 - cos with a relative standard deviation of sqrt(2 / size) (Johnson-Lindenstrauss): take five.
    lowest = 1 - (1 - threshold) * (1 + 5 * math.sqrt(2 / index.d)) - 1e-5
    for number, start in enumerate(starts):
        block = project(vectors.block(slice(start, start + step)).unit)
        cosines, proposed = index.search(block, min(_NEIGHBOURS + 1, count))
        rows, places = np.nonzero((proposed >= 0) & (cosines >= lowest))
        _check(vectors, threshold, groups, start + rows, proposed[rows, places])
        tick(2 + len(starts) + number, steps)


def _projection(dimensions: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function float32 (n, dimensions) -> (n, 512 or fewer): onto random orthonormal directions, then to unit length."""
    import faiss

    rotation = faiss.RandomRotationMatrix(dimensions, min(dimensions, _PROJECTED))
    rotation.init(_SEED)

    def project(block: np.ndarray) -> np.ndarray:
        out = rotation.apply(block)
        faiss.normalize_L2(out)
        return out

    return project


def _trained(vectors: Vectors, project: Callable[[np.ndarray], np.ndarray], step: int) -> Any:
    """An empty index whose cells are learned from an evenly spread sample."""
    import faiss

    count = len(vectors)
    cells = max(1, min(round(4 * math.sqrt(count)), count // _TRAINING))
    sample = np.unique(np.linspace(0, count - 1, min(count, _TRAINING * cells)).astype(np.int64))
    projected = [project(vectors.block(sample[at : at + step]).unit) for at in range(0, len(sample), step)]
    index: Any = faiss.index_factory(projected[0].shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = _PROBES
    index.train(np.concatenate(projected))
    return index


def _check(vectors: Vectors, threshold: float, groups: Groups, left: np.ndarray, right: np.ndarray) -> None:
    """Joins those of the proposed pairs that are alike."""
    while True:
        apart = groups.of(left) != groups.of(right)
        left, right = left[apart], right[apart]
        if not len(left):
            return
        # A few at a time: what they join need not be computed any more.
        ours, theirs = left[:1024], right[:1024]
        alike = vectors.cosines(ours, theirs) >= threshold
        for pair in zip(ours[alike], theirs[alike], strict=True):
            groups.join(np.array(pair))
        left, right = left[1024:], right[1024:]
