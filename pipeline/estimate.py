"""From what was measured on a few images to the time of a whole job, with an interval. Pure arithmetic.

The job reads, decodes, calls the model and writes side by side. So it takes as long as the slowest of these, and at least
as long as the cores need for the CPU time of all of them together: a model on a CPU shares it with the decoders. How
much CPU time the cores give is measured too, for other programs may have their part of it. How well the stages overlap
is not known beforehand: the interval holds everything from not at all to perfectly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_AROUND_SECONDS = 0.4  # the graph's start and end, on whatever images
_RESAMPLES = 1000  # of the bootstrap; seeded, so the same sample gives the same interval


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock on the wall, and of CPU time on all threads."""

    wall: float = 0.0
    cpu: float = 0.0


NOTHING = Cost()


@dataclass(frozen=True)
class Image:
    """One image that was looked at."""

    input: Cost  # `wall` is what it keeps the reader busy; beside others where several are fetched at once
    decode: Cost


@dataclass(frozen=True)
class ShardLook:
    """Some images of one shard, which stands for its neighbours too.

    Attributes:
      units: size of the shards that it stands for: bytes of record files, or rows of lists.
      unit: size of one of its images.
      images: those that were looked at, failed ones too.
    """

    units: float
    unit: float
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Measured:
    """What does not depend on the image: each list holds one entry a repetition."""

    call: Sequence[Cost]  # of the model, on a full batch
    write: Sequence[Cost]  # of an image
    commit: Sequence[Cost]  # of a shard
    pace: Sequence[float]  # seconds on the wall for a second of CPU time, with all decoding threads at work


@dataclass(frozen=True)
class Job:
    """The size of the whole job, and what it runs on."""

    units: float
    shards: int
    batch_size: int
    threads: int
    cores: int


@dataclass(frozen=True)
class Estimate:
    """Numbers of the whole job: medians, and the bounds between which 95 % of the resampled seconds lie."""

    images: float
    cpu_seconds: float
    seconds: float
    low: float
    high: float


def totals(job: Job, images: float, costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """What each kind of work costs in the whole job. `costs` by 'input', 'decode', 'write' (of an image), 'call' (of the
    model, on a full batch, which short ones are filled up to) and 'commit' (of a shard).
    """
    calls = job.shards * np.ceil(max(images / job.shards, 1.0) / job.batch_size)
    times = {"input": images, "decode": images, "write": images, "call": calls, "commit": job.shards}
    return {name: Cost(times[name] * cost.wall, times[name] * cost.cpu) for name, cost in costs.items()}


def job_seconds(job: Job, costs: Mapping[str, Cost], pace: float, overlap: float) -> float:
    """Seconds that the job takes, loading aside.

    Args:
      job: its size.
      costs: its `totals`.
      pace: seconds on the wall for one of CPU time, with all decoding threads at work.
      overlap: the share, 0 to 1, of what the worker that calls the model leaves idle of the cores that the others use.
    """
    cores = max(1.0, job.cores / job.threads) / pace
    worker = costs["call"].wall
    idle = max(0.0, cores * worker - costs["call"].cpu)
    others = sum(costs[name].cpu for name in ("input", "decode", "write", "commit"))
    return max(
        costs["input"].wall,
        costs["decode"].cpu * pace,
        costs["write"].wall,
        costs["commit"].wall,
        worker + max(0.0, others - overlap * idle) / cores,
    )


def estimate(job: Job, looks: Sequence[ShardLook], measured: Measured) -> Estimate:
    """The job's time, and how much it varies with the images, shards and calls that happened to be measured."""
    random = np.random.default_rng(0)
    looks = [look for look in looks if look.images]
    tables = [
        np.array([(i.input.wall, i.input.cpu, i.decode.wall, i.decode.cpu) for i in look.images])
        for look in looks
    ]
    all_seen = len(looks) >= job.shards
    found = []
    for _ in range(_RESAMPLES):
        chosen = range(len(looks)) if all_seen else random.integers(0, len(looks), len(looks))
        counts = np.array([looks[index].units / looks[index].unit for index in chosen])
        means = np.array([_drawn(tables[index], random).mean(0) for index in chosen])
        images = counts.sum() * job.units / sum(looks[index].units for index in chosen)
        row = counts @ means / counts.sum()
        costs = {
            "input": Cost(row[0], row[1]),
            "decode": Cost(row[2], row[3]),
            "call": _mean(measured.call, random),
            "write": _mean(measured.write, random),
            "commit": _mean(measured.commit, random),
        }
        pace = float(random.choice(measured.pace, len(measured.pace)).mean())
        whole = totals(job, images, costs)
        cpu = sum(cost.cpu for cost in whole.values())
        found.append((images, cpu, _AROUND_SECONDS + job_seconds(job, whole, pace, random.random())))
    images, cpu, seconds = np.array(found).T
    low, middle, high = np.percentile(seconds, (2.5, 50, 97.5))
    return Estimate(float(np.median(images)), float(np.median(cpu)), float(middle), float(low), float(high))


def _drawn(table: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return table[random.integers(0, len(table), len(table))]


def _mean(costs: Sequence[Cost], random: np.random.Generator) -> Cost:
    wall, cpu = _drawn(np.array([(cost.wall, cost.cpu) for cost in costs]), random).mean(0)
    return Cost(float(wall), float(cpu))
