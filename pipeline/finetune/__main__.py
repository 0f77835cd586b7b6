"""`python -m pipeline.finetune`: labelled pictures in, a tuned model out."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors that matter are raised, too

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from bit import models
from pipeline import console, runners, weights
from pipeline.console import say
from pipeline.finetune import data, folder
from pipeline.finetune import request as requests
from pipeline.finetune.request import Request
from pipeline.flags import RequestError
from pipeline.signals import Signals
from transforms.infer import ModelSettings
from transforms.sources.base import BadInput
from transforms.storage import door

DONE, FAILED, REFUSED, TOO_MANY_FAILURES = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 wrong request, 3 too many failures, 1 any other error, or a signal."""
    console.configure_logging(runners.LOCAL)
    try:
        request = requests.parse(sys.argv[1:] if argv is None else argv)
        with Signals() as signals:
            return _run(request, signals)
    except (RequestError, BadInput) as error:
        say(f"error: {error}")
        return REFUSED
    except (OSError, BeamIOError, MemoryError, ValueError, FloatingPointError) as error:
        say(f"error: {error}. The same command goes on from the last checkpoint")
        return FAILED


def _run(request: Request, signals: Signals) -> int:
    door.configure(PipelineOptions([]))
    output = request.output
    identifier = weights.identify(ModelSettings(request.model, 32, 1), True)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output={output} is not a folder, nor can it be made: {error}") from error
    sources = data.inputs(request)
    about = folder.identity(request, identifier, sources)
    folder.claim(output, about)

    from pipeline.finetune import (
        run,
    )  # TensorFlow takes seconds to import: not before the request is known to be right

    if run.is_done(output):
        say(f"{output} holds a finished run of this request: nothing to do")
        return DONE
    found = data.find(request, sources)
    total = len(found.training) + len(found.validation) + len(found.failed)
    if len(found.failed) > request.max_failure_rate * total:
        say(
            f"error: {len(found.failed)} of {total} examples cannot be used: {output / folder.FAILURES} lists them"
        )
        return TOO_MANY_FAILURES
    if request.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    _say_recipe(request, found)
    try:
        training = run.Run(request, found, signals)
    except models.UnusableModel as error:
        raise RequestError(f"--model={request.model.name}: {error}") from error
    evaluation = training.train()
    if evaluation is None:
        say(f"stopped ({signals.stopped()}): the same command goes on from here")
        return FAILED
    training.write(evaluation, {"model": request.model.name, "weights": identifier})
    say(
        f"tuned model: {output / run.MODEL}; report: {output / 'report.html'}; {training.failed} examples failed"
    )
    return TOO_MANY_FAILURES if training.failed > request.max_failure_rate * total else DONE


def _say_recipe(request: Request, found: data.Data) -> None:
    recipe = found.recipe
    schedule, sides = recipe.schedule, recipe.resolution
    decays = ", ".join(map(str, schedule.decays)) or "never"
    say(
        f"{schedule.end} updates of {request.batch_size} pictures, rate {request.base_rate:g} after {schedule.warm_up}, "
        f"divided by ten after {decays}; pictures (median area {found.area:.0f}) resized to {sides.resize}, "
        f"crops of {sides.crop}; MixUp {recipe.mixup_alpha:g}"
    )


if __name__ == "__main__":
    code = main()
    threading.excepthook = lambda _: None
    sys.stderr.flush()
    os._exit(code)  # threads of a stopped run must not keep the process alive
