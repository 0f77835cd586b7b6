"""Runs a plan on a Beam runner: in a thread, so that progress is drawn and signals are answered meanwhile."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
)

from bit.models import UnusableModel
from pipeline import flink, graph
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.progress import Progress
from transforms.commit.claim import IsFirstAttempt
from transforms.commit.retry import Due
from transforms.decode import DecodeImages
from transforms.infer import BitModelHandler
from transforms.manifest import WriteManifest
from transforms.read import ReadShards
from transforms.write import WriteShards

LOCAL = "FnApiRunner"
_POLL_SECONDS = 0.25
_CHATTY = (
    "apache_beam.typehints",
    "apache_beam.utils.subprocess_server",
)  # tell of nothing that a user could act on


class Stopped(Exception):
    """A signal asked the run to stop."""


class _Hold(logging.Filter):
    """Keeps tracebacks back until it is known whether the run's end needs them."""

    def __init__(self):
        super().__init__()
        self.held: deque[str] = deque(maxlen=5)

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
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    _hold.held.clear()
    logging.getLogger().handlers[0].addFilter(_hold)


def define(config: JobConfig, plan: Plan, pipeline: beam.Pipeline) -> None:
    """Adds the job's graph for `plan` to `pipeline`."""
    graph.define(
        pipeline,
        plan.todo,
        ReadShards(config.read, Due(plan.layout)),
        DecodeImages(config.decode, IsFirstAttempt(plan.layout)),
        BitModelHandler(config.model),
        WriteShards(plan.layout, plan.fingerprint),
        WriteManifest(plan.layout, plan.fingerprint, len(plan.shards)),
    )


def check_model(config: JobConfig, beam_options: PipelineOptions) -> None:
    """Loads a SavedModel to see whether it can do what is asked; the others were seen through by their headers.

    Raises RequestError if not.
    """
    # Not where the workers are processes of their own: they need the GPU's memory that this one would keep.
    if config.model.model.kind == "saved_model" and _in_process(beam_options):
        try:
            BitModelHandler(config.model).load_model()
        except UnusableModel as error:
            raise RequestError(f"--model={config.model.model.name}: {error}") from error


def run(config: JobConfig, plan: Plan, beam_options: PipelineOptions, runner: str) -> bool:
    """Runs the plan to its end, or only hands it over where the engine takes no more than a description of it.

    Returns whether the job has ended. Raises Stopped on a signal, RequestError if the model cannot do what was asked.
    """
    if beam_options.view_as(SetupOptions).save_main_session is None:
        beam_options.view_as(SetupOptions).save_main_session = False
    pipeline = beam.Pipeline(runner=runner, options=beam_options)
    define(config, plan, pipeline)
    flink_master = beam_options.view_as(FlinkRunnerOptions).flink_master if "flink" in runner.lower() else ""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            if "result" not in outcome:
                outcome["result"] = pipeline.run()
            outcome["result"].wait_until_finish()
        except BaseException as error:
            outcome["error"] = error

    progress = Progress(plan, in_process=runner == LOCAL and _in_process(beam_options))
    with _Signals() as signals:
        if runner != LOCAL:
            # Beam starts job servers on the main thread only, and then takes SIGINT for itself.
            with signals.raised():
                outcome["result"] = pipeline.run()
            signals.arm()
            if beam_options.view_as(GoogleCloudOptions).template_location:
                return False
        thread = threading.Thread(target=work, name="run", daemon=True)
        thread.start()
        while thread.is_alive() and not signals.received:
            thread.join(_POLL_SECONDS)
            progress.draw()
        progress.clear()
        # What an engine tells while it is being taken down does not concern the job.
        logging.getLogger().setLevel(logging.WARNING)
        if signals.received:
            _cancel(outcome.get("result"), flink_master)
            raise signals.stopped()
    if error := outcome.get("error"):
        for cause in _causes(error):
            if isinstance(cause, UnusableModel):
                raise RequestError(f"--model={config.model.model.name}: {cause}") from error
        if _hold.held:
            sys.stderr.write(f"{_hold.held[-1]}\n")
        raise error
    return True


def _in_process(beam_options: PipelineOptions) -> bool:
    return beam_options.view_as(DirectOptions).direct_running_mode != "multi_processing"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cancel(result: Any, flink_master: str) -> None:
    """Asks a remote engine to stop; a run in this process ends with the process."""
    if result is None or not hasattr(result, "cancel"):
        return
    try:
        if flink.is_cluster(flink_master):
            flink.cancel(flink_master, result._job_id)
        else:
            result.cancel()
    except Exception as error:
        logging.getLogger(__name__).warning("the engine did not take the request to stop: %s", error)


class _Signals:
    """SIGINT and SIGTERM, collected instead of raised in the middle of something."""

    _watched = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received: list[int] = []
        self._raising = False

    def __enter__(self) -> _Signals:
        self._before = {number: signal.getsignal(number) for number in self._watched}
        self.arm()
        return self

    def __exit__(self, *_) -> None:
        if self._before and _on_main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def arm(self) -> None:
        """Takes the signals, also back from a library that took them meanwhile."""
        if _on_main_thread():
            for number in self._watched:
                signal.signal(number, self._take)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within it a signal raises Stopped: submitting may wait for a host that never answers."""
        self._raising = True
        try:
            yield
        except Exception:
            if not self.received:
                raise
            raise self.stopped() from None
        finally:
            self._raising = False

    def stopped(self) -> Stopped:
        return Stopped(signal.Signals(self.received[0]).name)

    def _take(self, number: int, _) -> None:
        self.received.append(number)
        if self._raising:
            raise self.stopped()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
