"""Checks that a loaded model is unchanged, and measures its error, with a bundled picture.

The expected outputs were recorded in float32: by `bit.export` within the module, else on this host when these weights
were first loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bit.download import cache_folder
from bit.tensorflow import tf

# Below a SavedModel's folder; TensorFlow ignores it.
EXPORTED = os.path.join("assets.extra", "self_test.npz")
_SIDE = 224  # of the stored picture, in pixels
_PICTURE = Path(__file__).parent / "data" / "self_test.png"
# Relative L2. In float32 other processors and versions differ by 1e-5; a kernel that is 1 % wrong differs by 1e-2. Reduced
# precisions have several times their usual error in untrained networks: R101x3 0.028 in float16 on an H200, 0.09 in bfloat16.
_TOLERANCE = {"float32": 1e-4, "tensorfloat32": 2e-2, "float16": 6e-2, "bfloat16": 1.5e-1}

_SETTINGS = ("side", "precision")  # of a record, stored beside its outputs

log = logging.getLogger(__name__)


class SelfTestFailed(RuntimeError):
    """The loaded model's output for the picture differs from the recorded one."""


@dataclass(frozen=True)
class Record:
    """Recorded outputs of the picture by name, (1, d) each, their precision, and the file that holds them."""

    outputs: Mapping[str, np.ndarray]
    precision: str
    path: str


@dataclass(frozen=True)
class Distance:
    """Of a vector from the right one."""

    relative_l2: float
    cosine: float


def picture(side: int) -> np.ndarray:
    """float32 (1, side, side, 3) RGB in [0, 255]: a cat. Sides other than 224 take the nearest pixels."""
    stored = tf.io.decode_png(_PICTURE.read_bytes(), channels=3).numpy()
    nearest = (np.arange(side) * 2 + 1) * _SIDE // (2 * side)
    return stored[np.newaxis, nearest[:, np.newaxis], nearest].astype(np.float32)


def distance(got: np.ndarray, right: np.ndarray) -> Distance:
    """Both (1, d), compared in float64. From a right vector of zeros only zeros are at distance 0, others at infinity.

    So is a vector of another size.
    """
    if got.shape != right.shape:
        return Distance(float("inf"), 0.0)
    a, b = got.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norm = float(np.linalg.norm(b))
    off = float(np.linalg.norm(a - b))
    if not norm:
        return Distance(0.0 if not off else float("inf"), 1.0 if not off else 0.0)
    return Distance(off / norm, float(a @ b / (np.linalg.norm(a) * norm or 1.0)))


def compare(
    got: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], precision: str, source: str
) -> Distance:
    """The distance of the common output that is farthest off. Raises SelfTestFailed if `precision` does not allow it.

    `source`: what the right vectors come from, for the message.
    """
    common = got.keys() & right.keys()
    farthest = max(
        (distance(got[name], right[name]) for name in common), key=lambda d: _badness(d.relative_l2)
    )
    if _badness(farthest.relative_l2) > _TOLERANCE[precision]:
        raise SelfTestFailed(
            f"the loaded model fails its self-test: in {precision} its vector for the bundled picture is off by "
            f"{farthest.relative_l2:.2g} (relative L2; {_TOLERANCE[precision]:g} is allowed) from {source}. Likely causes: "
            "faulty memory or a faulty device, a driver or TensorFlow build that does not fit this device, or "
            "weights that changed under the same name. Try another worker or --precision=float32; if the change is "
            f"intended, remove {os.path.join(cache_folder(), 'self-test')}"
        )
    return farthest


def _badness(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def recall(weights: str, side: int, model_path: str) -> Record | None:
    """The record of these weights at this side; None if there is none.

    `weights` is their identity, `model_path` a SavedModel's folder, any other path, or ''.
    """
    for path in (os.path.join(model_path, EXPORTED) if model_path else "", _record(weights, side)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, KeyError):
            try:
                with open(path, "rb") as file, np.load(file) as stored:  # which leaves what is damaged open
                    if int(stored["side"]) == side:
                        outputs = {name: stored[name] for name in stored.files if name not in _SETTINGS}
                        return Record(outputs, str(stored["precision"]), path)
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                log.warning("%s is damaged (%s): recording the self-test again", path, error)
    return None


def write(path: str, outputs: Mapping[str, np.ndarray], side: int, precision: str = "float32") -> None:
    """Records outputs of the picture at `side`, completely or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".partial", delete=False) as file:
        settings = {"side": np.int64(side), "precision": np.str_(precision)}
        np.savez(file, allow_pickle=False, **settings, **outputs)
    os.replace(file.name, path)


def remember(weights: str, outputs: Mapping[str, np.ndarray], side: int) -> None:
    """Records outputs for later loads on this host. If the cache cannot be written, the check is lost, not the job."""
    path = _record(weights, side)
    try:
        known = recall(weights, side, "")
        write(path, {**(known.outputs if known else {}), **outputs}, side)
    except OSError as error:
        log.warning("the self-test cannot be recorded in %s: %s", path, error)


def _record(weights: str, side: int) -> str:
    name = hashlib.sha256(f"{weights}\n{side}\n".encode() + _PICTURE.read_bytes()).hexdigest()[:32]
    return os.path.join(cache_folder(), "self-test", f"{name}.npz")
