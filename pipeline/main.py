"""`python -m pipeline.main`: parse, plan, build the graph, run it, report. Defines nothing that gets pickled."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters of TensorFlow's errors is raised, too

from pipeline import bottleneck, console, options, plan, reach, run, runners, weights
from pipeline.console import say
from pipeline.dry_run import run as dry_run
from pipeline.flags import RequestError
from pipeline.report import Report
from pipeline.signals import Stopped
from transforms import counters, metrics
from transforms.commit import request
from transforms.manifest import write_manifest
from transforms.storage import door, retrying


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit code: 0 done, 2 wrong request, 3 too many failures, 1 anything else."""
    argv = sys.argv[1:] if argv is None else argv
    report = Report(options.report_file(argv))
    try:
        config, beam_options = options.parse(argv)
        runner = runners.name_of(beam_options)
        console.configure_logging(runner)
        paths = (*config.inputs, config.output, config.model.model.uri)
        reach.check(beam_options, runner, paths)
        door.configure(beam_options)
        with retrying.hurried():
            made = plan.make(config, weights.identify(config.model, runner == runners.LOCAL))
        for note in made.notes:
            say(note)
        report.leave_out(made.left_out)
        if config.dry_run:
            return report.looked(dry_run.run(config, made))
        if config.overwrite and made.stale and runner == runners.LOCAL:
            run.check_model(config, beam_options, runner)  # before anything of the old output goes
        with retrying.hurried():
            plan.prepare(made)
    except RequestError as error:
        return report.refused(str(error))
    except Exception as error:
        return report.failed(error)
    began, result = time.monotonic(), None
    counters.PROCESS.batch_fitted = 0
    say(made.summary(runner))
    if made.todo:
        try:
            result = run.run(config, made, beam_options, runner)
            if result is None:
                return report.submitted(runner)
        except Exception as error:
            if runner == runners.LOCAL:  # whose workers end with this process
                with contextlib.suppress(Exception):  # a store that failed the run may fail here too
                    request.leave(made.layout, made.listing)
            if isinstance(error, Stopped):
                return report.stopped(str(error), made)
            return (
                report.refused(str(error)) if isinstance(error, RequestError) else report.failed(error, made)
            )
    else:  # the run before may have been killed between its last receipt and its end
        write_manifest(made.layout, made.fingerprint, len(made.shards))
    seconds, counts = time.monotonic() - began, metrics.read(result) if result else None
    workers = runners.workers(beam_options, runner)
    verdict = bottleneck.judge(counts, config, made, workers) if counts else None
    return report.finished(config, made, runner, seconds, counts, verdict)


if __name__ == "__main__":
    code = main()
    # Exit functions end the job servers that Beam started; threads that read from one complain of its end.
    threading.excepthook = lambda _: None
    atexit._run_exitfuncs()
    sys.stderr.flush()
    # Threads of a run that was stopped, or of an engine, must not keep the process.
    os._exit(code)
