"""All benchmarks, one after another, as short as they go: python -m benchmarks [--only=decode,job]

Each is a process of its own. A benchmark that fails, or runs into --timeout, is told of and does not end the others.
For figures worth keeping run each by itself, longer: python -m benchmarks.NAME --help.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks import machine

# What shows in a few minutes that a benchmark runs, and the order of its figures.
QUICK: dict[str, tuple[str, ...]] = {
    "decode": ("--quick", "--rounds=3"),
    "job": ("--model=untrained/r50x1", "--images=32", "--rounds=2"),
    "device": ("--images=2560", "--rounds=3"),
    "encode": (),
    "start": ("--rounds=3",),
    "memory": ("--images", "1000", "5000", "--sizes", "500x375"),
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
    names = [name for name in flags.only.split(",") if name]
    if unknown := sorted(set(names) - set(QUICK)):
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(QUICK)}")
    print(f"# Benchmarks, short form\n\n{machine.describe()}", flush=True)
    failed = 0
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{name}", *QUICK[name]]
        print(f"\n## {name}: python {' '.join(command[1:])}\n", flush=True)
        began = time.monotonic()
        try:
            done = subprocess.run(command, timeout=flags.timeout, stdin=subprocess.DEVNULL, check=False)
            told = "" if done.returncode == 0 else f"failed: it ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            told = f"given up after {flags.timeout:.0f} s; --timeout gives it longer"
        failed += bool(told)
        print(f"\n{told or f'took {time.monotonic() - began:.0f} s'}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
