"""Everything that depends on the engine: what the flags mean to it, and where its workers run."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
    StandardOptions,
)

from pipeline import flink, job_servers

LOCAL = "FnApiRunner"
_PORTABLE = ("flinkrunner", "sparkrunner", "portablerunner")
_KNOWN = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}


def _canonical(name: str) -> str:
    """A runner's name as Beam takes it, in any case and without its last word: 'flink' is FlinkRunner."""
    return _KNOWN.get(name.lower()) or _KNOWN.get(f"{name.lower()}runner") or name


def name_of(beam_options: PipelineOptions) -> str:
    """The engine that runs the job. DirectRunner, also the default, means Beam's in-process FnApiRunner.

    Beam's own DirectRunner would first try to download another engine.
    """
    runner = _canonical(beam_options.view_as(StandardOptions).runner or "DirectRunner")
    return LOCAL if runner.lower() in ("directrunner", "fnapirunner", "switchingdirectrunner") else runner


def check_name(runner: str) -> None:
    """Raises ValueError for an engine that Beam does not know. The full name of a class is left to Beam."""
    if runner.lower() in _KNOWN or "." in runner:
        return
    nearest = difflib.get_close_matches(runner.lower(), _KNOWN, n=1)
    hint = f"did you mean {_KNOWN[nearest[0]]}?" if nearest else f"Beam has {', '.join(_KNOWN.values())}"
    raise ValueError(f"--runner={runner}: no such runner; {hint}")


def takes_unknown_flags(flags: Sequence[str]) -> bool:
    """Whether these flags name an engine whose job server accepts flags unknown to this process."""
    return any(is_portable(_canonical(flag.split("=")[-1])) for flag in flags)


def is_portable(runner: str) -> bool:
    """Whether the engine is reached through one of Beam's job servers."""
    return runner.lower() in _PORTABLE


def set_defaults(beam_options: PipelineOptions, flags: Sequence[str]) -> None:
    """Makes several workers threads unless the flags say otherwise: Beam's default mode ignores their number."""
    direct = beam_options.view_as(DirectOptions)
    is_set = any(flag.split("=")[0] == "--direct_running_mode" for flag in flags)
    if direct.direct_num_workers != 1 and not is_set:
        direct.direct_running_mode = "multi_threading"


def talk_directly() -> None:
    """Lets gRPC reach this host without the environment's proxy: engine, job server and workers talk over it."""
    beyond = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""  # noqa: SIM112
    os.environ["no_grpc_proxy"] = ",".join(  # noqa: SIM112
        dict.fromkeys([*filter(None, beyond.split(",")), "localhost", "127.0.0.1"])
    )


def in_process(beam_options: PipelineOptions, runner: str) -> bool:
    """Whether the workers are threads of the launching process."""
    mode = beam_options.view_as(DirectOptions).direct_running_mode
    return runner == LOCAL and mode != "multi_processing"


def only_describes(beam_options: PipelineOptions, runner: str) -> bool:
    """Whether the launcher only writes a description of the job, as for a Flex Template, which the service then starts."""
    return runner != LOCAL and bool(beam_options.view_as(GoogleCloudOptions).template_location)


def addresses(beam_options: PipelineOptions, runner: str) -> Iterator[tuple[str, str]]:
    """The engine's addresses: a host:port or URL, and the flag that names it."""
    master = beam_options.view_as(FlinkRunnerOptions).flink_master
    if runner.lower() == "flinkrunner" and _is_flink_cluster(master):
        yield master, f"--flink_master={master}"
    if is_portable(runner):
        for flag in ("job_endpoint", "artifact_endpoint"):
            address = getattr(beam_options.view_as(PortableOptions), flag)
            if address and address != "embed":
                yield address, f"--{flag}={address}"


@dataclass(frozen=True)
class Workers:
    """How many shards an engine works on at once, and where."""

    at_once: int
    scale_up: str  # what doubles `at_once`, such as '--direct_num_workers=2'
    in_process: bool  # if so, they use this process's CPUs and devices


def workers(beam_options: PipelineOptions, runner: str) -> Workers:
    """The workers that these options ask for."""
    count, scale_up = _scale(beam_options, runner)
    return Workers(count, scale_up, in_process(beam_options, runner))


def _scale(beam_options: PipelineOptions, runner: str) -> tuple[int, str]:
    cpus = os.cpu_count() or 1
    if "flink" in runner.lower():
        count = max(1, beam_options.view_as(FlinkRunnerOptions).parallelism)
        return count, f"--parallelism={2 * count}"
    if "spark" in runner.lower():
        master = beam_options.view_as(SparkRunnerOptions).spark_master_url
        local = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
        if not local:
            return 1, "more executors behind --spark_master_url"
        count = cpus if local[1] == "*" else max(1, int(local[1] or 1))
        return count, f"--spark_master_url=local[{2 * count}]"
    if "dataflow" in runner.lower():
        return 1, "a higher --max_num_workers"
    if runner != LOCAL:
        return 1, "DirectRunner with --direct_num_workers=2"
    direct = beam_options.view_as(DirectOptions)
    count = direct.direct_num_workers or cpus
    if direct.direct_running_mode == "in_memory" and count > 1:  # which ignores the number
        return 1, "--direct_running_mode=multi_threading"
    return count, f"--direct_num_workers={2 * count}"


def name_job(beam_options: PipelineOptions, runner: str, folder: str) -> None:
    """Gives a job on Flink the name by which a later command with the same output folder finds it."""
    if "flink" in runner.lower():
        names = beam_options.view_as(GoogleCloudOptions)
        names.job_name = flink.job_name(folder, names.job_name or "")


def on_flink(beam_options: PipelineOptions, runner: str) -> flink.Jobs | None:
    """The jobs of this name on the Flink cluster that the flags name; None on another engine.

    To be called before the pipeline runs: for an uber jar Beam then replaces the address among the options.
    """
    master = beam_options.view_as(FlinkRunnerOptions).flink_master
    if "flink" not in runner.lower() or not _is_flink_cluster(master):
        return None
    url = master if "://" in master else f"http://{master}"
    return flink.Jobs(url.rstrip("/"), beam_options.view_as(GoogleCloudOptions).job_name or "")


def _is_flink_cluster(master: str) -> bool:
    """Whether `--flink_master` names a cluster; `[local]` and the like mean Flink inside the job server."""
    return bool(master) and not master.startswith("[")


def guard_job_servers(runner: str) -> list[str]:
    """Lets a job server that Beam starts for this engine end with this process, however that ends.

    Returns what to say of those that earlier processes have left; they are ended.
    """
    if runner == LOCAL:
        return []
    job_servers.guard()
    return job_servers.sweep()
