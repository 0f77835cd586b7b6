"""Weights of the family: official names and shapes, untrained weights, weight standardization.

NumPy only. Kernels are HWIO float32, as in the official checkpoints.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bit.digests import OfArrays
from bit.models import Architecture

HEAD_KERNEL = "head/conv2d/kernel"
HEAD_BIAS = "head/conv2d/bias"
ALIGNMENT_BYTES = 64
STANDARDIZED = "standardized_conv2d/kernel"
STANDARDIZATION_EPSILON = 1e-10  # of `standardize`
# Identifies what Untrained generates: other values need another number.
UNTRAINED_VERSION = "untrained-v1"


def shapes(architecture: Architecture, classes: int = 0) -> dict[str, tuple[int, ...]]:
    """Array names (without 'resnet/') and shapes of a checkpoint; `classes` is 0 if there is no head."""
    cin = architecture.root_channels
    out: dict[str, tuple[int, ...]] = {f"root_block/{STANDARDIZED}": (7, 7, 3, cin)}
    for block, units in enumerate(architecture.units):
        mid = architecture.root_channels << block
        for unit in range(1, units + 1):
            at = f"block{block + 1}/unit{unit:02d}"
            out[f"{at}/a/group_norm/gamma"] = out[f"{at}/a/group_norm/beta"] = (cin,)
            out[f"{at}/a/{STANDARDIZED}"] = (1, 1, cin, mid)
            if unit == 1:
                out[f"{at}/a/proj/{STANDARDIZED}"] = (1, 1, cin, 4 * mid)
            out[f"{at}/b/group_norm/gamma"] = out[f"{at}/b/group_norm/beta"] = (mid,)
            out[f"{at}/b/{STANDARDIZED}"] = (3, 3, mid, mid)
            out[f"{at}/c/group_norm/gamma"] = out[f"{at}/c/group_norm/beta"] = (mid,)
            out[f"{at}/c/{STANDARDIZED}"] = (1, 1, mid, 4 * mid)
            cin = 4 * mid
    out["group_norm/gamma"] = out["group_norm/beta"] = (cin,)
    if classes:
        out[HEAD_KERNEL] = (1, 1, cin, classes)
        out[HEAD_BIAS] = (classes,)
    return out


class Weights(Protocol):
    """The arrays of one network, read or generated one at a time; `folded` and `bit.export` read them."""

    @property
    def architecture(self) -> Architecture:
        """Which member of the family it is."""

    @property
    def classes(self) -> int:
        """Number of outputs of the head; 0 if there is none."""

    def array(self, name: str) -> np.ndarray:
        """float32, shape `shapes(architecture, classes)[name]`; not standardized."""


@dataclass(frozen=True)
class Untrained:
    """Seeded weights, the same everywhere: norms and biases as at the start of training, kernels uniform in
    [-1, 1) (in the head: a hundredth of that). The bits come from SFC64, whose stream NumPy guarantees."""

    architecture: Architecture
    classes: int = 0

    def array(self, name: str) -> np.ndarray:
        """See `Weights.array`."""
        shape = shapes(self.architecture, self.classes)[name]
        if name.endswith("gamma"):
            return np.ones(shape, np.float32)
        if name.endswith(("beta", "bias")):
            return np.zeros(shape, np.float32)
        seed = hashlib.sha256(f"{UNTRAINED_VERSION}/{name}/{shape}".encode()).digest()
        count = math.prod(shape)
        raw = np.random.SFC64(int.from_bytes(seed[:16], "little")).random_raw(-(-count // 2))
        bits = raw.astype("<u8", copy=False).view("<i4")[:count]
        scale = np.float32(2.0**-31 * (0.01 if name == HEAD_KERNEL else 1.0))
        return (bits.astype(np.float32) * scale).reshape(shape)


@dataclass(frozen=True)
class Arrays:
    """Weights that `read` returns by name; see bit.checkpoint.recognize."""

    architecture: Architecture
    classes: int
    read: Callable[[str], np.ndarray]

    def array(self, name: str) -> np.ndarray:
        """See `Weights.array`."""
        return self.read(name)


def aligned(count: int) -> np.ndarray:
    """Uninitialized uint8 (count,), aligned as a tensor's memory, which TensorFlow takes over without a copy.

    An array in the `.npy` format that is read into it has its numbers aligned, too.
    """
    raw = np.empty(count + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + count]


def standardize(kernel: np.ndarray) -> np.ndarray:
    """HWIO float32, contiguous -> the same array, changed in place to mean 0 and variance 1 per output channel.

    Qiao et al. 2019, Weight Standardization, arXiv:1903.10520, equations 8 to 10, for output channel i and its I
    weights j (over H, W and input channels):

        W_hat_ij = (W_ij - mu_i) / sigma_i,   mu_i = 1/I sum_j W_ij,   sigma_i = sqrt(1/I sum_j W_ij^2 - mu_i^2 + epsilon)

    The variance is the biased one, and epsilon = 1e-10 (`StandardizedConv2D` in BiT's `bit_tf2/models.py`). It is
    computed from the centred weights, 1/I sum_j (W_ij - mu_i)^2, which is equal and keeps all digits.
    """
    flat = kernel.reshape(-1, kernel.shape[-1])
    rows, channels = flat.shape
    inner = next(size for size in range(math.isqrt(rows), 0, -1) if rows % size == 0)

    # Averages in two steps: one float32 sum over 13,824 values would change the features. In place, without
    # temporaries: the first access to fresh memory costs more than the arithmetic.
    sliced = flat.reshape(-1, inner, channels)
    flat -= sliced.mean(axis=1).mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("ijk,ijk->ik", sliced, sliced).sum(axis=0, dtype=np.float64)
    flat *= (1.0 / np.sqrt(squares / rows + STANDARDIZATION_EPSILON)).astype(np.float32)
    return kernel


def folded(weights: Weights, head: bool, digest: OfArrays | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 array) with kernels standardized; the head's arrays only if `head`.

    `digest` gets each array as it was read.

    Threads read at most a few arrays ahead, so a caller that converts each array as it comes needs memory for the
    network once, plus a few arrays.
    """

    def read(name: str) -> tuple[str, np.ndarray]:
        value = weights.array(name)
        if digest:
            digest.add(name, value)
        return name, standardize(value) if name.endswith(STANDARDIZED) else value

    names = iter(shapes(weights.architecture, weights.classes if head else 0))
    with ThreadPoolExecutor(2) as pool:
        ahead = [pool.submit(read, name) for _, name in zip(range(3), names, strict=False)]
        while ahead:
            yield ahead.pop(0).result()
            if (name := next(names, None)) is not None:
                ahead.append(pool.submit(read, name))
