"""`python -m pipeline.export OUTPUT --to=FOLDER --format=parquet`: features in the forms that other tools read."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from bit import home

os.environ.update(home.settled())  # before Beam is imported, which has a folder there

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import console, export_plan, flags, of_output, options, progress, reach, run, runners
from pipeline.console import counted, say
from pipeline.flags import RequestError
from pipeline.report import DONE, FAILED, WRONG_REQUEST, root_cause
from pipeline.signals import Stopped
from transforms import counters
from transforms.exporting import formats, steps
from transforms.storage import retrying

_EPILOG = """\
an example of each format:
  python -m pipeline.export gs://bucket/features --format=parquet --to=gs://bucket/parquet
  python -m pipeline.export local/features --format=npy --dtype=float16 --to=local/npy
  python -m pipeline.export local/features --format=tensorboard --to=local/projector

Options of Beam and its runners are accepted too. The same command resumes an export that was
stopped. All messages go to stderr.

exit codes: 0 done, 1 failed or stopped, 2 the request is wrong, and nothing was started
"""


def parser() -> flags.Parser:
    """The parser of this command's own flags."""
    out = of_output.parser(
        "export",
        "--to=FOLDER --format=parquet|npy|tensorboard [flags]",
        "Writes the features of a job in a form that other tools read, one file per shard.",
        _EPILOG,
        partial="export the committed shards of an unfinished job",
    )
    out.add_argument("--to", default="", metavar="FOLDER", help="folder to write to (required)")
    out.add_argument(
        "--format",
        default="",
        choices=[format.name for format in formats.FORMATS],
        help="Parquet files; .npy files in the layout of clip-retrieval; TensorBoard's projector (required)",
    )
    out.add_argument(
        "--dtype", default="float32", choices=("float32", "float16"), help="of vectors (default: %(default)s)"
    )
    out.add_argument(
        "--normalize",
        default="none",
        choices=("none", "l2"),
        help="divide each embedding by its L2 norm, so that its dot products are cosines (default: %(default)s)",
    )
    out.add_argument(
        "--limit",
        type=flags.positive,
        default=10_000,
        metavar="N",
        help="tensorboard: rows at most, evenly spread (default: %(default)s)",
    )
    of_output.add_pictures(out, "pictures, for tensorboard")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Exports; returns the exit code: 0 done, 2 wrong request, 1 any other error."""
    argv = sys.argv[1:] if argv is None else argv
    plan = None
    try:
        arguments, beam_options = parse(argv)
        runner = runners.name_of(beam_options)
        console.configure_logging(runner)
        if home.notice:
            say(home.notice)
        paths = of_output.paths(arguments)
        reach.enter(beam_options, runner, paths, arguments.fetch)
        runners.name_job(beam_options, runner, arguments.to)
        on_flink = runners.on_flink(beam_options, runner)
        earlier = on_flink is not None and run.is_at_work(on_flink)
        plan = _plan(arguments, beam_options)
        for note in plan.notes:
            say(note)
        if on_flink and earlier:  # of the same request: another one has been refused
            run.await_end(on_flink, ExportProgress(plan, in_process=False) if plan.todo else None)
            plan = _plan(arguments, beam_options)
        return _run(plan, paths, beam_options, runner)
    except RequestError as error:
        say(f"error: {error}")
        return WRONG_REQUEST
    except Stopped as error:
        state = (
            f"{len(plan.parts) - len(plan.left())} of {counted(len(plan.parts), 'shard')} exported; "
            if plan
            else ""
        )
        say(f"stopped by {error}: {state}run the same command again to resume")
        return FAILED
    except Exception as error:
        say(f"error: {root_cause(error)}")
        return FAILED


def _plan(arguments: argparse.Namespace, beam_options: PipelineOptions) -> export_plan.Plan:
    """What is to be done, with the request noted in the folder. Raises RequestError."""
    with retrying.hurried():
        plan = export_plan.make(arguments, beam_options)
        if plan.todo:
            export_plan.enter(plan)
    return plan


def _run(plan: export_plan.Plan, paths: Sequence[str], beam_options: PipelineOptions, runner: str) -> int:
    """Carries the plan out, and says what came of it."""
    export, began = plan.export, time.monotonic()
    if plan.todo:
        say(f"{len(plan.todo)} of {counted(len(plan.parts), 'shard')} to export with {runner}")
        display = ExportProgress(plan, runners.in_process(beam_options, runner))
        if run.follow(plan.define, display, paths, beam_options, runner) is None:
            say(f"submitted to {runner}")
            return DONE
    elif not plan.is_finished:
        steps.finish(export)
    if left := plan.left():
        raise RuntimeError(
            f"{len(left)} of {counted(len(plan.parts), 'shard')} not exported although {runner} ended without an error: run the "
            "same command again to do them"
        )
    if plan.todo:
        rows, seconds = sum(part.rows for part in plan.todo), time.monotonic() - began
        say(f"{counted(rows, 'record')} in {seconds:.1f} s ({progress.speed(rows / seconds)})")
    else:
        say("nothing to do: all shards are exported already")
    rows = min(export.limit, export.rows) if plan.is_sample else export.rows
    say(f"{export.place.folder}: {counted(rows, 'record')}")
    return DONE


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong."""
    arguments, beam_options = of_output.parse(
        argv, parser(), "to", "format", needs_pictures=lambda given: given.format == "tensorboard"
    )
    arguments.to = options.folder("--to", arguments.to)
    if arguments.to == arguments.output:
        raise RequestError(f"--to={arguments.to} is the output of the job: name another folder")
    if arguments.input and arguments.format != "tensorboard":
        raise RequestError(
            f"--input is for the pictures of --format=tensorboard: omit it with {arguments.format}"
        )
    return arguments, beam_options


class ExportProgress(progress.Display):
    """Follows an export: by this process's counts if the workers are in it, else by the files that appear."""

    def __init__(self, plan: export_plan.Plan, in_process: bool):
        super().__init__(in_process)
        self._plan = plan
        self._rows = sum(part.rows for part in plan.todo)
        self._before = counters.PROCESS.counts()

    def line(self) -> str:
        """The state of the run now, as shown to the user."""
        total = len(self._plan.todo)
        if not self._in_process:
            return f"shard {total - len(self._plan.left())}/{total}"
        now, before = counters.PROCESS.counts(), self._before
        rows, read = now.out_features - before.out_features, now.in_images - before.in_images
        if not rows:
            return f"{read:,}/{self._plan.export.rows:,} records read for the types of their columns"
        seconds = time.monotonic() - self._began
        rest = progress.duration(seconds * (self._rows - rows) / rows)
        shards = now.shards - before.shards
        return f"{rows:,}/{self._rows:,} records, {progress.speed(rows / seconds)}, shard {shards}/{total}, about {rest} left"


if __name__ == "__main__":
    console.leave(main)
