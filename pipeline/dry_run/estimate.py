"""Estimates the time of a complete job, and its range, from measurements on a few images. Pure arithmetic.

The stages of the job work side by side. If they overlap perfectly, the job takes as long as the slowest stage, and at least
as long as the CPUs need for the CPU time of all stages. If they do not overlap at all, it takes the sum of the stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

_START_AND_END_SECONDS = 0.4  # of the graph, whatever the number of images


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, and of CPU time summed over all threads."""

    wall: float = 0.0
    cpu: float = 0.0

    def times(self, factor: float) -> Cost:
        """The cost of `factor` repetitions; below 1, of a part."""
        return Cost(factor * self.wall, factor * self.cpu)


NOTHING = Cost()


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of all costs."""
    costs = list(costs)
    return Cost(sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs))


@dataclass(frozen=True)
class Job:
    """The size of the job, and the CPUs it runs on. Units are bytes of record files, or rows of lists."""

    units: float
    shards: int
    batch_size: int
    cpus: int


@dataclass(frozen=True)
class ShardSample:
    """The average cost of the sampled images of one shard; the shard represents its neighbors too."""

    units: float  # of the shards it represents
    image_units: float  # of one image
    input: Cost  # of one image; the wall time is how long it keeps the reader busy
    decode: Cost  # of one image, with all decoding threads busy


@dataclass(frozen=True)
class Measured:
    """Costs that do not depend on the shard."""

    call: Cost  # of the model, on a full batch: the median of several
    fastest_call: Cost
    slowest_call: Cost
    write: Cost  # of one image
    commit: Cost  # of one shard


@dataclass(frozen=True)
class Estimate:
    """The job on one worker: the number of images, the cost of each stage by itself, and the time in seconds."""

    images: float
    stages: Mapping[str, Cost]
    seconds: float  # if the stages overlap perfectly, as they are meant to
    low: float  # if they overlap, and all shards and calls are like the fastest of the sample
    high: float  # if they do not overlap, and all shards and calls are like the slowest


def estimate(job: Job, samples: Sequence[ShardSample], measured: Measured) -> Estimate:
    """The time of the job. The range takes each sampled shard to represent all shards: the sample is small."""
    images, stages = stages_of(job, samples, measured)
    mixes = [samples, *([sample] for sample in samples)]
    fast, slow = (replace(measured, call=call) for call in (measured.fastest_call, measured.slowest_call))
    seconds = overlapping(job, stages)
    low = min(seconds, *(overlapping(job, stages_of(job, mix, fast)[1]) for mix in mixes))
    high = max(sequential(stages_of(job, mix, slow)[1]) for mix in mixes)
    return Estimate(images, stages, seconds, low, high)


def stages_of(job: Job, samples: Sequence[ShardSample], measured: Measured) -> tuple[float, dict[str, Cost]]:
    """The number of images of the job, and the cost of each stage, if its shards are like the samples."""
    scale = job.units / sum(sample.units for sample in samples)
    counts = [scale * sample.units / sample.image_units for sample in samples]
    images = sum(counts)
    # A short batch costs as much as a full one.
    calls = job.shards * math.ceil(max(1.0, images / job.shards) / job.batch_size)
    return images, {
        "input": total(sample.input.times(count) for sample, count in zip(samples, counts, strict=True)),
        "decode": total(sample.decode.times(count) for sample, count in zip(samples, counts, strict=True)),
        "model": measured.call.times(calls),
        "write": measured.write.times(images),
        "commit": measured.commit.times(job.shards),
    }


def overlapping(job: Job, stages: Mapping[str, Cost]) -> float:
    """Seconds that the job takes if its stages overlap perfectly."""
    slowest = max(stage.wall for stage in stages.values())
    return _START_AND_END_SECONDS + max(slowest, total(stages.values()).cpu / job.cpus)


def sequential(stages: Mapping[str, Cost]) -> float:
    """Seconds that the job takes if its stages do not overlap at all."""
    return _START_AND_END_SECONDS + total(stages.values()).wall
