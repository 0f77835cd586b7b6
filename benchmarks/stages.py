"""CPU time per image of each stage of the job, by itself: python -m benchmarks.stages

Each stage alone on one thread, in turns, and then the complete job without the model, whose CPU time includes all of them
and the cost of passing images on. The job minus the sum is the price of threads, processes, and shared caches. Then what of
it the process with the model does, after its start, and for how long it holds the interpreter's lock.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import device, encode, figures, inputs, limit, lock, machine
from bit.command import exit_with
from transforms import infer
from transforms.imaging import preprocess
from transforms.sources.base import Reading, ReadSettings
from transforms.sources.tfrecord import RecordFile

_SHARDS = 4


def reading(path: Path) -> Callable[[], object]:
    """A stage that reads the images of a TFRecord file."""
    source = RecordFile(str(path), path.stat().st_size, path.stat().st_mtime)
    reading = Reading(path.name, ReadSettings(32))
    return lambda: collections.deque(source.items(reading), maxlen=0)


def measure(stages: dict[str, Callable[[], object]], count: int, rounds: int) -> dict[str, float]:
    """Microseconds of CPU time per image, medians of rounds in turns."""
    microseconds: dict[str, list[float]] = {name: [] for name in stages}
    for index in range(rounds + 1):
        for name, stage in stages.items():
            began = time.process_time()
            stage()
            if index:
                microseconds[name].append((time.process_time() - began) / count * 1e6)
    return {name: statistics.median(times) for name, times in microseconds.items()}


def main() -> None:
    """Prints the table of stages."""
    lock.start_again_measured("benchmarks.stages")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    batch, rows = flags.batch_size, np.empty((32, 224, 224, 3), np.float32)
    preprocessing = preprocess.Preprocessing()
    sleeping = device.Device(batch)
    infer.BitModelHandler.load_model = lambda self: sleeping  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as scratch:
        pattern, encoded = inputs.write_shards(Path(scratch) / "in", flags.images, _SHARDS)
        few = encoded[: len(encoded) // _SHARDS]
        vectors = np.random.RandomState(0).standard_normal((64, 6144)).astype(np.float32)

        def decode_all() -> None:
            for index, data in enumerate(few):
                preprocess.decode(data, preprocessing, rows[index % len(rows)])

        costs = measure(
            {
                "bare libjpeg-turbo decoding": lambda: collections.deque(map(limit.bare, few), maxlen=0),
                "decoding and resizing": decode_all,
                "SHA-256 of the file": lambda: collections.deque(
                    (hashlib.sha256(data).hexdigest() for data in few), maxlen=0
                ),
                "reading, with the checksum of the file": reading(sorted(Path(scratch, "in").iterdir())[0]),
            },
            len(few),
            flags.rounds,
        )
        writing = [encode.shard_seconds(vectors, f"{scratch}/w{n}") for n in range(flags.rounds)]
        costs["encoding, writing and committing"] = (
            statistics.median(seconds["with the commit"][1] for seconds in writing) * 1e6
        )
        argv = ["--model=untrained/r101x3", f"--batch_size={batch}", f"--input={pattern}"]
        jobs = [
            device.complete_job(argv, Path(scratch) / f"out-{n}", sleeping) for n in range(flags.rounds + 1)
        ]
    job, own, held = (
        statistics.median(values) / len(encoded) * 1e6
        for values in zip(
            *((run.all_cpu_seconds, run.steady_cpu_seconds, run.steady_held_seconds) for run in jobs[1:]),
            strict=True,
        )
    )
    total = sum(costs.values()) - costs["bare libjpeg-turbo decoding"]
    figures.report(job_cpu=job, sum_cpu=total, own_cpu=own, held=held)
    print(machine.describe())
    print(
        f"{len(encoded)} JPEGs of {sum(map(len, few)) / len(few) / 1000:.0f} kB, batch {batch}, {flags.rounds} rounds\n"
    )
    print("| microseconds of CPU time per image | |\n|---|---|")
    costs |= {
        "sum of all but the first": total,
        "the complete job without the model": job,
        "of it, the process with the model, after its start": own,
    }
    for name, microseconds in costs.items():
        print(f"| {name} | {microseconds:.0f} |")
    if held:
        print(f"| of that, with the interpreter's lock held | {held:.1f} |")


if __name__ == "__main__":
    exit_with(main)
