"""How a run ended: a few lines on stderr, the same as JSON in --report_file, and the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline import failures as failed_inputs
from pipeline import progress
from pipeline.bottleneck import Bottleneck, stage_seconds
from pipeline.console import counted, say
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from pipeline.plan import Plan
from pipeline.signals import Stopped
from transforms import counters
from transforms.commit import receipts
from transforms.counters import Counts
from transforms.fetching.uris import public_uri
from transforms.sources import finding
from transforms.storage import door, retrying
from transforms.storage.errors import StorageFailed, is_transient

DONE, FAILED, WRONG_REQUEST, TOO_MANY_FAILURES = 0, 1, 2, 3


class Report:
    """Reports how the run ended, to stderr and to the file at `path`; each method for an ending returns its exit code."""

    def __init__(self, path: str = ""):
        self._path = path
        self._left_out: Mapping[str, str] = {}

    def check(self) -> None:
        """Raises RequestError if the file could not be written, before a run of hours ends with that."""
        if not self._path:
            return
        path, probe = self._path, f"{self._path}.probe"
        try:
            if door.is_local(path) and os.path.exists(local := door.local(path)) and not _is_file(local):
                raise OSError("it is no file, and the report would take its place")
            door.write_atomic(probe, b"")
            with contextlib.suppress(StorageFailed):  # where one may write, and not delete
                door.delete([probe])
        except (OSError, BeamIOError, ValueError, ImportError) as error:
            if is_transient(error):
                raise
            self._path = ""
            raise RequestError(
                f"--report_file={path} cannot be written: {door.explain(path, error)}"
            ) from error

    def left_out(self, paths: Mapping[str, str]) -> None:
        """Reports files in the input's folders that are not input: path -> reason."""
        self._left_out = paths
        if paths:
            listed = "; --report_file lists them" if not self._path else ""
            say(f"left out {counted(len(paths), 'file')}: {finding.summary(paths)}{listed}")

    def refused(self, reason: str) -> int:
        """The request is wrong, and nothing was started."""
        say(f"error: {reason}")
        return self._end(WRONG_REQUEST, {"status": "refused", "error": reason})

    def dry_run(self, lines: Sequence[str]) -> int:
        """The results of a dry run."""
        for line in lines:
            say(line)
        return self._end(DONE, {"status": "dry_run", "found": list(lines)})

    def failed(self, error: BaseException, plan: Plan | None = None, seconds: float = 0.0) -> int:
        """The run ended with an error; `plan` if it got that far, and how long it ran."""
        reason = root_cause(error)
        say(f"error: {reason}")
        state: dict[str, Any] = {}
        if plan:
            try:
                with retrying.hurried(retrying.AFTER_A_FAILURE_SECONDS):
                    state = {**_shards(plan), "seconds": round(seconds, 3)}
            except Exception as second:  # the store that failed the run may fail here too
                state = {"shards": len(plan.shards), "shards_done_unknown": str(second)}
        return self._end(FAILED, {"status": "failed", "error": reason, **state})

    def stopped(self, error: Stopped, plan: Plan, seconds: float) -> int:
        """A signal stopped the run after `seconds`."""
        state = _shards(plan)
        say(
            f"stopped by {error} after {progress.duration(seconds)} and {counted(error.images, 'image')}: "
            f"{state['shards_done']} of {counted(state['shards'], 'shard')} committed; run the same command again to resume"
        )
        reason = {"error": str(error), "images": error.images, "seconds": round(seconds, 3)}
        return self._end(FAILED, {"status": "stopped", **reason, **state})

    def submitted(self, runner: str) -> int:
        """The engine has accepted the job; the launcher does not wait for its end."""
        say(f"submitted to {runner}")
        return self._end(DONE, {"status": "submitted", "runner": runner})

    def finished(
        self,
        config: JobConfig,
        plan: Plan,
        runner: str,
        seconds: float,
        counts: Counts | None,
        bottleneck: Bottleneck | None,
    ) -> int:
        """The run ended without an error: reports on the complete output, earlier runs included, from the manifest.

        `counts` and `bottleneck` are of this run; None where unknown.
        """
        manifest = json.loads(door.read_bytes(plan.layout.manifest))
        if manifest["shards_done"] != len(plan.shards):
            missing = len(plan.shards) - manifest["shards_done"]
            lost = RuntimeError(
                f"{missing} of {counted(len(plan.shards), 'shard')} without a receipt in {config.output} although {runner} ended "
                "without an error: run the same command again to do them"
            )
            return self.failed(lost, plan)
        inputs, features, failures = (manifest[name] for name in ("inputs", "features", "failures"))
        earlier = (
            sum(receipt.inputs for receipt in (*plan.state.done, *plan.state.retried)) - plan.tried_again
        )
        rate = failures / inputs if inputs else 0.0
        smaller_batch = counters.PROCESS.batch_fitted
        too_many = rate > config.max_failure_rate or (inputs > 0 and features == 0)
        if plan.todo:
            speed = (inputs - earlier) / seconds if seconds else 0.0
            say(f"{counted(inputs - earlier, 'image')} in {seconds:.1f} s ({progress.speed(speed)})")
            if bottleneck:
                say(bottleneck.line())
            if smaller_batch:
                say(
                    f"batches of {config.model.batch_size} images were too large for the device's memory: "
                    f"--batch_size={smaller_batch} would fit from the start"
                )
        elif not plan.shards:
            say("nothing to do: the outputs in --skip_done hold all of the input")
        elif config.retry_failures:
            say("nothing to do: there is no failure that could be retried")
        else:
            say("nothing to do: all shards are committed already")
        say(f"{config.output}: {counted(features, 'feature')}, {counted(failures, 'failure')}")
        for line in failed_inputs.lines(config, plan.layout, runner, manifest["failures_by_code"]):
            say(line)
        if unfit := manifest.get("unfit_values"):
            say(
                f"{counted(unfit, 'value')} of --pass_through did not fit the type of the column and "
                f"{'are' if unfit != 1 else 'is'} left empty: --pass_through=NAME:bytes with a new --output keeps any value"
            )
        if unused := manifest.get("unused_images"):
            say(
                f"{counted(unused, 'image lies', 'images lie')} in tars beside the first one of a sample and "
                f"{'are' if unused != 1 else 'is'} not used: --image_feature with a new --output names the one to take; "
                f"unused_images in {plan.layout.receipts} says how many each tar has"
            )
        if manifest["untrained"]:
            say("the weights are untrained: the features have the right shape but no meaning")
        if too_many:
            why = f"more than --max_failure_rate={config.max_failure_rate} allows"
            why = "so there is no feature" if failures == inputs else why
            ledgers = plan.layout.failures("*")
            say(
                f"error: {failures:,} of {counted(inputs, 'image')} failed, {why}; the ledgers {ledgers} say why"
            )
        summary = {
            "status": "too_many_failures" if too_many else "done",
            "output": config.output,
            "runner": runner,
            "shards": len(plan.shards),
            "shards_done_before": len(plan.state.done),
            "inputs": inputs,
            "features": features,
            "failures": failures,
            "failures_by_code": manifest["failures_by_code"],
            "failure_rate": rate,
            "tried_again": plan.tried_again,
            "untrained": manifest["untrained"],
            "unfit_values": manifest.get("unfit_values", 0),
            "unused_images": manifest.get("unused_images", 0),
            "seconds": round(seconds, 3),
            "smaller_batch": smaller_batch or None,
            "counters": counts.metrics() if counts else None,
            "stage_seconds": stage_seconds(counts) if counts else None,
            "verdict": asdict(bottleneck) if bottleneck else None,
        }
        return self._end(TOO_MANY_FAILURES if too_many else DONE, summary)

    def _end(self, code: int, summary: dict[str, Any]) -> int:
        if self._path:
            if self._left_out:
                paths = {public_uri(path): why for path, why in self._left_out.items()}
                summary = {**summary, "left_out": paths}
            content = json.dumps({**summary, "exit_code": code}, indent=1, sort_keys=True) + "\n"
            try:
                door.write_atomic(self._path, content.encode())
            except (OSError, ValueError) as error:
                say(f"error: --report_file={self._path} cannot be written: {error}")
                return code or FAILED
        return code


def _shards(plan: Plan) -> dict[str, Any]:
    done = receipts.labels(plan.layout)
    return {"shards": len(plan.shards), "shards_done": len(done)}


def root_cause(error: BaseException) -> str:
    """The cause of a failure, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if any(c.isalnum() for c in line)]
    traced = any("Traceback (most recent call last)" in line for line in lines)
    # Beam passes on a worker's traceback as text, which ends with the cause; other errors begin with it.
    last = (lines[-1] if traced else " ".join(lines)[:1000]) if lines else ""
    text = f"{type(error).__name__}: {last}" if last else type(error).__name__
    return re.sub(r"^(RuntimeError: )+([\w.]+\.)?(?=\w+(Error|Exception|Shard|Failed|Commit): )", "", text)


def _is_file(path: str) -> bool:
    """Whether a name stands for a regular file, and not for whatever a descriptor of this process is."""
    return os.path.isfile(path) and not path.startswith(("/dev/", "/proc/"))
