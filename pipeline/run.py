"""Runs a plan on a Beam runner, in a thread, so that progress is shown and signals are handled meanwhile."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from apache_beam.runners.runner import PipelineResult

from bit.models import UnusableModel
from pipeline import console, flink, graph, runners, workers
from pipeline import fleet as fleets
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.progress import Display, Progress
from pipeline.signals import Signals, Stopped
from transforms import counters
from transforms.commit.retry_failures import Due
from transforms.decode import DecodeImages
from transforms.infer import BitModelHandler
from transforms.manifest import WriteManifest
from transforms.plan_file import ReadPlan, elements
from transforms.read import ReadShards
from transforms.storage import door
from transforms.storage.door import StoreSettings
from transforms.storage.errors import StorageFailed
from transforms.write import WriteShards

_POLL_SECONDS = 0.25
_REST_SECONDS = 2.0  # between two requests to a JobManager


def define(
    config: JobConfig,
    plan: Plan,
    pipeline: beam.Pipeline,
    stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
) -> None:
    """Adds the job's graph for `plan` to `pipeline`, and writes the plan file of a plan with many shards.

    `stores` are those that the workers are to use.
    """
    graph.define(
        pipeline,
        elements(plan.layout, plan.todo),
        ReadPlan(plan.layout, stores),
        ReadShards(plan.read, Due(plan.layout), stores),
        DecodeImages(config.decode),
        BitModelHandler(config.model, stores),
        WriteShards(plan.layout, plan.fingerprint, stores),
        WriteManifest(plan.layout, plan.fingerprint, len(plan.shards), stores),
    )


def check_model(config: JobConfig, beam_options: PipelineOptions, runner: str) -> None:
    """Loads a model of which the start has not seen that it can do what is asked: a SavedModel, or one on a store.

    Raises RequestError if it cannot.
    """
    # Not where the workers are processes of their own: they need the GPU's memory that this one would keep.
    model = config.model.model
    is_unseen = model.kind == "saved_model" or (model.kind != "untrained" and not door.is_local(model.uri))
    if is_unseen and runners.in_process(beam_options, runner):
        try:
            BitModelHandler(config.model).load_model().ready()
        except (UnusableModel, OSError, ValueError) as error:
            raise RequestError(f"--model={model.name}: {door.explain(model.uri, error)}") from error


def run(config: JobConfig, plan: Plan, beam_options: PipelineOptions, runner: str) -> PipelineResult | None:
    """Runs the plan as `follow` does. Raises RequestError if the model cannot do what was requested."""
    progress = display(config, plan, beam_options, runner)
    paths = (*config.inputs, config.output, config.model.model.uri)
    try:
        return follow(partial(define, config, plan), progress, paths, beam_options, runner)
    except Stopped as stopped:
        with contextlib.suppress(Exception):  # a store that does not answer
            stopped.images = progress.snapshot().images
        raise
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, UnusableModel):
                raise RequestError(f"--model={config.model.model.name}: {cause}") from error
        raise


def display(config: JobConfig, plan: Plan, beam_options: PipelineOptions, runner: str) -> Progress:
    """Shows how far a run of the plan on this engine has come."""
    crew = runners.workers(beam_options, runner)
    return Progress(plan, crew.in_process, runner == runners.LOCAL, crew.at_once, config.model.batch_size)


def follow(
    define: Callable[[beam.Pipeline, StoreSettings], None],
    progress: Display,
    paths: Iterable[str],
    beam_options: PipelineOptions,
    runner: str,
) -> PipelineResult | None:
    """Runs a graph to its end, or only submits it where the engine accepts no more than a description of the job.

    Args:
      define: adds the graph to a pipeline; its steps are to use the stores given.
      progress: is shown meanwhile.
      paths: those that the steps read and write, by which their stores are known.
      beam_options: loses the secrets of stores.
      runner: as `runners.name_of` gives it.

    Returns the engine's result of a job that has ended, None for one that was only submitted. Raises Stopped on a signal,
    else what the run raises, after showing the last traceback if the error does not say all.
    """
    if beam_options.view_as(SetupOptions).save_main_session is None:
        beam_options.view_as(SetupOptions).save_main_session = False
    stores = door.of_launcher(beam_options, paths)
    runners.talk_directly()
    for line in runners.guard_job_servers(runner):
        console.say(line)
    on_flink = runners.on_flink(beam_options, runner)
    pipeline = beam.Pipeline(runner=runner, options=door.without_secrets(beam_options))
    door.adopt(stores)  # the pipeline has set its own
    define(pipeline, stores)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            if "result" not in outcome:
                outcome["result"] = pipeline.run()
            outcome["result"].wait_until_finish()
        except BaseException as error:
            outcome["error"] = error

    counters.PROCESS.drain()  # counts of an earlier, failed run in this process
    counters.PROCESS.does("starting")
    with Signals() as signals, counters.PROCESS.run(), workers.watched() as fleet:
        if runner != runners.LOCAL:
            # Beam starts job servers on the main thread only, and installs its own SIGINT handler there.
            try:
                with signals.raised():
                    outcome["result"] = pipeline.run()
            except Exception as refused:
                _raise_lost(on_flink, refused)
                raise
            signals.arm()
            if runners.only_describes(beam_options, runner):
                return None
        thread = threading.Thread(target=work, name="run", daemon=True)
        thread.start()
        while thread.is_alive() and not signals.received and not _is_overdue(fleet):
            thread.join(_POLL_SECONDS)
            progress.draw()
        console.show("")
        console.log_warnings_only()
        if signals.received:
            _cancel(outcome.get("result"), on_flink)
            raise signals.stopped()
    if isinstance(fleet.error, fleets.WorkerDied):  # what else was logged follows from it
        raise fleet.error
    if error := outcome.get("error", fleet.error):
        _raise_lost(on_flink, error)
        if not _says_all(error):
            console.show_traceback()
        raise error
    return outcome["result"]


def _raise_lost(on_flink: flink.Jobs | None, error: BaseException) -> None:
    """Raises JobLost if an error follows from the loss of a JobManager, or of the connection to it."""
    if on_flink and not isinstance(error, Stopped) and (lost := on_flink.lost(str(error))):
        raise lost from error


def is_at_work(on_flink: flink.Jobs) -> bool:
    """Whether a job that an earlier command has started for the same output still runs; says so."""
    running = on_flink.running()
    for job in running:
        console.say(f"{job} on {on_flink} has been writing to this output since {job.since}")
    return bool(running)


def await_end(on_flink: flink.Jobs, progress: Display | None = None) -> None:
    """Waits until no such job runs, or the JobManager knows none; a signal cancels it, and raises Stopped.

    Raises JobLost if the JobManager has not answered for `flink.AWAY_SECONDS`.
    """
    console.say("waiting for its end, to do then what is left; Ctrl-C or SIGTERM cancels it")
    answered = time.monotonic()
    with Signals() as signals:
        while not signals.received:
            try:
                if not on_flink.running():
                    break
                answered = time.monotonic()
            except OSError as error:
                if time.monotonic() - answered > flink.AWAY_SECONDS:
                    raise on_flink.gone(error) from error
            if progress:
                progress.draw()
            signals.wait(_REST_SECONDS)
        console.show("")
        if signals.received:
            _cancel(None, on_flink)
            raise signals.stopped()


def _is_overdue(fleet: fleets.Fleet) -> bool:
    """Whether a run of which a bundle has failed should have ended: another worker is in the middle of its own."""
    return bool(fleet.error) and time.monotonic() > fleet.failed_at + 2 * fleets.GRACE_SECONDS


def _says_all(error: BaseException) -> bool:
    """Whether the message of an error leaves nothing that a traceback could tell."""
    return StorageFailed.__name__ in str(error) or any(isinstance(c, UnusableModel) for c in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cancel(result: Any, on_flink: flink.Jobs | None) -> None:
    """Asks the engine to cancel the job; a run in this process ends with the process."""
    try:
        if on_flink:
            on_flink.cancel()
        elif hasattr(result, "cancel"):
            result.cancel()
    except Exception as error:
        logging.getLogger(__name__).warning("the engine did not accept the request to cancel: %s", error)
