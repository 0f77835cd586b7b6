"""How close does a dry run come to the real run? python -m benchmarks.estimate [--only=small,folder]

For each kind of input, both in turns, in this process, with one loaded network, so that loading is in neither: the dry
run's seconds with their range, then the seconds of the job from its graph to its manifest. Other programs make the wall
time vary between the two; CPU time hardly changes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, inputs, machine
from benchmarks.job import complete_job
from bit.command import exit_with
from pipeline import options, plan
from pipeline.dry_run import estimate
from pipeline.dry_run.run import survey
from transforms import infer


@dataclass(frozen=True)
class Case:
    """An input: `make` writes this many images below a folder and returns the value of --input."""

    title: str
    make: Callable[[Path, int], str]
    images: int
    flags: tuple[str, ...]


def records(shards: int) -> Callable[[Path, int], str]:
    """`Case.make` of TFRecords in this many shards."""
    return lambda folder, count: inputs.write_shards(folder / "in", count, shards)[0]


def mixed(folder: Path, count: int) -> str:
    """`Case.make` of TFRecords: a third of the shards has small images, a third has large ones."""
    for index, (width, height) in enumerate(((160, 120), (500, 375), (1600, 1200))):
        inputs.write_shards(folder / "in" / str(index), count // 3, 4, width, height, distinct=8)
    return f"{folder}/in/*/in-*.tfrecord"


def folder_of_files(folder: Path, count: int) -> str:
    """`Case.make` of a folder of JPEG files."""
    (folder / "photos").mkdir()
    jpegs = [inputs.jpeg(seed) for seed in range(32)]
    for index in range(count):
        (folder / "photos" / f"{index:05d}.jpg").write_bytes(jpegs[index % len(jpegs)])
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
            complete_job(argv, Path(scratch) / "warm")
            estimates, real = [], []
            for index in range(rounds):
                estimates.append(survey(config, plan.make(config, "benchmark")).estimate)
                cpu = sum(os.times()[:4])
                seconds = complete_job(argv, Path(scratch) / f"out-{index}")
                real.append((seconds, sum(os.times()[:4]) - cpu))  # with the feeders, which have ended
        finally:
            infer.BitModelHandler.load_model = load  # type: ignore[method-assign]
    median, wall = statistics.median, [seconds for seconds, _ in real]
    low, predicted, high = (
        median(getattr(prediction, name) for prediction in estimates) for name in ("low", "seconds", "high")
    )
    ratio = median(prediction.seconds / seconds for prediction, seconds in zip(estimates, wall, strict=True))
    cpu_ratio = median(
        estimate.total(prediction.stages.values()).cpu / cpu
        for prediction, (_, cpu) in zip(estimates, real, strict=True)
    )
    within = sum(
        prediction.low <= seconds <= prediction.high
        for prediction, seconds in zip(estimates, wall, strict=True)
    )
    figures.report(**{name: ratio})
    return (
        f"| {case.title} | {images} | {predicted:.1f} ({low:.1f} to {high:.1f}) "
        f"| {median(wall):.1f} (from {min(wall):.1f} to {max(wall):.1f}) "
        f"| {within} of {rounds} | {ratio:.2f} | {cpu_ratio:.2f} |"
    )


def main() -> None:
    """Prints the table of cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="share of the images to use (%(default)s)")
    flags = parser.parse_args()
    print(machine.describe())
    print(
        "| input | images | predicted (range), s | real, s | in the range | predicted / real | of the CPU time |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in flags.only.split(","):
        print(measure(name, round(CASES[name].images * flags.share), flags.rounds), flush=True)


if __name__ == "__main__":
    exit_with(main)
