"""All benchmarks, one after another, as short as they go: python -m benchmarks [--only=decode,job]

Each is a process of its own. A benchmark that fails, or runs into --timeout, is told of and does not end the others. What they
print is followed by one table: each question, its figure, and the aim that it meets or misses.
For figures worth keeping run each by itself, longer: python -m benchmarks.NAME --help.
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

# What shows in a few minutes that a benchmark runs, and the order of its figures. A script may run several times: its name is
# what stands before the hyphen.
QUICK: dict[str, tuple[str, ...]] = {
    "decode": ("--quick", "--rounds=3"),
    "scaled": ("--model=untrained/r50x1",),
    "job": ("--model=untrained/r50x1", "--images=32", "--rounds=2"),
    "device": ("--images=2560", "--rounds=3"),
    "device-free": ("--image_ms=0", "--images=2560", "--rounds=3"),
    "device-http": ("--image_ms=0", "--http", "--images=1280", "--rounds=2"),
    "stages": ("--images=2560", "--rounds=3"),
    "encode": (),
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
    """Prints the tables; returns how many benchmarks failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(QUICK), help="names, separated by commas (%(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each (%(default)s)")
    flags = parser.parse_args()
    asked = {name for name in flags.only.split(",") if name}
    names = [name for name in QUICK if asked & {name, script(name)}]
    if unknown := sorted(asked - {*QUICK, *map(script, QUICK)}):
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(QUICK)}")
    print(f"# Benchmarks, short form\n\n{machine.describe()}", flush=True)
    failed = 0
    runs = {}
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{script(name)}", *QUICK[name]]
        print(f"\n## {name}: python {' '.join(command[1:])}\n", flush=True)
        began = time.monotonic()
        told, runs[name] = run(command, flags.timeout)
        failed += bool(told)
        print(f"\n{told or f'took {time.monotonic() - began:.0f} s'}", flush=True)
    print(f"\n## Summary\n\n{aims.table(runs)}", flush=True)
    return failed


def script(name: str) -> str:
    return name.split("-")[0]


def run(command: list[str], timeout: float) -> tuple[str, dict[str, float]]:
    """Runs a benchmark: what went wrong, or '', and the figures that it handed over."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures"
        environment = {**os.environ, figures.VARIABLE: str(path)}
        try:
            done = subprocess.run(
                command, timeout=timeout, stdin=subprocess.DEVNULL, env=environment, check=False
            )
            told = "" if done.returncode == 0 else f"failed: it ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            told = f"given up after {timeout:.0f} s; --timeout gives it longer"
        return told, figures.read(path)


if __name__ == "__main__":
    sys.exit(main())
