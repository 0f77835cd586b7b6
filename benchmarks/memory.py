"""Peak resident memory of the job by number and size of images: python -m benchmarks.memory

Each job runs in its own process, with the tiny network and shards of the same size.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import figures, inputs, machine

_SAMPLE_SECONDS = 0.05


def peak_mib(argv: list[str], module: str = "pipeline.main") -> float:
    """Peak resident memory of a run of the job, or of another command, with its feeders, in MiB: what they share counts once."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", module, *argv], stderr=errors)
        peak = 0.0
        while process.poll() is None:
            peak = max(
                peak, sum(map(_resident_mib, _with_descendants(process.pid))) + _inboxes_mib(process.pid)
            )
            time.sleep(_SAMPLE_SECONDS)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{module} failed:\n{errors.read().decode()}")
    return peak


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _with_descendants(int(child))


def _resident_mib(pid: int) -> float:
    """Of a process, with its share of what others have, too."""
    with contextlib.suppress(OSError):  # it has ended
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0


def _inboxes_mib(pid: int) -> float:
    """Of the files in memory that a process has opened and that none maps."""
    size = 0.0
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor).startswith("/memfd:inbox"):
                    size += os.stat(descriptor).st_blocks / 2048
    return size


def measure(count: int, shards: int, width: int, height: int, *flags: str) -> float:
    """Peak in MiB of a job on `count` JPEGs of this size."""
    with tempfile.TemporaryDirectory() as scratch:
        pattern, _ = inputs.write_shards(
            Path(scratch) / "in", count, shards, width, height, distinct=50 if width < 1000 else 2
        )
        argv = ["--model=untrained/tiny", "--image_size=64", f"--input={pattern}", f"--output={scratch}/out"]
        return peak_mib([*argv, *flags])


def main() -> None:
    """Prints the peaks by number, then by size of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000, 50_000])
    parser.add_argument("--images_per_shard", type=int, default=500)
    parser.add_argument(
        "--sizes", nargs="*", default=["64x48", "500x375", "1600x1200", "4000x3000"], metavar="WxH"
    )
    parser.add_argument("--images_of_each_size", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=32)
    flags = parser.parse_args()
    print(machine.describe())
    peaks: list[float] = []
    for count in flags.images:
        shards = max(1, count // flags.images_per_shard)
        peaks.append(measure(count, shards, 64, 48))
        print(
            f"{count:7} images in {shards:3} shards: peak {peaks[-1]:7.1f} MiB ({peaks[-1] / peaks[0] - 1:+.1%})",
            flush=True,
        )
    if peaks:
        figures.report(least_images=peaks[0], most_images=peaks[-1])
    for size in flags.sizes:
        width, height = map(int, size.split("x"))
        peak = measure(flags.images_of_each_size, 2, width, height, f"--batch_size={flags.batch_size}")
        print(
            f"{size:>10}, {flags.images_of_each_size} images, batch {flags.batch_size}: peak {peak:7.1f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
