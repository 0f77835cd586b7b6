"""How many shards an engine works on at once, and the flag that makes it more."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    SparkRunnerOptions,
)


@dataclass(frozen=True)
class Workers:
    """Shards at once, and the flag that asks for twice as many, such as '--direct_num_workers=2'."""

    at_once: int
    wider: str


def of(beam_options: PipelineOptions, runner: str) -> Workers:
    """The workers that these options ask for. `runner` is what `options.runner_name` calls the engine."""
    cpus = os.cpu_count() or 1
    if "flink" in runner.lower():
        count = max(1, beam_options.view_as(FlinkRunnerOptions).parallelism)
        return Workers(count, f"--parallelism={2 * count}")
    if "spark" in runner.lower():
        master = beam_options.view_as(SparkRunnerOptions).spark_master_url
        found = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
        if not found:
            return Workers(1, "more executors behind --spark_master_url")
        count = cpus if found[1] == "*" else max(1, int(found[1] or 1))
        return Workers(count, f"--spark_master_url=local[{2 * count}]")
    if runner != "FnApiRunner":
        return Workers(1, "DirectRunner with --direct_num_workers=2")
    direct = beam_options.view_as(DirectOptions)
    count = direct.direct_num_workers or cpus
    if direct.direct_running_mode == "in_memory" and count > 1:  # which ignores the number
        return Workers(1, "--direct_running_mode=multi_threading")
    return Workers(count, f"--direct_num_workers={2 * count}")
