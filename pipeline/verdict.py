"""Which stage held a run back, and the one flag that would help most.

Reading, decoding and writing have threads of their own beside the worker thread that calls the model. What counts is the
wall time that the worker thread spends in the model or waits for one of the others: "write" includes the commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.options import JobConfig
from transforms.tally import Counts

_TELLING_SECONDS = 2.0  # shorter runs are all start-up
_FAST_PRECISIONS = ("bfloat16", "float16")


@dataclass(frozen=True)
class Verdict:
    """The stage that took most of the time, its share of it (0 to 1), and what to do."""

    stage: str  # 'input' | 'decode' | 'model' | 'write'
    share: float
    advice: str

    def line(self) -> str:
        return f"held back by {_WORDS[self.stage]} ({self.share:.0%} of the time): {self.advice}"


_WORDS = {
    "input": "waiting for input",
    "decode": "waiting for decoded images",
    "model": "the model",
    "write": "writing",
}


def stage_seconds(before: Counts, after: Counts) -> dict[str, float]:
    """Seconds that the worker threads of this process spent in each stage between two counts."""
    return {
        "input": after.read_seconds - before.read_seconds,
        "decode": after.decode_wait_seconds - before.decode_wait_seconds,
        "model": after.model_seconds - before.model_seconds,
        "write": after.write_seconds - before.write_seconds,
    }


def smaller_batch(before: Counts, after: Counts) -> int | None:
    """The batch size to which this process's workers came down for want of memory; None if they did not."""
    return after.batch_fitted if after.batch_fitted != before.batch_fitted else None


def judge(seconds: Mapping[str, float], config: JobConfig, is_list: bool) -> Verdict | None:
    """The verdict on a run; None where too little time was counted: short runs, workers in other processes."""
    total = sum(seconds.values())
    if total < _TELLING_SECONDS:
        return None
    stage = max(seconds, key=lambda name: seconds[name])
    return Verdict(stage, seconds[stage] / total, _advice(stage, config, is_list))


def _advice(stage: str, config: JobConfig, is_list: bool) -> str:
    if stage == "model":
        if config.model.precision in _FAST_PRECISIONS:
            return "as it should be; more devices would help, or a smaller --image_size"
        return "as it should be; --precision=bfloat16 is faster where the device has it"
    if stage == "decode":
        return "--decode_threads helps if there are idle cores, else a worker with more of them"
    if stage == "input" and is_list:
        return f"--fetch_threads={2 * config.read.fetch.concurrency} would fetch more images at once"
    return "--direct_num_workers=2 --direct_running_mode=multi_threading works on two shards at once"
