"""`python -m pipeline.finetune`: labelled pictures in, a tuned model out."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bit import home
from bit.command import guard

os.environ.update(home.settled())  # before Beam is imported, which has a folder there

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from bit import download, models
from pipeline import console, reach, runners, weights
from pipeline.console import counted, say
from pipeline.finetune import data, folder
from pipeline.finetune import request as requests
from pipeline.finetune.examples import Input
from pipeline.finetune.failures import NothingUsable
from pipeline.finetune.request import Request
from pipeline.flags import RequestError
from pipeline.signals import Signals, Stopped
from pipeline.terminal import Screen
from transforms.fetching.uris import public_uri
from transforms.infer import ModelSettings
from transforms.model import compiled
from transforms.sources.base import BadInput
from transforms.storage import retrying

if TYPE_CHECKING:
    from pipeline.finetune.run import Run

DONE, FAILED, REFUSED, TOO_MANY_FAILURES = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 wrong request, 3 too many failures, 1 any other error, or a signal."""
    console.configure_logging(runners.LOCAL)
    try:
        request, beam_options = requests.parse(sys.argv[1:] if argv is None else argv)
        if home.notice:
            say(home.notice)
        with Signals() as signals:
            return _run(request, beam_options, signals)
    except Stopped as stopped:
        say(f"stopped ({stopped}): the same command goes on from here")
        return FAILED
    except NothingUsable as error:
        say(f"error: {error}. {request.output / folder.FAILURES} lists what failed")
        return TOO_MANY_FAILURES
    except (RequestError, BadInput) as error:
        say(f"error: {error}")
        return REFUSED
    except reach.Unreachable as error:
        say(f"error: {error}")
        return FAILED
    except (OSError, BeamIOError, MemoryError, ValueError, FloatingPointError) as error:
        say(f"error: {error}. The same command goes on from the last checkpoint")
        return FAILED


def _run(request: Request, beam_options: PipelineOptions, signals: Signals) -> int:
    signals.during(lambda: reach.enter(beam_options, runners.LOCAL, request.paths, request.read.fetch))
    # Before threads read the environment that TensorFlow's import would change. Not XLA's flags, which are for inference.
    compiled.set_environment(device_files=())
    output = request.output
    identifier, path, sources = signals.during(lambda: _prepared(request))
    problems = [source.problem for source in sources.values() if source.problem]
    if problems and not folder.is_done(output):
        raise RequestError(problems[0])
    for note in (note for source in sources.values() for note in source.notes):
        say(note)
    identity = folder.identity(request, identifier, sources)
    with folder.claimed(output, identity):
        if folder.is_done(output):
            say(f"{output} holds a finished run of this request: nothing to do")
            return _verdict(request)
        found = signals.during(lambda: data.find(request, sources, identity))
        if found.unusable > request.max_failure_rate * found.found:
            say(
                f"error: {found.unusable:,} of {counted(found.found, 'example')} cannot be used: "
                f"{output / folder.FAILURES} lists them"
            )
            return TOO_MANY_FAILURES
        _say_recipe(request, found)
        training = signals.during(lambda: _training(request, found, path, signals))
        folder.begin(output, identity)
        evaluation = training.train()
        about = {"model": request.model.name, "weights": identifier, "found": found.found}
        signals.during(lambda: training.write(evaluation, about))
        say(
            f"tuned model: {output / folder.MODEL}; report: {output / 'report.html'}; "
            f"{counted(training.failed, 'example')} failed"
        )
        return _verdict(request)


def _prepared(request: Request) -> tuple[str, str, dict[str, Input]]:
    """What identifies the weights, their local path, and the inputs. Writes nothing. Raises RequestError, BadInput."""
    settings = ModelSettings(request.model, 32, 1, offline=request.offline)
    with retrying.hurried():
        return (
            weights.identify(settings, True, modules=False),
            _weights(request),
            data.inputs(request),
        )


def _training(request: Request, found: data.Data, path: str, signals: Signals) -> Run:
    """The run. Raises RequestError if the weights cannot be trained."""
    # TensorFlow takes seconds to import: not before the request is known to be right.
    from pipeline.finetune import run

    if request.deterministic:
        from bit.tensorflow import tf

        tf.config.experimental.enable_op_determinism()
    try:
        return run.Run(request, found, path, signals)
    except models.UnusableModel as error:
        raise RequestError(f"--model={public_uri(request.model.name)}: {error}") from error


def _verdict(request: Request) -> int:
    """The exit code of a finished run, by its report."""
    report = folder.report(request.output)
    return TOO_MANY_FAILURES if report["failed"] > request.max_failure_rate * report["found"] else DONE


def _weights(request: Request) -> str:
    """The local path of the checkpoint that training starts from; '' for untrained ones. Raises RequestError."""
    try:
        return download.local_path(request.model, head=False, modules=False, offline=request.offline)
    except (download.WeightsUnreachable, models.UnusableModel) as error:
        raise RequestError(f"--model={public_uri(request.model.name)}: {error}") from error


def _say_recipe(request: Request, found: data.Data) -> None:
    recipe = found.recipe
    schedule, sides = recipe.schedule, recipe.resolution
    decays = ", ".join(map(str, schedule.decays)) or "never"
    say(
        f"{counted(schedule.end, 'update')} of {counted(request.batch_size, 'picture')}, "
        f"rate {request.base_rate:g} after {schedule.warm_up}, divided by ten after {decays}; "
        f"pictures (median area {found.area:.0f}) resized to {sides.resize}, crops of {sides.crop}; "
        f"MixUp {recipe.mixup_alpha:g}"
    )


if __name__ == "__main__":
    guard()
    with Screen():
        code = main()
    threading.excepthook = lambda _: None
    sys.stderr.flush()
    os._exit(code)  # threads of a stopped run must not keep the process alive
