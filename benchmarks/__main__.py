"""All benchmarks, one after another, in a short form: python -m benchmarks [--only=decode,job]

Each runs in its own process. A benchmark that fails, or exceeds --timeout, is reported and does not stop the others. Their
output is followed by one table: each question, its figure, and the aim that it meets or misses.
For figures worth keeping, run each by itself, for longer: python -m benchmarks.NAME --help.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import aims, figures, machine
from bit.command import exit_with

# Arguments with which each runs in a few minutes and shows the magnitude of its figures. A script may run several times:
# its name is the part before the hyphen.
QUICK: dict[str, tuple[str, ...]] = {
    "decode": ("--quick", "--rounds=3"),
    "scaled": ("--model=untrained/r50x1",),
    "job": ("--model=untrained/r50x1", "--images=32", "--rounds=2"),
    "device": ("--images=2560", "--rounds=3"),
    "device-free": ("--image_ms=0", "--batch_size=128", "--images=5120", "--rounds=3"),
    "device-http": ("--image_ms=0", "--http", "--images=1280", "--rounds=2"),
    "stages": ("--images=2560", "--rounds=3"),
    "overlap": (),
    "store_reading": ("--rounds=2",),
    "store_commits": ("--rounds=2", "--shards=8"),
    "encode": (),
    "export": ("--rounds=5",),
    "duplicates": ("--rows", "5000"),
    "start": ("--rounds=3",),
    "memory": ("--images", "1000", "5000", "--sizes", "500x375"),
    "growth-engines": ("engines", "--engines", "direct", "--images=2000", "--rounds=1"),
    "growth-images": ("images", "--images=800", "--images_per_shard", "1", "10", "100", "800", "--rounds=2"),
    "growth-shards": ("shards", "--shards=2000", "--done=2000"),
    "estimate": ("--only=small", "--share=0.5", "--rounds=2"),
    "model": ("--batch_size=2", "--rounds=2"),
    "load": (),
    "error": (),
}


def main() -> int:
    """Prints the tables; returns the number of failed benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(QUICK), help="names, separated by commas (%(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per benchmark (%(default)s)")
    flags = parser.parse_args()
    requested = {name for name in flags.only.split(",") if name}
    names = [name for name in QUICK if requested & {name, script(name)}]
    if unknown := sorted(requested - {*QUICK, *map(script, QUICK)}):
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(QUICK)}")
    print(f"# Benchmarks, short form\n\n{machine.describe()}", flush=True)
    failed = 0
    runs = {}
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{script(name)}", *QUICK[name]]
        print(f"\n## {name}: python {' '.join(command[1:])}\n", flush=True)
        began = time.monotonic()
        failure, runs[name] = run(command, flags.timeout)
        failed += bool(failure)
        print(f"\n{failure or f'took {time.monotonic() - began:.0f} s'}", flush=True)
    print(f"\n## Summary\n\n{aims.table(runs)}", flush=True)
    return failed


def script(name: str) -> str:
    """The module of a run: 'device' for 'device-http'."""
    return name.split("-")[0]


def run(command: list[str], timeout: float) -> tuple[str, dict[str, float]]:
    """Runs a benchmark; returns what went wrong, or '', and the figures that it reported."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures"
        environment = {**os.environ, figures.VARIABLE: str(path)}
        try:
            done = subprocess.run(
                command, timeout=timeout, stdin=subprocess.DEVNULL, env=environment, check=False
            )
            failure = "" if done.returncode == 0 else f"failed with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            failure = f"stopped after {timeout:.0f} s; --timeout allows more"
        return failure, figures.read(path)


if __name__ == "__main__":
    exit_with(main)
