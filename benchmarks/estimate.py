"""How near does a dry run come to the real run: python -m benchmarks.estimate [--only=small,folder]

For each kind of input both in turns, in this process, with one loaded network, so that loading is in neither: the dry run's
seconds with their interval, then the seconds of the job from its graph to its manifest. Where other programs come and go, the
seconds on the wall vary with them between the two; those of CPU time hardly do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, inputs, machine
from benchmarks.job import whole_job
from pipeline import dry_run, options, plan
from transforms import infer


@dataclass(frozen=True)
class Case:
    """What is run: `make` writes the images below a folder and returns what --input names."""

    told: str
    make: Callable[[Path, int], str]
    images: int
    flags: tuple[str, ...]


def records(shards: int) -> Callable[[Path, int], str]:
    return lambda folder, count: inputs.write_shards(folder / "in", count, shards)[0]


def mixed(folder: Path, count: int) -> str:
    """Every third shard has small pictures, every third large ones."""
    for index, (width, height) in enumerate(((160, 120), (500, 375), (1600, 1200))):
        inputs.write_shards(folder / "in" / str(index), count // 3, 4, width, height, distinct=8)
    return f"{folder}/in/*/in-*.tfrecord"


def folder_of_files(folder: Path, count: int) -> str:
    (folder / "photos").mkdir()
    made = [inputs.jpeg(seed) for seed in range(32)]
    for index in range(count):
        (folder / "photos" / f"{index:05d}.jpg").write_bytes(made[index % len(made)])
    return f"{folder}/photos"


SMALL = ("--model=untrained/tiny", "--image_size=64")
CASES = {
    "small": Case("TFRecords, tiny at 64", records(4), 6000, SMALL),
    "tiny": Case("TFRecords, tiny at 224", records(4), 2000, ("--model=untrained/tiny",)),
    "r50x1": Case("TFRecords, R50x1 at 224", records(4), 160, ("--model=untrained/r50x1", "--batch_size=8")),
    "shards": Case("400 TFRecords of 5 images, tiny at 64", records(400), 2000, SMALL),
    "mixed": Case("three sizes, tiny at 64", mixed, 1200, SMALL),
    "folder": Case("a folder of files, tiny at 64", folder_of_files, 6000, SMALL),
}


def measure(name: str, images: int, rounds: int) -> str:
    """A line of the table."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as scratch:
        argv = [*case.flags, f"--input={case.make(Path(scratch), images)}"]
        config, _ = options.parse([*argv, f"--output={scratch}/none"])
        load, model = infer.BitModelHandler.load_model, infer.BitModelHandler(config.model).load_model()
        infer.BitModelHandler.load_model = lambda self: model  # type: ignore[method-assign]
        try:
            whole_job(argv, Path(scratch) / "warm")
            told, real = [], []
            for index in range(rounds):
                told.append(dry_run.look(config, plan.make(config, "benchmark")).estimate())
                cpu = time.process_time()
                seconds = whole_job(argv, Path(scratch) / f"out-{index}")
                real.append((seconds, time.process_time() - cpu))
        finally:
            infer.BitModelHandler.load_model = load  # type: ignore[method-assign]
    median = statistics.median
    low, middle, high = (median(getattr(one, name) for one in told) for name in ("low", "seconds", "high"))
    wall = [seconds for seconds, _ in real]
    ratio = median(one.seconds / seconds for one, seconds in zip(told, wall, strict=True))
    cpu_ratio = median(one.cpu_seconds / seconds for one, (_, seconds) in zip(told, real, strict=True))
    figures.give(**{name: ratio})
    found = f"{middle:.1f} ({low:.1f} to {high:.1f})"
    there = f"{median(wall):.1f} (from {min(wall):.1f} to {max(wall):.1f})"
    return f"| {case.told} | {images} | {found} | {there} | {ratio:.2f} | {cpu_ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the images (%(default)s)")
    flags = parser.parse_args()
    print(machine.describe())
    print("| input | images | predicted seconds (95 %) | real seconds | predicted / real | of the CPU time |")
    print("|---|---|---|---|---|---|")
    for name in flags.only.split(","):
        print(measure(name, round(CASES[name].images * flags.share), flags.rounds), flush=True)


if __name__ == "__main__":
    main()
