"""The map: vectors in two dimensions, so that what is alike lies close together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_COMPONENTS = 50
_OVERSAMPLED = 10
_ITERATIONS = 8
_FEWEST = 8  # different vectors that t-SNE has something to say about


@dataclass(frozen=True)
class Map:
    """Points (rows, 2), each coordinate in 0 to 1, and how they were found."""

    points: np.ndarray
    method: str


def project(unit: np.ndarray) -> Map:
    """A map of vectors of length 1, float32 (rows, dimensions). The same vectors give the same map on one machine."""
    scores, share = principal_components(unit, _COMPONENTS)
    # scikit-learn crashes on vectors that are all the same.
    if len(np.unique(np.round(scores, 4), axis=0)) < _FEWEST:
        return _plane(scores, share, f"t-SNE needs {_FEWEST} different vectors")
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        return _plane(
            scores, share, "scikit-learn, which makes better maps, is missing: pip install scikit-learn"
        )
    start = (1e-4 / scores[:, 0].std() * scores[:, :2]).astype(np.float32)
    with threadpool_limits(1):  # sums over threads depend on their order
        perplexity = min(30, (len(unit) - 1) / 3)
        points = TSNE(init=start, random_state=0, perplexity=perplexity).fit_transform(scores)
    kept = f"{scores.shape[1]} dimensions, {share.sum():.0%} of the variance"
    return Map(_fitted(points), f"PCA to {kept}, then t-SNE")


def _plane(scores: np.ndarray, share: np.ndarray, why: str) -> Map:
    points = np.zeros((len(scores), 2))
    points[:, : min(2, scores.shape[1])] = scores[:, :2]
    return Map(_fitted(points), f"PCA to 2 dimensions, {share[:2].sum():.0%} of the variance ({why})")


def principal_components(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (rows, count) and the share of the variance of each component, by randomized subspace iteration.

    Halko, Martinsson and Tropp, "Finding structure with randomness", algorithm 4.4 (arxiv.org/abs/0909.4061).
    """
    size = min(count + _OVERSAMPLED, *vectors.shape)
    count = min(count, size)
    mean = vectors.mean(axis=0)
    basis = np.random.default_rng(0).standard_normal((vectors.shape[1], size), np.float32)
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(vectors.T @ (vectors @ basis - mean @ basis))
    left, singular, _ = np.linalg.svd(vectors @ basis - mean @ basis, full_matrices=False)
    left *= np.sign(left[np.abs(left).argmax(axis=0), np.arange(size)])  # whose sign is arbitrary
    variance = (
        np.square(vectors, dtype=np.float64).sum() - len(vectors) * np.square(mean, dtype=np.float64).sum()
    )
    share = np.square(singular, dtype=np.float64) / variance if variance > 0 else np.zeros(size)
    return left[:, :count] * singular[:count], share[:count]


def _fitted(points: np.ndarray) -> np.ndarray:
    """Moved and scaled into the unit square, with the same scale for both axes."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (high - low).max()
    return 0.5 + (points - (low + high) / 2) / scale if scale > 0 else np.full_like(points, 0.5)
