"""`--dry_run`: a look at a few images of some shards, and what the whole job would take. Writes no output.

What costs time is measured one after the other, by the job's own functions: opening and reading, decoding on one thread, the
loaded model on full batches, writing and committing a shard in a temporary folder. `estimate` makes a time of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.estimate import Estimate, Image, Job, Measured, ShardLook, estimate
from pipeline.measuring import device, paces
from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.progress import duration
from pipeline.sampling import IMAGES_PER_SHARD, Sample, look_at
from transforms.elements import Shard
from transforms.fetching.fetcher import Fetcher

_SHARDS = 8


@dataclass(frozen=True)
class Found:
    """Everything that a dry run found out."""

    samples: tuple[Sample, ...]
    looks: tuple[ShardLook, ...]
    measured: Measured
    record_bytes: int
    job: Job

    def estimate(self) -> Estimate:
        """Of the whole job; only where an image could be decoded."""
        return estimate(self.job, self.looks, self.measured)

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.outcome]


def run(config: JobConfig, plan: Plan) -> list[str]:
    """Samples the plan's shards and returns lines that tell what was found and what the job would take."""
    return tell(config, plan, look(config, plan))


def look(config: JobConfig, plan: Plan) -> Found:
    """Looks at a few images of at most eight of the shards that are to be done, and measures on them."""
    batch, side = config.model.batch_size, config.model.image_size
    pixels = np.zeros((batch, side, side, 3), np.float32)
    samples: list[Sample] = []
    looks = []
    with (
        _reachable(plan) as shards,
        ThreadPoolExecutor(IMAGES_PER_SHARD) as pool,
        contextlib.closing(Fetcher(config.read.fetch)) as fetcher,
    ):
        parts = min(_SHARDS, len(shards))
        for part in range(parts):
            neighbours = shards[part * len(shards) // parts : (part + 1) * len(shards) // parts]
            found, unit = look_at(neighbours[len(neighbours) // 2], config, fetcher, pool, pixels)
            costs = tuple(Image(sample.input, sample.decode) for sample in found)
            looks.append(ShardLook(sum(shard.units for shard in neighbours), unit, costs))
            samples += found
    threads, cores = config.decode.threads_here, os.cpu_count() or 1
    job = Job(sum(shard.units for shard in shards), len(shards), batch, threads, cores)
    shown = [sample.decoded for sample in samples if sample.decoded]
    if not shown:
        return Found(tuple(samples), tuple(looks), Measured((), (), (), ()), 0, job)
    measured, record_bytes = device(config, pixels, shown, paces(samples, config))
    return Found(tuple(samples), tuple(looks), measured, record_bytes, job)


@contextlib.contextmanager
def _reachable(plan: Plan) -> Iterator[list[Shard]]:
    """The shards; those of image files refer to a list that is not written yet, and get a temporary one."""
    shards = list(plan.todo or plan.shards)
    if plan.listing is None:
        yield shards
        return
    with tempfile.NamedTemporaryFile(suffix=".txt") as stream:
        stream.write(plan.listing)
        stream.flush()
        moved = [dataclasses.replace(shard.source, uri=stream.name) for shard in shards]  # type: ignore[type-var]
        yield [dataclasses.replace(shard, source=source) for shard, source in zip(shards, moved, strict=True)]


def tell(config: JobConfig, plan: Plan, found: Found) -> list[str]:
    """Lines for people."""
    good, samples, looked = found.good, found.samples, len(found.looks)
    failed = Counter(sample.outcome for sample in samples if sample.outcome)
    codes = ", ".join(f"{code}: {n}" for code, n in failed.items())
    if not good:
        return [
            f"dry run: none of {len(samples)} images in {looked} shards could be decoded ({codes or 'no images'})"
        ]
    told, job = found.estimate(), found.job
    sizes = sorted(sample.size_bytes for sample in good)
    decoded = [sample.decoded for sample in good if sample.decoded]
    pixels = sorted((item.width * item.height, item.width, item.height) for item in decoded)
    formats = Counter(sample.format for sample in good)
    share = len(good) / len(samples)
    images = [image for look in found.looks for image in look.images]
    input_s = [image.input.wall for image in images]
    decode_s = [image.decode.wall / job.threads for image in images]
    model_s = [call.wall / job.batch_size for call in found.measured.call]
    write_s = [write.wall for write in found.measured.write]
    lines = [
        f"dry run: {len(samples)} of about {round(told.images)} images, in {looked} of {len(plan.shards)} shards",
        f"formats   {', '.join(f'{name} {n}' for name, n in formats.most_common())}",
        f"sizes     {pixels[len(pixels) // 2][1]}x{pixels[len(pixels) // 2][2]} and {sizes[len(sizes) // 2]} bytes "
        f"in the median, up to {pixels[-1][1]}x{pixels[-1][2]} and {sizes[-1]} bytes",
        f"failures  {sum(failed.values())} of {len(samples)}{f' ({codes})' if codes else ''}",
        f"rates     input {_rate(input_s)}, decode {_rate(decode_s)} on {job.threads} threads, "
        f"model {_rate(model_s)}, write {_rate(write_s)}",
        f"time      {duration(told.seconds)} on one worker like this (95 %: {duration(told.low)} to "
        f"{duration(told.high)}), loading aside",
        f"disk      {told.images * share * found.record_bytes / 2**20:.0f} MiB",
    ]
    if config.price_per_hour:
        price = config.price_per_hour / 3600
        lines.append(
            f"cost      {told.seconds * price:.2f} (95 %: {told.low * price:.2f} to {told.high * price:.2f})"
        )
    return lines


def _rate(seconds: list[float]) -> str:
    mean = statistics.mean(seconds)
    return f"{1 / mean:.1f} images/s" if mean else "-"
