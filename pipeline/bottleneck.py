"""Which stage held a run back, and the one flag that would help most.

Reading, decoding and writing have threads of their own beside the worker thread that calls the model. What counts is the
wall time that the worker thread spends in the model or waits for one of the others: "write" includes the commits.
Each piece of advice names one flag, and depends on what was counted and on the engine: no flag helps everywhere. Where
the workers are other processes, nothing is known of their CPUs and devices, and the advice assumes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.runners import Workers
from transforms.counters import Counts
from transforms.model import devices

_TELLING_SECONDS = 2.0  # shorter runs are all start-up
_GPU_BATCH = 128
_LARGE_SHARD = 1000  # images: more in a shard make its commit no cheaper for each
_SPLIT_FROM_BYTES = 4 << 20
_MAJORITY = 0.5


@dataclass(frozen=True)
class Verdict:
    """The stage that took most of the time, its share of it (0 to 1), and what to do."""

    stage: str  # 'input' | 'decode' | 'model' | 'write'
    share: float
    advice: str  # names exactly one flag

    def line(self) -> str:
        return f"held back by {_WORDS[self.stage]} ({self.share:.0%} of the time): {self.advice}"


_WORDS = {
    "input": "waiting for input",
    "decode": "waiting for decoded images",
    "model": "the model",
    "write": "writing",
}


def stage_seconds(counts: Counts) -> dict[str, float]:
    """Seconds that the threads which call the model spent in each stage, or waiting for it."""
    return {
        "input": counts.wait_read_seconds,
        "decode": counts.wait_decode_seconds,
        "model": counts.model_seconds,
        "write": counts.wait_write_seconds,
    }


def judge(counts: Counts, config: JobConfig, plan: Plan, engine: Workers) -> Verdict | None:
    """The verdict on a run; None where too little time was counted, as in short runs."""
    seconds = stage_seconds(counts)
    total = sum(seconds.values())
    if total < _TELLING_SECONDS or not plan.todo:
        return None
    stage = max(seconds, key=lambda name: seconds[name])
    if stage == "model":
        advice = _faster_model(config, engine)
    elif stage == "decode":
        advice = _faster_decoding(counts, config, engine)
    else:
        advice = _faster_disks(stage, counts, config, plan, engine)
    return Verdict(stage, round(seconds[stage] / total, 3), advice)


def _faster_model(config: JobConfig, engine: Workers) -> str:
    exact = config.model.precision in ("float32", "tensorfloat32")
    if not engine.in_process:
        if exact:
            return "as it should be; on most GPUs a lower --precision is faster, and less exact"
        return f"as it should be; {engine.wider} would work on more shards at once"
    precision = devices.fast_precision()
    if precision and exact:
        return f"as it should be; --precision={precision} is faster here, and less exact"
    if devices.gpus_in_use() and config.model.batch_size < _GPU_BATCH:
        return f"as it should be; --batch_size={_GPU_BATCH} keeps a GPU busier"
    return "as it should be; more devices would help, or a smaller --image_size, which gives other vectors"


def _faster_decoding(counts: Counts, config: JobConfig, engine: Workers) -> str:
    cpus = os.cpu_count() or 1
    if engine.in_process and config.decode.threads_here < cpus:
        return f"--decode_threads={cpus} would use all CPUs"
    large = counts.scalable_pixels > _MAJORITY * counts.pixels
    if large and not config.preprocessing.scaled_decoding:
        return "--scaled_decoding would decode the large JPEGs faster, to slightly other pixels"
    more = f"a machine with more than {cpus} CPUs" if engine.in_process else "workers with more CPUs"
    return f"{more} would help: --decode_threads follows their number"


def _faster_disks(stage: str, counts: Counts, config: JobConfig, plan: Plan, engine: Workers) -> str:
    cut_by = plan.todo[0].source.cut_by
    fetch, rows = config.read.fetch, config.images_per_shard
    if stage == "input" and counts.fetch_seconds:
        if counts.queue_seconds > _MAJORITY * counts.fetch_seconds:
            return f"--per_host={2 * fetch.per_host} would ask one host for more images at once, if it can bear it"
        return f"--fetch_threads={2 * fetch.concurrency} would fetch more images at once"
    commits = stage == "write" and counts.wait_commit_seconds > _MAJORITY * counts.wait_write_seconds
    if cut_by == "--images_per_shard" and commits and rows < _LARGE_SHARD:
        return (
            f"--images_per_shard={min(_LARGE_SHARD, 10 * rows)}, to another output, would mean fewer commits"
        )
    if len(plan.todo) > engine.at_once:
        return f"{engine.wider} would work on more shards at once"
    # More shards than there are now let more workers share them; how many workers is the engine's flag, the next time.
    if cut_by == "--images_per_shard" and rows > 1:
        return f"--images_per_shard={max(1, rows // 4)}, to another output, makes more shards, for more workers to share"
    largest = max(shard.units for shard in plan.todo)
    if cut_by == "--split_bytes" and largest > _SPLIT_FROM_BYTES and not _any_compressed(plan):
        size = f"{max(1, largest >> 22)}MiB"
        return f"--split_bytes={size}, to another output, makes more shards, for more workers to share"
    return "no flag helps: the shards are few; write the same images into more and smaller files"


def _any_compressed(plan: Plan) -> bool:
    return any(shard.source.uri.endswith((".gz", ".bz2", ".zst", ".deflate")) for shard in plan.todo)
