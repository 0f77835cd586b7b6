"""The bottleneck of a run, and the one flag that would help most.

Reading, decoding and writing have threads of their own beside the worker thread that calls the model. On a CPU, what counts
is the wall time that the worker thread spends in the model or waits for one of the others; "write" includes commits. A device
with memory of its own works while that thread waits, so there the device's own times count: computing, waiting for a copy,
for the host, and for input, which is divided by what the worker thread waited for. Each piece of advice names one flag, and
depends on the counts and on the engine. Where the workers are other processes, their CPUs and devices are unknown, and the
advice assumes nothing about them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.runners import Workers
from transforms import cpus
from transforms.counters import Counts
from transforms.model import devices

_MIN_SECONDS = 2.0  # shorter runs are mostly start-up
_GPU_BATCH = 128
_LARGE_SHARD = 1000  # images; larger shards hardly lower the cost of commits per image
_SPLIT_FROM_BYTES = 4 << 20
_MAJORITY = 0.5
_BUSY = 0.95  # a device that computes less of the time is waited for less than it waits


@dataclass(frozen=True)
class Bottleneck:
    """The stage that took most of the time, its share of the time (0 to 1), and what to do."""

    stage: str  # 'input' | 'decode' | 'model' | 'copy' | 'host' | 'write'
    share: float
    advice: str  # names exactly one flag

    def line(self) -> str:
        """As printed at the end of a run."""
        return f"bottleneck: {_WORDS[self.stage]} ({self.share:.0%} of the time); {self.advice}"


_WORDS = {
    "input": "reading input",
    "decode": "decoding images",
    "model": "the model",
    "copy": "copying to the device",
    "host": "launching on the device",
    "write": "writing",
}


def stage_seconds(counts: Counts) -> dict[str, float]:
    """Seconds per stage: of the threads that call the model, or of devices with memory of their own, where there are some."""
    waits = {
        "input": counts.wait_read_seconds,
        "decode": counts.wait_decode_seconds,
        "write": counts.wait_write_seconds,
    }
    if not counts.device_seconds:
        return {**waits, "model": counts.model_seconds}
    idle = counts.device_input_seconds / (sum(waits.values()) or math.inf)
    return {
        **{stage: idle * seconds for stage, seconds in waits.items()},
        "model": counts.device_seconds,
        "copy": counts.device_copy_seconds,
        "host": counts.device_host_seconds,
    }


def find(counts: Counts, config: JobConfig, plan: Plan, workers: Workers) -> Bottleneck | None:
    """The bottleneck of a run; None if the run was too short to say."""
    seconds = stage_seconds(counts)
    total = sum(seconds.values())
    if total < _MIN_SECONDS or not plan.todo:
        return None
    stage = max(seconds, key=lambda name: seconds[name])
    share = seconds[stage] / total
    if stage != "model":
        advice = _advice(stage, counts, config, plan, workers)
    elif share >= _BUSY:
        advice = f"as it should be; {_faster_model(config, workers)}"
    elif counts.device_seconds:
        waited = max(seconds.keys() - {"model"}, key=lambda name: seconds[name])
        advice = (
            f"the device waits for {_WORDS[waited]} {seconds[waited] / total:.0%} of the time; "
            f"{_advice(waited, counts, config, plan, workers)}"
        )
    else:
        advice = _faster_model(config, workers)
    return Bottleneck(stage, round(share, 3), advice)


def _advice(stage: str, counts: Counts, config: JobConfig, plan: Plan, workers: Workers) -> str:
    """For a stage other than the model."""
    if stage == "decode":
        return _faster_decoding(counts, config, workers)
    if stage == "host":
        larger = max(_GPU_BATCH, 2 * config.model.batch_size)
        return f"--batch_size={larger} would launch less often, if the device's memory holds it"
    if stage == "copy":
        return "a faster link to the device would help, or a smaller --image_size, which changes the features"
    return _faster_io(stage, counts, config, plan, workers)


def _faster_model(config: JobConfig, workers: Workers) -> str:
    exact = config.model.precision in ("float32", "tensorfloat32")
    if not workers.in_process:
        if exact:
            return "on most GPUs a lower --precision is faster, and less exact"
        return f"{workers.scale_up} would process more shards at once"
    precision = devices.fast_precision()
    if precision and exact:
        return f"--precision={precision} is faster here, and less exact"
    if devices.gpus_in_use() and config.model.batch_size < _GPU_BATCH:
        return f"--batch_size={_GPU_BATCH} keeps a GPU busier"
    return "more devices would help, or a smaller --image_size, which changes the features"


def _faster_decoding(counts: Counts, config: JobConfig, workers: Workers) -> str:
    available = cpus.available()
    if workers.in_process and config.decode.processes_here < available:
        return f"--decode_processes={available} would use all CPUs"
    large = counts.scalable_pixels > _MAJORITY * counts.pixels
    if large and not config.preprocessing.scaled_decoding:
        return "--scaled_decoding would decode large JPEGs faster, with slightly different pixels"
    if not counts.device_seconds:
        more = (
            f"a machine with more than {available} CPUs" if workers.in_process else "workers with more CPUs"
        )
        return f"{more} would help: --decode_processes follows their number"
    # The device computes in this share of the time what all CPUs decode.
    busy = counts.device_seconds / sum(stage_seconds(counts).values())
    more = f"{math.ceil(available / busy)} CPUs" if workers.in_process else f"{1 / busy:.1f} times the CPUs"
    return f"about {more} for each device would keep it busy: --decode_processes follows their number"


def _faster_io(stage: str, counts: Counts, config: JobConfig, plan: Plan, workers: Workers) -> str:
    cut_by = plan.todo[0].source.cut_by
    fetch, rows = config.read.fetch, plan.images_per_shard or 1
    if stage == "input" and counts.fetch_seconds:
        if counts.queue_seconds > _MAJORITY * counts.fetch_seconds:
            return f"--per_host={2 * fetch.per_host} would fetch more images at once from one host, if it can take the load"
        return f"--fetch_threads={2 * fetch.concurrency} would fetch more images at once"
    commits = stage == "write" and counts.wait_commit_seconds > _MAJORITY * counts.wait_write_seconds
    if cut_by == "--images_per_shard" and commits and rows < _LARGE_SHARD:
        return f"--images_per_shard={min(_LARGE_SHARD, 10 * rows)}, in a new output folder, would need fewer commits"
    if len(plan.todo) > workers.at_once:
        return f"{workers.scale_up} would process more shards at once"
    # More shards let more workers share them; the next run then names the engine's flag for more workers.
    if cut_by == "--images_per_shard" and rows > 1:
        return f"--images_per_shard={max(1, rows // 4)}, in a new output folder, would make more shards for more workers"
    largest = max(shard.units for shard in plan.todo)
    if cut_by == "--split_bytes" and largest > _SPLIT_FROM_BYTES and not _any_compressed(plan):
        size = f"{max(1, largest >> 22)}MiB"
        return f"--split_bytes={size}, in a new output folder, would make more shards for more workers"
    return "no flag helps, there are too few shards; write the same images into more, smaller files"


def _any_compressed(plan: Plan) -> bool:
    return any(shard.source.uri.endswith((".gz", ".bz2", ".zst", ".deflate")) for shard in plan.todo)
