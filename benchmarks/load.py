"""From a checkpoint to the first vector: `python -m benchmarks.load [--architecture=r101x3] [--precision=bfloat16]`

Beside it the unavoidable: reading the file into memory, and one batch on a warm model. Each runs in its own process, with
seeded weights in the official format. Also prints the peak memory, which must not be twice the network's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import figures, machine
from bit.command import exit_with
from bit.models import ARCHITECTURES, OFFICIAL, resolve
from bit.weights import Untrained, shapes


def write_checkpoint(path: str, architecture: str) -> None:
    """The official format: names, shapes, stored without compression; random values."""
    weights = Untrained(ARCHITECTURES[architecture])
    # One array after another: np.savez would hold all of them in memory, 3.7 GB for R152x4.
    with zipfile.ZipFile(path, "w") as archive:
        for name in shapes(weights.architecture):
            with archive.open(f"resnet/{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, weights.array(name))


def loads(path: str, precision: str, side: int, batch_size: int) -> dict[str, float]:
    """Seconds for loading, for the first and for a warm batch; GiB of memory before loading and at the peak."""
    from bit.load import load

    pixels = np.zeros((batch_size, side, side, 3), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.perf_counter()
    extractor = load(resolve(path), path, image_size=side, batch_size=batch_size, precision=precision)
    loaded = time.perf_counter()
    extractor(pixels)
    first = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    extractor(pixels)
    return {
        "load": loaded - began,
        "first": first - loaded,
        "warm": time.perf_counter() - first,
        "before": before,
        "peak": peak,
    }


def reads(path: str) -> dict[str, float]:
    """Seconds to read the file into memory, without which it cannot be used."""
    began = time.perf_counter()
    np.fromfile(path, np.uint8)
    return {"read": time.perf_counter() - began}


def main() -> None:
    """Prints the table; with --step, runs one step and prints its figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r101x3", choices=OFFICIAL)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--step", choices=("load", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step = (
            reads(args.path)
            if args.step == "read"
            else loads(args.path, args.precision, args.side, args.batch_size)
        )
        print(json.dumps(step))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "seeded.npz"))
        write_checkpoint(path, args.architecture)
        command = [sys.executable, "-m", "benchmarks.load", f"--path={path}", *sys.argv[1:]]

        def run(step: str) -> dict[str, float]:
            done = subprocess.run([*command, f"--step={step}"], stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)

        run("read")  # the file is in the system's cache from here on
        rounds = [run("read") | run("load") for _ in range(args.rounds)]
        size = os.path.getsize(path) / 2**30
    best = {name: min(seconds[name] for seconds in rounds) for name in rounds[0]}
    ratio = (best["load"] + best["first"]) / (best["read"] + best["warm"])
    figures.report(ratio=ratio)
    print(
        f"{machine.describe()}; {args.architecture}, {args.precision}, {args.side}, batches of {args.batch_size}\n"
    )
    print(
        "| read | one warm batch | load | first batch | load to first vector / read and batch | file | peak memory |"
    )
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {best['read']:.1f} s | {best['warm']:.1f} s | {best['load']:.1f} s | {best['first']:.1f} s | {ratio:.2f} "
        f"| {size:.2f} GiB | {best['peak']:.2f} GiB, {best['before']:.2f} of it before loading |"
    )


if __name__ == "__main__":
    exit_with(main)
