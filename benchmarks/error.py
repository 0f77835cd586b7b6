"""Which convolutions carry the error of a reduced precision? `python -m benchmarks.error [--dtype=float16] [--side=224]`

Rounds kernel, input and output of selected convolutions, leaves everything else in float32, and prints the relative L2
error of the features and its share of the squared error, with the seeded weights of tests/golden. CPUs do not multiply
float16: there XLA rounds to it and sums in float32, as the matrix units of a GPU do.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks import figures
from bit import network
from bit.command import exit_with
from bit.models import ARCHITECTURES
from bit.tensorflow import tf
from bit.weights import STANDARDIZED, shapes, standardize
from tests.golden import weights as golden


class _Rounding:
    """Computes features with selected kernels in a reduced dtype, in which their convolutions then run."""

    def __init__(self, weights: dict[str, tf.Tensor], dtype: tf.DType):
        self._weights = weights
        self._dtype = dtype

    def features(self, images: tf.Tensor, architecture: str, selected: Callable[[str], bool]) -> np.ndarray:
        """float32 (n, h, w, 3) in [-1, 1] -> float32 (n, d), with the reduced precision in the selected layers."""
        current = {
            name: tf.cast(value * (network.FLOAT16_SCALE if self._dtype == tf.float16 else 1.0), self._dtype)
            if name.endswith(STANDARDIZED) and selected(name.removesuffix(f"/{STANDARDIZED}"))
            else value
            for name, value in self._weights.items()
        }
        embed = tf.function(network.embed, autograph=False, jit_compile=self._dtype == tf.float16)
        return embed(images, current, ARCHITECTURES[architecture]).numpy()


def main() -> None:
    """Prints the table of layers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error", description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r101x3", choices=golden_names())
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    args = parser.parse_args()
    arrays = golden.make(args.architecture)
    weights = {}
    for name in shapes(ARCHITECTURES[args.architecture]):
        value = arrays.pop(f"resnet/{name}")
        weights[name] = tf.constant(standardize(value) if name.endswith(STANDARDIZED) else value)
    images = tf.constant(golden.images(2, args.side).astype(np.float32)) / 127.5 - 1.0
    rounding = _Rounding(weights, tf.as_dtype(args.dtype))
    exact = rounding.features(images, args.architecture, lambda layer: False)

    def error(selected: Callable[[str], bool]) -> float:
        got = rounding.features(images, args.architecture, selected)
        return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))

    first = "block1/unit01"
    groups: dict[str, Callable[[str], bool]] = {
        "every convolution": lambda layer: True,
        "root": lambda layer: layer == "root_block",
        **{
            f"block{block}": lambda layer, block=block: layer.startswith(f"block{block}/")
            for block in range(1, 5)
        },
        first: lambda layer: layer.startswith(first),
        "projections": lambda layer: layer.endswith("/proj"),
        "all but the root": lambda layer: layer != "root_block",
        "all but network.FLOAT32_IN_BFLOAT16": lambda layer: layer not in network.FLOAT32_IN_BFLOAT16,
        f"all but the root and {first}": lambda layer: layer != "root_block" and not layer.startswith(first),
    }
    print(f"{args.architecture} at {args.side}, TensorFlow {tf.__version__}, {platform.machine()}\n")
    if args.dtype == "float16":  # minutes per row
        groups = {"every convolution": groups["every convolution"]}
    print(f"| in {args.dtype} | relative L2 | share of the squared error |\n|---|---|---|")
    largest = 0.0
    for name, selected in groups.items():
        relative_l2 = error(selected)
        largest = largest or relative_l2  # of the first row
        figures.report(**{name: relative_l2})
        print(f"| {name} | {relative_l2:.2e} | {relative_l2**2 / largest**2:.0%} |", flush=True)


def golden_names() -> list[str]:
    """Architectures for which tests/golden can generate a checkpoint."""
    return [name for name in ARCHITECTURES if name.split("x")[0] in golden.UNITS]


if __name__ == "__main__":
    exit_with(main)
