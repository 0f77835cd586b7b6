"""Which convolutions carry the error of a reduced precision? `python -m benchmarks.error [--dtype=float16] [--side=224]`

Rounds kernel, input and output of chosen convolutions, leaves all else in float32, and prints the relative L2 error of
the features and the share of the squared error, with the seeded weights of tests/golden. No CPU multiplies float16: XLA
rounds to it there and sums in float32, as the matrix units of a GPU do.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from benchmarks import figures
from bit import network
from bit.models import ARCHITECTURES
from bit.weights import STANDARDIZED, shapes, standardize
from tests.golden import weights as golden


class _Rounding:
    """Weights as a mapping by name; a chosen kernel comes with a mark that makes its convolution round."""

    def __init__(self, weights: dict[str, tf.Tensor], dtype: tf.DType):
        self._weights = weights
        self._dtype = dtype

    def features(self, images: tf.Tensor, architecture: str, chosen: Callable[[str], bool]) -> np.ndarray:
        """float32 (n, h, w, 3) in [-1, 1] -> float32 (n, d), with the reduced precision in the chosen layers."""
        current = {
            name: tf.cast(value, self._dtype)
            if name.endswith(STANDARDIZED) and chosen(name.removesuffix(f"/{STANDARDIZED}"))
            else value
            for name, value in self._weights.items()
        }
        embed = tf.function(network.embed, autograph=False, jit_compile=self._dtype == tf.float16)
        return embed(images, current, ARCHITECTURES[architecture]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error", description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r101x3", choices=golden_names())
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    args = parser.parse_args()
    made = golden.make(args.architecture)
    weights = {}
    for name in shapes(ARCHITECTURES[args.architecture]):
        value = made.pop(f"resnet/{name}")
        weights[name] = tf.constant(standardize(value) if name.endswith(STANDARDIZED) else value)
    images = tf.constant(golden.images(2, args.side).astype(np.float32)) / 127.5 - 1.0
    rounding = _Rounding(weights, tf.as_dtype(args.dtype))
    exact = rounding.features(images, args.architecture, lambda layer: False)

    def error(chosen: Callable[[str], bool]) -> float:
        got = rounding.features(images, args.architecture, chosen)
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
        "all but network.ALWAYS_FLOAT32": lambda layer: layer not in network.ALWAYS_FLOAT32,
        f"all but the root and {first}": lambda layer: layer != "root_block" and not layer.startswith(first),
    }
    print(f"{args.architecture} at {args.side}, TensorFlow {tf.__version__}, {platform.machine()}\n")
    if args.dtype == "float16":  # minutes each
        groups = {name: groups[name] for name in ("every convolution", "all but network.ALWAYS_FLOAT32")}
    print(f"| in {args.dtype} | relative L2 | share of the squared error |\n|---|---|---|")
    whole = 0.0
    for name, chosen in groups.items():
        found = error(chosen)
        whole = whole or found
        figures.give(**{name: found})
        print(f"| {name} | {found:.2e} | {found**2 / whole**2:.0%} |", flush=True)


def golden_names() -> list[str]:
    """Architectures for which tests/golden can make a checkpoint."""
    return [name for name in ARCHITECTURES if name.split("x")[0] in golden.UNITS]


if __name__ == "__main__":
    main()
