"""Groups of vectors that are alike, directly or through others: connected components, by union-find."""

from __future__ import annotations

import numpy as np


class Groups:
    """Starts with each vector in a group of its own. A group is named by its smallest member."""

    def __init__(self, count: int):
        self._parents = np.arange(count)

    def of(self, members: np.ndarray) -> np.ndarray:
        """The group of each of these vectors."""
        roots = self._parents[members]
        while True:
            above = self._parents[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parents[members] = roots
        return roots

    def join(self, members: np.ndarray) -> None:
        """Makes one group of those of these vectors."""
        roots = np.unique(self.of(members))
        self._parents[roots] = roots[0]

    def join_pairs(self, left: np.ndarray, right: np.ndarray, alike: np.ndarray) -> None:
        """Joins left[i] with right[j] where alike[i, j]."""
        # By rows: where thousands are alike, a list of all pairs would be far larger than the matrix.
        for row in np.flatnonzero(alike.any(axis=1)):
            self.join(np.append(right[alike[row]], left[row]))

    def all(self) -> np.ndarray:
        """The group of each vector."""
        return self.of(np.arange(len(self._parents)))
