"""Figures of all vectors, in memory that does not depend on their number."""

from __future__ import annotations

import numpy as np

_NORMS = 1_000_000  # norms kept for the histogram


class Statistics:
    """Figures of all vectors, from one pass over batches of them."""

    def __init__(self, dimensions: int, rows: int):
        self.rows = 0
        self.zeros = 0  # values that are 0
        self._stride = -(-rows // _NORMS)
        self._norms: list[np.ndarray] = []
        self._first: np.ndarray | None = None  # shifts the sums, which would lose digits otherwise
        self._sum = np.zeros(dimensions)
        self._squares = np.zeros(dimensions)
        self._min = np.full(dimensions, np.inf, np.float32)
        self._max = np.full(dimensions, -np.inf, np.float32)

    def add(self, vectors: np.ndarray) -> None:
        """Adds float32 (rows, dimensions)."""
        if self._first is None:
            self._first = vectors[0].copy()
        norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
        self._norms.append(norms[-self.rows % self._stride :: self._stride].astype(np.float32))
        shifted = vectors - self._first
        self._sum += shifted.sum(axis=0, dtype=np.float64)
        self._squares += np.square(shifted, dtype=np.float64).sum(axis=0)
        self._min = np.minimum(self._min, vectors.min(axis=0))
        self._max = np.maximum(self._max, vectors.max(axis=0))
        self.zeros += vectors.size - int(np.count_nonzero(vectors))
        self.rows += len(vectors)

    @property
    def norms(self) -> np.ndarray:
        """L2 norms of all vectors, or of at most a million evenly spread ones, float32."""
        return np.concatenate(self._norms)

    @property
    def dead(self) -> np.ndarray:
        """Indices of the dimensions that are 0 in every vector."""
        return np.flatnonzero((self._min == 0) & (self._max == 0))

    @property
    def saturated(self) -> np.ndarray:
        """Indices of the dimensions that are not dead, but vary by less than 1 % of their mean: they tell nothing apart."""
        assert self._first is not None
        mean = self._sum / self.rows
        deviation = np.sqrt(np.maximum(0, self._squares / self.rows - mean * mean))
        flat = deviation < 0.01 * np.abs(self._first + mean)
        return np.flatnonzero(flat & ~((self._min == 0) & (self._max == 0)))
