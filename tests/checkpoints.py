"""Checkpoints and pictures of tests/golden, generated once per session and shared by the test processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.golden import weights as golden

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """One file of tests/golden and what it was computed from (its README)."""

    file: str
    architecture: str
    classes: int | None
    seed: int
    count: int
    side: int

    def pictures(self) -> np.ndarray:
        """float32 (count, side, side, 3) RGB in [0, 255]."""
        return golden.images(self.count, self.side).astype(np.float32)

    def expected(self) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{self.file}.npz") as stored:
            names = {"features": "embedding", "logits": "logits"}
            return {names[name]: stored[name] for name in stored.files}

    def checkpoint(self, folder: Path) -> str:
        """Path of the checkpoint, written to `folder`."""
        path = folder / f"{self.file}.npz"
        np.savez(path, **golden.make(self.architecture, self.classes, self.seed))
        return str(path)


R50X1 = Case("r50x1-128px-seed0", "r50x1", 21843, 0, 3, 128)
R50X1_ODD = Case("r50x1-97px-seed5", "r50x1", 1000, 5, 2, 97)
R101X1 = Case("r101x1-160px-seed0", "r101x1", None, 0, 2, 160)
R101X3 = Case("r101x3-224px-seed0", "r101x3", None, 0, 2, 224)


def authors_features(case: Case, path: str, dtype: type) -> np.ndarray:
    """The pooled features as the authors' formulas give them in `dtype`: kernels standardized, norms as their papers say."""
    import tensorflow as tf  # not for those who only need a checkpoint

    from benchmarks.model import authors_embed
    from bit.models import ARCHITECTURES
    from bit.weights import shapes

    member = ARCHITECTURES[case.architecture]
    with np.load(path) as stored:
        weights = {name: tf.constant(stored[f"resnet/{name}"].astype(dtype)) for name in shapes(member)}
    images = case.pictures().astype(dtype) / 127.5 - 1
    return authors_embed(tf.constant(images), weights, member).numpy()


def worst(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
