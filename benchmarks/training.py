"""Training steps per second, beside the authors' way in PyTorch, and the memory that a micro-batch takes.

`python -m benchmarks.training [--architecture=r50x1 --side=128 --batch_size=16] [--pytorch]`: updates take turns, and the best of
each counts. `--memory` prints instead what the tensors that R101x3's gradient needs take up, by side, precision and micro-batch:
from their sizes, not measured.
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

import numpy as np

from benchmarks import environments, machine
from bit.models import ARCHITECTURES, Architecture
from bit.training import Batch, Settings, Trainer
from bit.weights import Untrained, shapes

_CARDS_GB = (24, 80)


def serve(architecture: Architecture, side: int, batch_size: int, precision: str) -> None:
    """Runs one update per line on stdin and prints its seconds; at the end prints the peak memory in GiB."""
    trainer = Trainer(Untrained(architecture), 10, Settings(side, batch_size, precision=precision))
    draw = np.random.RandomState(0)
    pixels = draw.randint(0, 256, (batch_size, side, side, 3)).astype(np.uint8)
    no = np.zeros(batch_size, bool)
    batch = Batch(pixels, np.arange(batch_size) % 10, np.zeros((batch_size, 2), int), no, ~no)
    trainer.update(batch, 0.003)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        trainer.update(batch, 0.003)
        print(time.perf_counter() - began, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


def kept_values(architecture: Architecture, side: int) -> int:
    """Numbers that the gradient of one picture needs: each norm's input and, behind its ReLU, each convolution's."""
    total = side * side * 3
    h = (side - 1) // 2 + 1
    total += h * h * architecture.root_channels  # before the pool
    h, channels = (h - 1) // 2 + 1, architecture.root_channels
    for block, units in enumerate(architecture.units):
        mid = architecture.root_channels << block
        for unit in range(units):
            out = (h - 1) // 2 + 1 if block and not unit else h
            # x and a's norm; a's output and b's norm; b's output and c's norm.
            total += 2 * h * h * channels + 2 * h * h * mid + 2 * out * out * mid
            channels, h = 4 * mid, out
    return total + 2 * h * h * channels


def memory_gb(architecture: Architecture, side: int, micro_batch: int, precision: str) -> float:
    """GB of weights, momentum, accumulated and new gradients in float32, of kernels in the precision, and of what is kept."""
    weights = sum(int(np.prod(shape)) for shape in shapes(architecture, 1000).values())
    size = 4 if precision == "float32" else 2
    return (weights * (4 * 4 + size) + micro_batch * kept_values(architecture, side) * size) / 1e9


def table() -> None:
    """Prints the memory of R101x3, and the largest micro-batch, a power of two, that leaves a tenth of a card free."""
    member = ARCHITECTURES["r101x3"]
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    print(
        "| side | precision | "
        + " | ".join(map(str, sizes))
        + " | "
        + " | ".join(f"{gb} GB holds" for gb in _CARDS_GB)
        + " |"
    )
    print("|---" * (2 + len(sizes) + len(_CARDS_GB)) + "|")
    for side in (480, 128):
        for precision in ("float32", "bfloat16"):
            needs = {size: memory_gb(member, side, size, precision) for size in sizes}
            fits = [max((n for n, gb in needs.items() if gb <= 0.9 * card), default=0) for card in _CARDS_GB]
            cells = [f"{gb:.0f} GB" for gb in needs.values()] + [str(count or "none") for count in fits]
            print(f"| {side} | {precision} | " + " | ".join(cells) + " |")


def main() -> None:
    """Prints the tables; with --serve, serves updates."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--architecture", default="r50x1", choices=ARCHITECTURES)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pytorch", action="store_true", help="install PyTorch and timm if missing")
    parser.add_argument("--memory", action="store_true", help="print the memory by micro-batch")
    parser.add_argument("--serve", choices=("float32", "bfloat16"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return table()
    if args.serve:
        return serve(ARCHITECTURES[args.architecture], args.side, args.batch_size, args.serve)
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:]]
    commands = {
        f"ours, {precision}": [*command, f"--serve={precision}"] for precision in ("float32", "bfloat16")
    }
    if python := environments.python_of("torch", install=args.pytorch):
        commands["PyTorch, float32"] = [
            python,
            str(Path(__file__).with_name("torch_train.py")),
            *sys.argv[1:],
        ]
    running = {
        name: subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, line in commands.items()
    }
    for process in running.values():
        assert process.stdout
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, process.args
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(args.rounds):
        for name, process in running.items():
            assert process.stdin
            assert process.stdout
            process.stdin.write("go\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()))
    print(f"{machine.describe()}; {args.architecture} at {args.side}, updates of {args.batch_size}\n")
    print("| step | images/s | to PyTorch | peak memory, GiB |\n|---|---|---|---|")
    peer = min(seconds.get("PyTorch, float32", [0.0]))
    for name, process in running.items():
        peak = float(process.communicate()[0].split()[-1])
        best = min(seconds[name])
        ratio = f"{peer / best:.2f}" if peer else ""
        print(f"| {name} | {args.batch_size / best:.2f} | {ratio} | {peak:.1f} |")


if __name__ == "__main__":
    main()
