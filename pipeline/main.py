"""`python -m pipeline.main`: parses, plans, builds and runs the graph, and reports. Defines nothing that gets pickled."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors that matter are raised, too

from pipeline import bottleneck, console, options, plan, prepare, reach, run, runners, weights
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
    """Runs the job; returns the exit code: 0 done, 2 wrong request, 3 too many failures, 1 any other error."""
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
            config = weights.described(config, runner == runners.LOCAL)
            job_plan = plan.make(config, weights.identify(config.model, runner == runners.LOCAL))
        for note in job_plan.notes:
            say(note)
        report.left_out(job_plan.left_out)
        if config.dry_run:
            return report.dry_run(dry_run.run(config, job_plan))
        if config.overwrite and job_plan.state.stale and runner == runners.LOCAL:
            run.check_model(config, beam_options, runner)  # before any old output is deleted
        with retrying.hurried():
            prepare.prepare(job_plan)
    except RequestError as error:
        return report.refused(str(error))
    except Exception as error:
        return report.failed(error)
    began, result = time.monotonic(), None
    counters.PROCESS.batch_fitted = 0
    say(job_plan.summary(runner))
    if job_plan.todo:
        try:
            result = run.run(config, job_plan, beam_options, runner)
            if result is None:
                return report.submitted(runner)
        except Exception as error:
            if runner == runners.LOCAL:  # whose workers end with this process
                with contextlib.suppress(Exception):  # a store that failed the run may fail here too
                    request.leave(job_plan.layout, job_plan.listing)
            if isinstance(error, Stopped):
                return report.stopped(str(error), job_plan)
            if isinstance(error, RequestError):
                return report.refused(str(error))
            return report.failed(error, job_plan)
    else:  # an earlier run may have been killed between its last receipt and the manifest
        write_manifest(job_plan.layout, job_plan.fingerprint, len(job_plan.shards))
    seconds, counts = time.monotonic() - began, metrics.read(result) if result else None
    workers = runners.workers(beam_options, runner)
    held_back_by = bottleneck.find(counts, config, job_plan, workers) if counts else None
    return report.finished(config, job_plan, runner, seconds, counts, held_back_by)


if __name__ == "__main__":
    code = main()
    # Exit functions stop the job servers that Beam started; threads that read from them would log errors.
    threading.excepthook = lambda _: None
    atexit._run_exitfuncs()
    sys.stderr.flush()
    # Threads of a stopped run, or of an engine, must not keep the process alive.
    os._exit(code)
