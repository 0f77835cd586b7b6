"""Images per second of the network, side by side in one call: `python -m benchmarks.model [--batch_size=32]`

(a) the network as the authors' TF2 code runs it: kernels standardized in each call, GroupNorm by moments of groups;
(b) ours in float32; (c) ours in bfloat16; (c') the same with every convolution in bfloat16, to see what the few
that stay in float32 cost; (d) the same network in PyTorch's best setting, if torch is installed or `--pytorch` is given.
Each runs in its own process, so that its peak memory is its own; they take turns, batch by batch, and the best batch of
each counts. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import environments, figures, machine
from bit import network
from bit.command import exit_with
from bit.models import ARCHITECTURES, Architecture
from bit.tensorflow import tf
from bit.weights import STANDARDIZED, shapes

VARIANTS = {
    "authors": "(a) standardizing in each call",
    "float32": "(b) ours, float32",
    "bfloat16": "(c) ours, bfloat16",
    "all_bfloat16": "(c') no convolution in float32",
}
_MATRIX_SIDE = 4096


def gflop(architecture: Architecture, side: int) -> float:
    """Multiplications and additions of the convolutions of one image of side x side, in 1e9."""
    channels = architecture.root_channels
    h = (side - 1) // 2 + 1
    products = h * h * 7 * 7 * 3 * channels
    h = (h - 1) // 2 + 1
    for block, units in enumerate(architecture.units):
        mid = architecture.root_channels << block
        for unit in range(units):
            out = (h - 1) // 2 + 1 if block and not unit else h
            products += h * h * channels * mid + out * out * (9 * mid * mid + 4 * mid * mid)
            products += 0 if unit else out * out * channels * 4 * mid
            channels, h = 4 * mid, out
    return 2 * products / 1e9


def authors_embed(images: tf.Tensor, weights: dict[str, tf.Tensor], architecture: Architecture) -> tf.Tensor:
    """network.embed as the authors' `bit_tf2` computes it, from kernels that are not yet standardized."""

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = weights[f"{name}/{STANDARDIZED}"]
        mean, variance = tf.nn.moments(kernel, [0, 1, 2])
        pad = kernel.shape[0] // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x
        return tf.nn.conv2d(x, (kernel - mean) / tf.sqrt(variance + 1e-10), stride, "VALID")

    def norm_relu(x: tf.Tensor, name: str) -> tf.Tensor:
        n, h, w, c = x.shape
        grouped = tf.reshape(x, [n, h, w, architecture.groups, c // architecture.groups])
        mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
        grouped = (grouped - mean) / tf.sqrt(variance + 1e-5)
        gamma, beta = weights[f"{name}group_norm/gamma"], weights[f"{name}group_norm/beta"]
        return tf.nn.relu(tf.reshape(grouped, x.shape) * gamma + beta)

    x = tf.pad(conv(images, "root_block", 2), [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for block, units in enumerate(architecture.units, 1):
        for unit in range(1, units + 1):
            at, stride = f"block{block}/unit{unit:02d}", 2 if unit == 1 and block > 1 else 1
            y = norm_relu(x, f"{at}/a/")
            shortcut = conv(y, f"{at}/a/proj", stride) if unit == 1 else x
            y = norm_relu(conv(y, f"{at}/a"), f"{at}/b/")
            x = shortcut + conv(norm_relu(conv(y, f"{at}/b", stride), f"{at}/c/"), f"{at}/c")
    return tf.reduce_mean(norm_relu(x, ""), [1, 2])


def random_weights(architecture: Architecture, compute: tf.DType, all_reduced: bool) -> dict[str, tf.Tensor]:
    """Kernels of variance 1 and identity norms, by name; `all_reduced`: no kernel stays in float32."""
    values = tf.random.Generator.from_seed(0)

    def value(name: str, shape: tuple[int, ...]) -> tf.Tensor:
        if name.endswith(STANDARDIZED):
            return tf.cast(values.normal(shape), compute if all_reduced else network.dtype_of(name, compute))
        return tf.ones(shape) if name.endswith("gamma") else tf.zeros(shape)

    return {name: value(name, shape) for name, shape in shapes(architecture).items()}


def serve(variant: str, architecture: Architecture, side: int, batch_size: int) -> None:
    """Runs one batch per line on stdin and prints its seconds; at the end prints the peak memory in GiB."""
    compute = tf.bfloat16 if "bfloat16" in variant else tf.float32
    weights = random_weights(architecture, compute, variant == "all_bfloat16")
    images = tf.random.Generator.from_seed(1).uniform((batch_size, side, side, 3), -1, 1)

    @tf.function(autograph=False)
    def features(images: tf.Tensor) -> tf.Tensor:
        if variant == "authors":
            return authors_embed(images, weights, architecture)
        return network.embed(images, weights, architecture, compiled=True)

    features(images).numpy()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        features(images).numpy()
        print(time.perf_counter() - began, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


def matrix_rate(dtype: tf.DType) -> float:
    """GFLOP/s of a large square matrix product, the best of five."""
    matrix = tf.cast(tf.random.normal((_MATRIX_SIDE, _MATRIX_SIDE)), dtype)
    product = tf.function(lambda a, b: tf.matmul(a, b), autograph=False)
    product(matrix, matrix).numpy()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        product(matrix, matrix).numpy()
        best = min(best, time.perf_counter() - began)
    return 2 * _MATRIX_SIDE**3 / best / 1e9


def main() -> None:
    """Prints the table; with --variant, serves that variant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r101x3", choices=ARCHITECTURES)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pytorch", action="store_true", help="install PyTorch and timm for (d) if missing")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    architecture = ARCHITECTURES[args.architecture]
    if args.variant:
        return serve(args.variant, architecture, args.side, args.batch_size)
    command = [sys.executable, "-m", "benchmarks.model", *sys.argv[1:]]
    commands = {name: [*command, f"--variant={name}"] for name in VARIANTS}
    labels = dict(VARIANTS)
    if python := environments.python_of("torch", install=args.pytorch):
        commands["torch"] = [python, str(Path(__file__).with_name("torch_model.py")), *sys.argv[1:]]
        labels["torch"] = "(d) PyTorch, folded, bfloat16"
    running = {
        name: subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, line in commands.items()
    }

    def answer(name: str, go: bool = False) -> str:
        process = running[name]
        assert process.stdin
        assert process.stdout
        if go:
            process.stdin.write("go\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{labels[name]} ended with {process.wait()}")
        return line.strip()

    for name in running:
        while answer(name) != "ready":  # compilers write to stdout
            pass
    peaks = {"float32": matrix_rate(tf.float32), "bfloat16": matrix_rate(tf.bfloat16)}
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(args.rounds):
        for name in running:
            seconds[name].append(float(answer(name, go=True)))
    work = gflop(architecture, args.side)
    print(f"{machine.describe()}; {args.architecture} at {args.side}, batches of {args.batch_size}\n")
    print("| variant | images/s | worst | GFLOP/s | to (a) | share of matrix rate | peak memory, GiB |")
    print("|---|---|---|---|---|---|---|")
    base = args.batch_size / min(seconds["authors"])
    for name, label in labels.items():
        stdin = running[name].stdin
        assert stdin
        stdin.close()
        rate, worst = args.batch_size / min(seconds[name]), args.batch_size / max(seconds[name])
        figures.report(**{name: rate})
        share = rate * work / peaks["float32" if name in ("authors", "float32") else "bfloat16"]
        memory = float(answer(name))
        print(
            f"| {label} | {rate:.2f} | {worst:.2f} | {rate * work:.0f} | {rate / base:.2f} | {share:.0%} | {memory:.1f} |"
        )
    print("\nMatrix rates: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in peaks.items()))


if __name__ == "__main__":
    exit_with(main)
