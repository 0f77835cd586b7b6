"""From the command to the first vectors, without the model's own loading: python -m benchmarks.start

Each round is a new process that runs the job with the tiny network on one small shard. The cost of imports is measured by
`python -X importtime`: the time of each module without those that it imports, added up per package.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import figures, inputs, machine
from bit.command import exit_with

# Runs the job as the command does and prints when each point was reached, in seconds since the process was started.
_WATCHED = """
import json, sys, time
began = float(sys.argv.pop(1))
at = {"interpreter": time.time() - began}
import pipeline.main
from pipeline import plan
from transforms import infer
from transforms.model import devices
at["imports of the launcher"] = time.time() - began
def note(owner, name, what):
    original = getattr(owner, name)
    def noted(*args, **kwargs):
        result = original(*args, **kwargs)
        at.setdefault(what, time.time() - began)
        return result
    setattr(owner, name, noted)
note(plan, "make", "flags and plan")
load = infer.BitModelHandler.load_model
def load_model(self):
    at.setdefault("graph and worker", time.time() - began)
    return load(self)
infer.BitModelHandler.load_model = load_model
note(devices, "take_one", "import of TensorFlow")  # the next that loading does
note(infer.BitModelHandler, "_load", "loading of the model")
note(infer, "infer", "first batch")
code = pipeline.main.main(sys.argv[1:])
at["rest of the job"] = time.time() - began
print(json.dumps(at))
sys.stdout.flush()
import os
os._exit(code)
"""
# The imports alone, as the job does them.
_IMPORTS = """
import pipeline.main
import bit.load
"""
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def moments(argv: list[str]) -> dict[str, float]:
    """Seconds from the start of the process to each point."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(began), *argv],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the job failed:\n{done.stderr.decode()}")
    return json.loads(done.stdout.splitlines()[-1])


def imports() -> dict[str, Counter[str]]:
    """Seconds per package in the imports of the launcher, and in the model's imports after them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _IMPORTS], stderr=subprocess.PIPE, text=True, check=True
    )
    seconds: dict[str, Counter[str]] = {"launcher": Counter(), "model": Counter()}
    by_package = seconds["launcher"]
    for microseconds, module in _LINE.findall(done.stderr):
        parts = module.split(".")
        by_package[".".join(parts[:2]) if parts[0] in ("google", "apache_beam") else parts[0]] += (
            int(microseconds) / 1e6
        )
        if module == "pipeline.main":
            by_package = seconds["model"]
    return seconds


def main() -> None:
    """Prints the table of points, then of imports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packages", type=int, default=12, help="number of packages to list")
    flags = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        pattern, _ = inputs.write_shards(Path(scratch) / "in", 8, 1)
        for index in range(flags.rounds + 1):
            argv = ["--model=untrained/tiny", f"--input={pattern}", f"--output={scratch}/out-{index}"]
            rounds.append(moments(argv))
    print(machine.describe())
    print("| until | seconds since the command | of these |")
    print("|---|---|---|")
    before = 0.0
    for name in rounds[0]:
        reached = statistics.median(points[name] for points in rounds[1:])
        figures.report(**{name: reached, f"{name}, of these": reached - before})
        print(f"| {name} | {reached:.2f} | {reached - before:.2f} |")
        before = reached
    without = statistics.median(
        points["first batch"] - points["loading of the model"] + points["import of TensorFlow"]
        for points in rounds[1:]
    )
    print(f"\nto the first batch, without the loading of the model: {without:.2f} s")
    for name, by_package in imports().items():
        print(f"\nimports of the {name}, slowed by measuring: {sum(by_package.values()):.2f} s in total")
        for package, seconds in by_package.most_common(flags.packages):
            print(f"| {package} | {seconds:.3f} s |")


if __name__ == "__main__":
    exit_with(main)
