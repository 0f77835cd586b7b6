"""Ridge regression onto one-hot targets, in closed form, as the authors of BiT and ViT judge features. NumPy only.

Source: google-research/big_vision, `evaluators/fewshot_lsr.py`: features standardized by the mean and deviation of the examples
(plus 1e-5), a constant feature of 100 for a bias that is hardly regularized, targets -1 and 1, and
w = (X'X + l2 I)^-1 X'Y, by an eigendecomposition that serves every l2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BIAS = 100.0
_EPSILON = 1e-5
GRID = tuple(2.0**power for power in range(-10, 21))  # of l2
FIXED = 2.0**10  # the authors' choice where nothing is known


@dataclass(frozen=True)
class Solver:
    """The regression of n examples of d features onto c classes, for any l2."""

    mean: np.ndarray  # float64 (d,)
    deviation: np.ndarray  # float64 (d,); infinite where the examples do not differ
    eigenvalues: np.ndarray  # float64 (r,), r = min(n, d + 1)
    left: np.ndarray  # float64 (d + 1, r)
    right: np.ndarray  # float64 (r, c)

    def projected(self, features: np.ndarray) -> np.ndarray:
        """Features (m, d) -> float64 (m, r), what `predict` needs of them for any l2."""
        return self._extended(features) @ self.left

    def predict(self, projected: np.ndarray, l2: float) -> np.ndarray:
        """The class of each of m images, int64 (m,), from what `projected` returned."""
        return np.argmax((projected / (self.eigenvalues + l2)) @ self.right, axis=1)

    def linear(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
        """(kernel float32 (d, c), bias float32 (c,)): features @ kernel + bias are the scores of the classes."""
        w = (self.left / (self.eigenvalues + l2)) @ self.right
        kernel = w[:-1] / self.deviation[:, np.newaxis]
        return kernel.astype(np.float32), (_BIAS * w[-1] - self.mean @ kernel).astype(np.float32)

    def _extended(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self.mean) / self.deviation
        return np.pad(scaled, ((0, 0), (0, 1)), constant_values=_BIAS)


def solve(features: np.ndarray, labels: np.ndarray, classes: int) -> Solver:
    """`features` (n, d) of any float type, `labels` int (n,) below `classes`. Computes in float64."""
    x = np.asarray(features, np.float64)
    # A feature that is constant among the examples has weight 0, but for rounding, which a deviation of 1e-5 would enlarge.
    mean, deviation = x.mean(0), np.where(x.min(0) == x.max(0), np.inf, x.std(0) + _EPSILON)
    y = np.where(np.asarray(labels)[:, np.newaxis] == np.arange(classes), 1.0, -1.0)
    nothing = np.zeros(0)
    x = Solver(mean, deviation, nothing, nothing, nothing)._extended(x)
    count, size = x.shape
    if count >= size:
        eigenvalues, q = np.linalg.eigh(x.T @ x)
        left, right = q, q.T @ (x.T @ y)
    else:
        eigenvalues, q = np.linalg.eigh(x @ x.T)
        left, right = x.T @ q, q.T @ y
    return Solver(mean, deviation, np.maximum(eigenvalues, 0.0), left, right)
