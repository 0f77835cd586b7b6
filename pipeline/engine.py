"""Runs a plan on a Beam runner: in a thread, so that progress is drawn and signals are answered meanwhile."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions

from bit.models import UnusableModel
from pipeline import graph
from pipeline.options import JobConfig, RequestError
from pipeline.plan import Plan
from pipeline.progress import Progress
from transforms.decode import DecodeImages
from transforms.infer import BitModelHandler
from transforms.read import ReadShards
from transforms.write import IsDone, WriteManifest, WriteShards

LOCAL = "FnApiRunner"
_POLL_SECONDS = 0.25


class Stopped(Exception):
    """A signal asked the run to stop."""


class _Hold(logging.Filter):
    """Keeps tracebacks back until it is known whether the run's end needs them."""

    def __init__(self):
        super().__init__()
        self.held: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.exc_info or "Traceback (most recent call last)" in text:
            self.held.append(logging.Formatter("%(levelname)s %(name)s: %(message)s").format(record))
            return False
        # RunInference says this whenever torch is missing; the job has no use for either.
        return "Resource module is not available" not in text


_hold = _Hold()


def configure_logging(runner: str) -> None:
    """Logs to stderr. Dataflow's launcher needs INFO: Airflow reads the job's id from its log."""
    level = logging.WARNING if runner == LOCAL else logging.INFO
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    _hold.held.clear()
    logging.getLogger().handlers[0].addFilter(_hold)


def define(config: JobConfig, plan: Plan, pipeline: beam.Pipeline) -> None:
    """Adds the job's graph for `plan` to `pipeline`."""
    graph.define(
        pipeline,
        plan.todo,
        ReadShards(config.read, IsDone(plan.layout)),
        DecodeImages(config.decode),
        BitModelHandler(config.model),
        WriteShards(plan.layout, plan.fingerprint),
        WriteManifest(plan.layout, plan.fingerprint, len(plan.shards)),
    )


def run(config: JobConfig, plan: Plan, beam_options: PipelineOptions, runner: str) -> None:
    """Runs the plan to its end. Raises Stopped on a signal, RequestError if the model cannot do what was asked."""
    if beam_options.view_as(SetupOptions).save_main_session is None:
        beam_options.view_as(SetupOptions).save_main_session = False
    pipeline = beam.Pipeline(runner=runner, options=beam_options)
    define(config, plan, pipeline)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = result = pipeline.run()
            result.wait_until_finish()
        except BaseException as error:
            outcome["error"] = error

    progress = Progress(plan, in_process=runner == LOCAL and _in_process(beam_options))
    with _signals() as received:
        thread = threading.Thread(target=work, name="run", daemon=True)
        thread.start()
        while thread.is_alive() and not received:
            thread.join(_POLL_SECONDS)
            progress.draw()
    progress.clear()
    if received:
        _cancel(outcome.get("result"))
        raise Stopped(signal.Signals(received[0]).name)
    if error := outcome.get("error"):
        for cause in _causes(error):
            if isinstance(cause, UnusableModel):
                raise RequestError(f"--model={config.model.model.name}: {cause}") from error
        if _hold.held:
            sys.stderr.write(f"{_hold.held[-1]}\n")
        raise error


def _in_process(beam_options: PipelineOptions) -> bool:
    return beam_options.view_as(DirectOptions).direct_running_mode != "multi_processing"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cancel(result: Any) -> None:
    """Asks a remote engine to stop; a run in this process ends with the process."""
    if result is not None and hasattr(result, "cancel"):
        try:
            result.cancel()
        except Exception as error:
            logging.getLogger(__name__).warning("the engine did not take the request to stop: %s", error)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of raising in the middle of something."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in watched}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
