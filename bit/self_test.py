"""Is the loaded model what it was, and how exact is it? A picture that ships here goes through it after loading.

What it must give was recorded in float32: by `bit.export` within the module, else on this host when these weights
were first loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit.download import cache_folder

# Below a SavedModel's folder; TensorFlow leaves it alone.
EXPORTED = os.path.join("assets.extra", "self_test.npz")
_SIDE = 224  # of the picture as it is stored
_PICTURE = Path(__file__).parent / "data" / "self_test.png"
# Relative L2. Other processors and versions differ by 1e-5 in float32; a kernel that is wrong by 1 % by 1e-2.
_TOLERANCE = {"float32": 1e-4, "tensorfloat32": 2e-2, "float16": 2e-2, "bfloat16": 1.5e-1}

_ABOUT = ("side", "precision")  # of a record, beside its outputs

log = logging.getLogger(__name__)


class SelfTestFailed(RuntimeError):
    """The loaded model does not give for the picture what it gave before."""


@dataclass(frozen=True)
class Record:
    """What was recorded: outputs by name, (1, d) each, of the picture, in a precision; and where that stands."""

    outputs: Mapping[str, np.ndarray]
    precision: str
    path: str


@dataclass(frozen=True)
class Distance:
    """Of a vector to the right one."""

    relative_l2: float
    cosine: float


@contextlib.contextmanager
def float32_only() -> Iterator[None]:
    """Within it float32 means float32: on a GPU TensorFlow may round the factors of products to TF32."""
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


def picture(side: int) -> np.ndarray:
    """float32 (1, side, side, 3) RGB in [0, 255]: a cat. Sides other than 224 take the nearest pixels."""
    stored = tf.io.decode_png(_PICTURE.read_bytes(), channels=3).numpy()
    nearest = (np.arange(side) * 2 + 1) * _SIDE // (2 * side)
    return stored[np.newaxis, nearest[:, np.newaxis], nearest].astype(np.float32)


def distance(got: np.ndarray, right: np.ndarray) -> Distance:
    """Both (1, d), compared in float64; a right vector of zeros is at distance 0 of itself only."""
    a, b = got.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norm = float(np.linalg.norm(b))
    off = float(np.linalg.norm(a - b))
    if not norm:
        return Distance(0.0 if not off else float("inf"), 1.0 if not off else 0.0)
    return Distance(off / norm, float(a @ b / (np.linalg.norm(a) * norm or 1.0)))


def compare(
    got: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], precision: str, what: str
) -> Distance:
    """The distance of the common output that is farthest off. Raises SelfTestFailed beyond what `precision` allows.

    `what` names in the message what gave the right vectors.
    """
    common = got.keys() & right.keys()
    found = max((distance(got[name], right[name]) for name in common), key=lambda d: _badness(d.relative_l2))
    if _badness(found.relative_l2) > _TOLERANCE[precision]:
        raise SelfTestFailed(
            f"the loaded model fails its self-test: in {precision} its vector of the bundled picture is off by "
            f"{found.relative_l2:.2g} (relative L2; {_TOLERANCE[precision]:g} is allowed) from {what}. Likely causes: "
            "memory or a device that computes wrongly, a driver or TensorFlow build that does not fit this device, or "
            "weights that changed under the same name. Try another worker or --precision=float32; if the change is "
            f"wanted, remove {os.path.join(cache_folder(), 'self-test')}"
        )
    return found


def _badness(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def recall(weights: str, side: int, model_path: str) -> Record | None:
    """What was recorded; None where nothing was.

    `weights` is the identity of the weights, `model_path` a SavedModel's folder or any other path.
    """
    for path in (os.path.join(model_path, EXPORTED) if model_path else "", _record(weights, side)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, KeyError):
            try:
                with np.load(path) as stored:
                    if int(stored["side"]) == side:
                        outputs = {name: stored[name] for name in stored.files if name not in _ABOUT}
                        return Record(outputs, str(stored["precision"]), path)
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                log.warning("%s is damaged (%s): recording the self-test anew", path, error)
    return None


def write(path: str, outputs: Mapping[str, np.ndarray], side: int, precision: str = "float32") -> None:
    """Records outputs of the picture at `side`, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".partial", delete=False) as file:
        about = {"side": np.int64(side), "precision": np.str_(precision)}
        np.savez(file, allow_pickle=False, **about, **outputs)
    os.replace(file.name, path)


def remember(weights: str, outputs: Mapping[str, np.ndarray], side: int) -> None:
    """Records for later loads on this host; a cache that cannot be written to costs the check, not the job."""
    path = _record(weights, side)
    try:
        known = recall(weights, side, "")
        write(path, {**(known.outputs if known else {}), **outputs}, side)
    except OSError as error:
        log.warning("the self-test is not recorded in %s: %s", path, error)


def _record(weights: str, side: int) -> str:
    name = hashlib.sha256(f"{weights}\n{side}\n".encode() + _PICTURE.read_bytes()).hexdigest()[:32]
    return os.path.join(cache_folder(), "self-test", f"{name}.npz")
