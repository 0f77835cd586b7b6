"""`python -m pipeline.main`: parses, plans, builds and runs the graph, and reports. Defines nothing that gets pickled."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence

from bit import home

os.environ.update(home.settled())  # before Beam is imported, which has a folder there

from pipeline import (
    bottleneck,
    console,
    options,
    plan,
    prepare,
    reach,
    repeat,
    run,
    runners,
    weights,
    worker_image,
)
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
    report, started = Report(options.report_file(argv)), time.monotonic()
    try:
        config, beam_options = options.parse(argv, repeat.kept_in)
        runner = runners.name_of(beam_options)
        console.configure_logging(runner)
        if home.notice:
            say(home.notice)
        if note := worker_image.check(beam_options, runner):
            say(note)
        paths = (*config.inputs, config.output, *(() if config.model.offline else (config.model.model.uri,)))
        reach.check(beam_options, runner, paths, config.read.fetch)
        door.configure(beam_options)
        runners.name_job(beam_options, runner, config.output)
        on_flink = None if config.dry_run else runners.on_flink(beam_options, runner)
        earlier = on_flink is not None and run.is_at_work(on_flink)
        with retrying.hurried():
            report.check()
            config = weights.described(config, runner == runners.LOCAL)
            identity = weights.identify(config.model, runner == runners.LOCAL)
            job_plan = plan.make(config, identity)
        for note in job_plan.notes:
            say(note)
        report.left_out(job_plan.left_out)
        if config.dry_run:
            return report.dry_run(dry_run.run(config, job_plan))
        if config.overwrite and job_plan.state.stale and runner == runners.LOCAL:
            run.check_model(config, beam_options, runner)  # before any old output is deleted
        if on_flink and earlier:
            if config.overwrite:
                say("--overwrite: canceling it")
                on_flink.end()
            else:
                with retrying.hurried():
                    prepare.prepare(job_plan)  # refuses another request
                run.await_end(on_flink, run.display(config, job_plan, beam_options, runner))
            with retrying.hurried():
                job_plan = plan.make(config, identity)
        with retrying.hurried():
            prepare.prepare(job_plan)
    except RequestError as error:
        return report.refused(str(error))
    except Stopped as error:
        return report.stopped(error, job_plan, time.monotonic() - started)
    except Exception as error:
        return report.failed(error)
    began, result = time.monotonic(), None
    counters.PROCESS.batch_fitted = 0
    if job_plan.shards:
        say(job_plan.summary(config.model, runner))
    if job_plan.todo:
        try:
            result = run.run(config, job_plan, beam_options, runner)
            if result is None:
                return report.submitted(runner)
        except Exception as error:
            if runner == runners.LOCAL:  # whose workers end with this process
                # A store that failed the run may fail here too.
                with contextlib.suppress(Exception), retrying.hurried(retrying.AFTER_A_FAILURE_SECONDS):
                    request.leave(
                        job_plan.layout, {**job_plan.lists, job_plan.layout.request: job_plan.request}
                    )
            if isinstance(error, Stopped):
                return report.stopped(error, job_plan, time.monotonic() - began)
            if isinstance(error, RequestError):
                return report.refused(str(error))
            return report.failed(error, job_plan, time.monotonic() - began)
    else:  # an earlier run may have been killed between its last receipt and the manifest
        write_manifest(job_plan.layout, job_plan.fingerprint, len(job_plan.shards))
    seconds, counts = time.monotonic() - began, metrics.read(result) if result else None
    workers = runners.workers(beam_options, runner)
    held_back_by = bottleneck.find(counts, config, job_plan, workers) if counts else None
    return report.finished(config, job_plan, runner, seconds, counts, held_back_by)


if __name__ == "__main__":
    console.leave(main)
