"""The network in forms that a GPU may run faster, with the error of each on a CPU: `python -m benchmarks.variants`

`benchmarks.gpu --export=DIR --variant=NAME` writes them for a machine with a GPU. On a CPU their error is measured with
16-bit values emulated: rounded to that precision, multiplied and summed in float32, as a GPU's matrix units do.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bit.command import exit_with
from bit.models import ARCHITECTURES, Architecture
from bit.network import FLOAT32_IN_BFLOAT16
from bit.tensorflow import tf
from bit.weights import STANDARDIZED, shapes, standardize
from tests.golden import weights as golden

Rounding = Callable[[tf.Tensor, str], tf.Tensor]


@dataclass(frozen=True)
class Variant:
    """How the network is computed. What `bit.network` does for a GPU is in VARIANTS: `f16_product` and `bf16_product`."""

    compute: str = "bfloat16"  # of the convolutions
    residual: str = "float32"  # the residual stream
    float32_units: int = 0  # how many of the last units have a float32 stream whatever `residual` is
    # The three convolutions of network.FLOAT32_IN_BFLOAT16: in "float32"; in "tensorfloat32"; in "compute"; or "split", whose
    # factors are each the sum of two values in `compute`, which makes one convolution over three times the channels.
    exact: str = "tensorfloat32"
    products: bool = False  # 1x1 convolutions at stride 1 as matrix products of (n h w, c)
    space_to_depth: bool = False  # the root's 7x7 at stride 2 as 4x4 over 12 channels
    pool: str = "window"  # or "slices": the maximum of nine strided slices
    # GroupNorm's sums: "channels" (x and x^2 per channel, then groups), "groups" (per group at once), "flat" (pixels as one
    # axis), "slices" (two stages), "guess" (about the group's first pixel), "two_pass" (mean, then squares about it).
    statistics: str = "channels"
    apply: str = "float32"  # x * scale + shift in this dtype
    unrounded: bool = False  # statistics are those of the float32 sum, before it is rounded to `residual`
    by_output: bool = False  # kernels arrive as (cout, h, w, cin)


_F16 = Variant(compute="float16", residual="float16", exact="compute")
_BF16 = Variant(compute="bfloat16", residual="bfloat16", exact="compute")
_STEM: dict[str, Any] = {"space_to_depth": True, "pool": "slices"}
VARIANTS = {
    # What the job does on a GPU, what it did before, then one change at a time.
    "f16_product": replace(_F16, **_STEM, products=True, by_output=True),
    "bf16_product": replace(_BF16, **_STEM, exact="tensorfloat32", products=True, by_output=True),
    "bf16_before": Variant(),
    "f16": _F16,
    "f16_products": replace(_F16, products=True),
    "f16_split": replace(_F16, exact="split"),
    "f16_stem": replace(_F16, **_STEM),
    "f16_groups": replace(_F16, statistics="groups"),
    "f16_flat": replace(_F16, statistics="flat"),
    "f16_products_stem": replace(_F16, **_STEM, products=True),
    "f16_stem_by_output": replace(_F16, **_STEM, by_output=True),
    "f16_two_pass": replace(_F16, statistics="two_pass"),
    "f16_guess": replace(_F16, statistics="guess"),
    "f16_slices": replace(_F16, statistics="slices"),
    "f16_apply16": replace(_F16, apply="float16"),
    "f16_unrounded": replace(_F16, unrounded=True),
    "f16_tf32": replace(_F16, exact="tensorfloat32"),
    "f16_last3": replace(_F16, float32_units=3),
    "f16_residual32": replace(_F16, residual="float32"),
    "f16_before": Variant(compute="float16"),
    "f16_products_groups": replace(_F16, products=True, statistics="groups"),
    "f16_products_flat": replace(_F16, products=True, statistics="flat"),
    "f16_products_split_stem": replace(_F16, **_STEM, exact="split", products=True),
    "bf16": _BF16,
    "bf16_split": replace(_BF16, exact="split"),
    "bf16_residual_f16": replace(_BF16, residual="float16"),
    "bf16_tf32_residual16": replace(_BF16, exact="tensorfloat32"),
    "bf16_tf32_residual_f16": replace(_BF16, exact="tensorfloat32", residual="float16"),
    "bf16_split_residual_f16": replace(_BF16, exact="split", residual="float16"),
    "bf16_products_tf32_residual16": replace(_BF16, exact="tensorfloat32", products=True),
    "bf16_highest": Variant(exact="float32"),
    "f16_highest": Variant(compute="float16", exact="float32"),
    "float32": Variant(compute="float32", exact="float32"),
    "tf32": Variant(compute="tensorfloat32"),
}


def specs_of(variant: Variant, member: Architecture) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and dtypes of the weights, in the order of `bit.weights.shapes`."""
    return [(_given(variant, shape), _kept(variant, name)) for name, shape in shapes(member).items()]


