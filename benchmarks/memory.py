"""Peak resident memory of the job against the number of images: python -m benchmarks.memory

Each job is a process of its own, with the tiny network and shards of the same size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import inputs, machine


def peak_mib(argv: list[str]) -> float:
    """Peak resident memory of a run of the job, in MiB."""
    process = subprocess.Popen([sys.executable, "-m", "pipeline.main", *argv], stderr=subprocess.PIPE)
    assert process.stderr
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the job failed:\n{said.decode()}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--images_per_shard", type=int, default=500)
    flags = parser.parse_args()
    print(machine.describe())
    peaks = []
    for count in flags.images:
        with tempfile.TemporaryDirectory() as scratch:
            shards = max(1, count // flags.images_per_shard)
            pattern, _ = inputs.write_shards(
                Path(scratch) / "in", count, shards, width=64, height=48, distinct=50
            )
            argv = [
                "--model=untrained/tiny",
                "--image_size=64",
                f"--input={pattern}",
                f"--output={scratch}/out",
            ]
            peaks.append(peak_mib(argv))
        print(
            f"{count:7} images in {shards:3} shards: peak {peaks[-1]:7.1f} MiB ({peaks[-1] / peaks[0] - 1:+.1%})"
        )


if __name__ == "__main__":
    main()
