"""The complete job beside the model alone, on the same images in the same process: python -m benchmarks.job

Alternates rounds of (a) the loaded network on batches of decoded pixels in memory, and (b) the job from TFRecords of
encoded images to committed feature shards, on the same loaded network. Loading is in neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import figures, inputs, machine
from bit.command import exit_with
from pipeline import console, options, plan, prepare, run, runners
from transforms import infer
from transforms.imaging import preprocess


def model_alone(model, batches: list[np.ndarray]) -> float:
    """Seconds for all batches."""
    began = time.perf_counter()
    for batch in batches:
        model(batch)
    return time.perf_counter() - began


def complete_job(argv: list[str], output: Path) -> float:
    """Seconds from building the graph to the manifest; the model is loaded before."""
    config, beam_options = options.parse([*argv, f"--output={output}"])
    job_plan = plan.make(config, "benchmark")
    prepare.prepare(job_plan)
    console.configure_logging(runners.LOCAL)
    began = time.perf_counter()
    run.run(config, job_plan, beam_options, runners.LOCAL)
    return time.perf_counter() - began


def main() -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="untrained/r101x3")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        pattern, encoded = inputs.write_shards(Path(scratch) / "in", flags.images, flags.shards)
        argv = [
            f"--{name}={getattr(flags, name)}" for name in ("model", "precision", "image_size", "batch_size")
        ]
        argv.append(f"--input={pattern}")
        config, _ = options.parse([*argv, "--output=unused"])
        loading = infer.BitModelHandler(config.model).load_model()
        infer.BitModelHandler.load_model = lambda self: loading  # type: ignore[method-assign]
        model = loading.ready()

        side, batches = flags.image_size, []
        for start in range(0, len(encoded), flags.batch_size):
            batch = np.zeros((flags.batch_size, side, side, 3), np.float32)
            for row, data in enumerate(encoded[start : start + flags.batch_size]):
                preprocess.decode(data, config.preprocessing, batch[row])
            batches.append(batch)
        model(batches[0])

        alone, job = [], []
        for index in range(flags.rounds):
            alone.append(model_alone(model, batches))
            job.append(complete_job(argv, Path(scratch) / f"out-{index}"))
    print(machine.describe())
    print(
        f"{flags.model} {flags.precision} at {side}, batch {flags.batch_size}, {len(encoded)} images, {flags.rounds} rounds"
    )
    for name, seconds in (("model alone", alone), ("complete job", job)):
        rates = sorted(len(encoded) / s for s in seconds)
        print(f"{name:13}{statistics.median(rates):8.2f} images/s (from {rates[0]:.2f} to {rates[-1]:.2f})")
    ratios = sorted(a / j for a, j in zip(alone, job, strict=True))
    figures.report(ratio=statistics.median(ratios))
    print(
        f"complete job / model alone: {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


if __name__ == "__main__":
    exit_with(main)