def _given(variant: Variant, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], *shape[:3]) if variant.by_output and len(shape) == 4 else shape


def _kept(variant: Variant, name: str) -> str:
    layer = name.removesuffix(f"/{STANDARDIZED}")
    if layer == name or variant.compute == "tensorfloat32":
        return "float32"
    return "float32" if layer in FLOAT32_IN_BFLOAT16 and variant.exact != "compute" else variant.compute


def cast(x: tf.Tensor, dtype: str) -> tf.Tensor:
    """For the graph that is exported: in `dtype`, which for TF32 is float32, as the device rounds."""
    return tf.cast(x, "float32" if dtype == "tensorfloat32" else dtype)


def emulated(x: tf.Tensor, dtype: str) -> tf.Tensor:
    """For a CPU: float32 rounded to `dtype`. Infinity where float16 overflows."""
    x = tf.cast(x, tf.float32)
    if dtype == "float32":
        return x
    if dtype == "tensorfloat32":  # 10 bits after the point, ties away from zero, as cvt.rna
        return tf.bitcast((tf.bitcast(x, tf.int32) + 0x1000) & ~0x1FFF, tf.float32)
    return tf.cast(tf.cast(x, dtype), tf.float32)


def embed(
    images: tf.Tensor,
    weights: Mapping[str, tf.Tensor],
    member: Architecture,
    variant: Variant,
    to: Rounding = cast,
    peaks: dict[str, float] | None = None,
) -> tf.Tensor:
    """As `bit.network.embed`, in the form of `variant`; `to` rounds. `peaks` gets the largest magnitudes (eager only)."""

    def seen(kind: str, x: tf.Tensor) -> tf.Tensor:
        if peaks is not None:
            peaks[kind] = max(peaks.get(kind, 0.0), float(tf.reduce_max(tf.abs(x))))
        return x

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = weights[f"{name}/{STANDARDIZED}"]
        if variant.by_output and to is cast:
            kernel = tf.transpose(kernel, (1, 2, 3, 0))
        kind = variant.exact if name in FLOAT32_IN_BFLOAT16 else "compute"
        if kind == "split":
            x, kernel = _split(x, 3, variant.compute, to), _split_kernel(kernel, variant.compute, to)
        dtype = kind if kind in ("float32", "tensorfloat32") else variant.compute
        y = _conv(to(x, dtype), to(kernel, dtype), stride, variant)
        return seen("convolutions", to(y, "float32" if dtype == "tensorfloat32" else dtype))

    def norm_relu(x: tf.Tensor, name: str, dtype: str, exact: tf.Tensor | None = None) -> tf.Tensor:
        gamma, beta = weights[f"{name}group_norm/gamma"], weights[f"{name}group_norm/beta"]
        scale, shift = _scale_and_shift(x if exact is None else exact, gamma, beta, member.groups, variant)
        y = to(to(x, variant.apply) * to(scale, variant.apply), variant.apply) + to(shift, variant.apply)
        return to(tf.nn.relu(y), dtype)

    def input_dtype(name: str) -> str:
        if name in FLOAT32_IN_BFLOAT16 and variant.exact != "compute":
            return "float32"
        return variant.compute

    x = conv(images, "root_block", stride=2)
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID") if variant.pool == "window" else _pool(x)
    done, exact = 0, None
    for block, units in enumerate(member.units, 1):
        for unit in range(1, units + 1):
            at = f"block{block}/unit{unit:02d}"
            stride = 2 if unit == 1 and block > 1 else 1
            y = norm_relu(x, f"{at}/a/", input_dtype(f"{at}/a"), exact)
            done += 1
            last = done > sum(member.units) - variant.float32_units
            kept = "float32" if last else variant.residual
            shortcut = conv(y, f"{at}/a/proj", stride) if unit == 1 else x
            y = conv(y, f"{at}/a")
            y = conv(norm_relu(y, f"{at}/b/", variant.compute), f"{at}/b", stride)
            y = conv(norm_relu(y, f"{at}/c/", variant.compute), f"{at}/c")
            if kept == y.dtype.name == shortcut.dtype.name and not variant.unrounded:
                x = to(shortcut + y, kept)  # one operation, which XLA may make a part of the convolution
            else:
                total = tf.cast(shortcut, tf.float32) + tf.cast(y, tf.float32)
                x = to(total, kept)
                exact = total if variant.unrounded else None
            seen("stream", x)
    return tf.reduce_mean(norm_relu(x, "", "float32", exact), [1, 2])


def _conv(x: tf.Tensor, kernel: tf.Tensor, stride: int, variant: Variant) -> tf.Tensor:
    side, channels = kernel.shape[0], kernel.shape[-1]
    if side == 1 and variant.products and stride == 1:
        n, h, w, c = x.shape
        y = tf.matmul(tf.reshape(x, (n * h * w, c)), tf.reshape(kernel, (c, channels)))
        return tf.reshape(y, (n, h, w, channels))
    if side == 7 and variant.space_to_depth:
        return _space_to_depth(x, kernel)
    pad = side // 2
    padding = "SAME" if stride == 1 else [[0, 0], [pad, pad], [pad, pad], [0, 0]]
    return tf.nn.conv2d(x, kernel, stride, padding)


def _space_to_depth(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The 7x7 convolution at stride 2 with padding 3, as 4x4 over blocks of 2x2 pixels; even sides only."""
    n, h, w, c = x.shape
    rows, columns = h // 2 + 3, w // 2 + 3
    x = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    x = tf.transpose(tf.reshape(x, (n, rows, 2, columns, 2, c)), (0, 1, 3, 2, 4, 5))
    kernel = tf.reshape(tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]]), (4, 2, 4, 2, c, -1))
    kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1, 3, 4, 5)), (4, 4, 4 * c, -1))
    return tf.nn.conv2d(tf.reshape(x, (n, rows, columns, 4 * c)), kernel, 1, "VALID")


def _pool(x: tf.Tensor) -> tf.Tensor:
    """3x3 at stride 2 over a padded tensor."""
    h, w = x.shape[1] - 2, x.shape[2] - 2
    slices = [x[:, i : h + i : 2, j : w + j : 2] for i in range(3) for j in range(3)]
    return functools.reduce(tf.maximum, slices)


def _split(x: tf.Tensor, axis: int, dtype: str, to: Rounding) -> tf.Tensor:
    high, low = _parts(x, dtype, to)
    return tf.concat([high, low, high], axis)


def _split_kernel(kernel: tf.Tensor, dtype: str, to: Rounding) -> tf.Tensor:
    high, low = _parts(kernel, dtype, to)
    return tf.concat([high, high, low], 2)


def _parts(x: tf.Tensor, dtype: str, to: Rounding) -> tuple[tf.Tensor, tf.Tensor]:
    """Two values in `dtype` that add up to nearly x."""
    # Not a cast and one back, which XLA takes for nothing (--xla_allow_excess_precision).
    exponent, mantissa = (5, 10) if dtype == "float16" else (8, 7)
    from tensorflow.compiler.tf2xla.python import xla

    high = xla.reduce_precision(x, exponent, mantissa) if to is cast else to(x, dtype)
    return to(high, dtype), to(x - high, dtype)


def _scale_and_shift(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, variant: Variant
) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 (n, 1, 1, c) each, of `bit.group_norm`, with the sums taken in the variant's order."""
    n, h, w, c = x.shape
    x = tf.cast(x, tf.float32)
    m = float(h * w * (c // groups))
    guess = tf.zeros((1, groups, 1))

    def by_group(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reshape(values, (n, groups, c // groups)), 2, keepdims=True)

    if variant.statistics == "groups":
        grouped = tf.reshape(x, (n, h * w, groups, c // groups))
        sums, squares = (tf.reduce_sum(v, [1, 3]) for v in (grouped, tf.square(grouped)))
        sums, squares = tf.reshape(sums, (n, groups, 1)), tf.reshape(squares, (n, groups, 1))
    elif variant.statistics == "flat":
        flat = tf.reshape(x, (n, h * w, c))
        sums, squares = by_group(tf.reduce_sum(flat, 1)), by_group(tf.reduce_sum(tf.square(flat), 1))
    elif variant.statistics == "slices":
        sums = by_group(tf.reduce_sum(tf.reduce_sum(x, 2), 1))
        squares = by_group(tf.reduce_sum(tf.reduce_sum(tf.square(x), 2), 1))
    else:
        if variant.statistics == "guess":
            guess = by_group(x[:, 0, 0]) / (c // groups)
        elif variant.statistics == "two_pass":
            guess = by_group(tf.reduce_sum(x, [1, 2])) / m
        if variant.statistics != "channels":
            x -= tf.reshape(tf.repeat(guess, c // groups, 2), (n, 1, 1, c))
        sums, squares = by_group(tf.reduce_sum(x, [1, 2])), by_group(tf.reduce_sum(tf.square(x), [1, 2]))
    off = sums / m
    variance = squares / m - tf.square(off)
    inverse_sigma = tf.math.rsqrt(tf.maximum(variance, 0.0) + 1e-5)
    scale = inverse_sigma * tf.reshape(gamma, (groups, -1))
    shift = tf.reshape(beta, (groups, -1)) - scale * (guess + off)
    return tf.reshape(scale, (n, 1, 1, c)), tf.reshape(shift, (n, 1, 1, c))


def cost(variant: Variant, member: Architecture, side: int) -> tuple[float, float]:
    """GFLOP and MB of device memory moved per image, where each convolution, sum and application passes once over memory.

    A 16-bit residual is added within the convolution, a float32 one in a pass that also gathers the next norm's sums.
    """
    sizes = {"float32": 4, "tensorfloat32": 4}
    compute = sizes.get(variant.compute, 2)
    stream = sizes.get(variant.residual, 2)
    exact = 4 if variant.exact in sizes else 2
    parts = 3 if variant.exact == "split" else 1
    flop, moved = 0.0, 0.0

    def conv(pixels: float, before: float, cin: int, cout: int, k: int, into: int, out: int, times: int = 1):
        nonlocal flop, moved
        flop += 2 * pixels * cin * cout * k * k * times
        moved += before * cin * into * times + pixels * cout * out

    def norm(values: float, size: int, out: int, gathered: bool = False):
        nonlocal moved
        reads = 1 if gathered else 2
        moved += values * (size * (reads + (variant.statistics == "two_pass")) + out)

    pixels, cin = (side / 2) ** 2, member.root_channels
    conv(pixels, side**2, 3, cin, 7, exact, exact, parts)
    moved += pixels * cin * exact + pixels / 4 * cin * stream
    pixels, first = pixels / 4, True
    for block, units in enumerate(member.units):
        mid = member.root_channels << block
        for unit in range(units):
            after = pixels / 4 if unit == 0 and block else pixels
            special, times = (exact, parts) if first else (compute, 1)
            norm(pixels * cin, stream, special, gathered=stream == 4 and not first)
            conv(pixels, pixels, cin, mid, 1, special, special, times)
            if unit == 0:
                conv(after, pixels, cin, 4 * mid, 1, special, special, times)
            norm(pixels * mid, special, compute)
            conv(after, pixels, mid, mid, 3, compute, compute)
            norm(after * mid, compute, compute)
            conv(after, after, mid, 4 * mid, 1, compute, compute)
            # The stream is read; if it is no part of the convolution, the product is read and the sum written, too.
            moved += after * 4 * mid * (stream if stream == compute else stream * 2 + compute)
            pixels, cin, first = after, 4 * mid, False
    norm(pixels * cin, stream, 0)
    return flop / 1e9, moved / 1e6


def golden_weights(architecture: str) -> dict[str, np.ndarray]:
    """float32, standardized, by name, in the order of `bit.weights.shapes`."""
    arrays = golden.make(architecture)
    values = {name: arrays.pop(f"resnet/{name}") for name in shapes(ARCHITECTURES[architecture])}
    return {name: standardize(v) if name.endswith(STANDARDIZED) else v for name, v in values.items()}


def main() -> None:
    """Prints the error of each variant against the authors' float64 vectors."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.variants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--golden", default="r101x3-224px-seed0", help="a file of tests/golden")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be repeated; default: all")
    args = parser.parse_args()
    architecture, side, _ = args.golden.split("-")
    weights = {name: tf.constant(value) for name, value in golden_weights(architecture).items()}
    with np.load(f"tests/golden/{args.golden}.npz") as stored:
        right = stored["features"].astype(np.float64)
    images = tf.constant(golden.images(len(right), int(side[:-2])).astype(np.float32)) / 127.5 - 1.0
    print(f"{args.golden}: errors of 16-bit values emulated in float32\n")
    print(
        "| variant | relative L2 | of the largest | largest in a convolution | in the stream | GFLOP | MB moved |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in args.variant or VARIANTS:
        peaks: dict[str, float] = {}
        variant = VARIANTS[name]
        got = embed(images, weights, ARCHITECTURES[architecture], variant, emulated, peaks).numpy()
        off = got.astype(np.float64) - right
        l2 = np.linalg.norm(off) / np.linalg.norm(right)
        largest = np.abs(off).max() / np.abs(right).max()
        flop, moved = cost(variant, ARCHITECTURES[architecture], int(side[:-2]))
        print(
            f"| {name} | {l2:.2e} | {largest:.2e} | {peaks['convolutions']:.0f} | {peaks['stream']:.0f} "
            f"| {flop:.1f} | {moved:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    exit_with(main)
