"""How a run ended: a few lines on stderr, the same as JSON in --report_file, and the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline import progress
from pipeline.bottleneck import Verdict, stage_seconds
from pipeline.console import say
from pipeline.options import JobConfig
from pipeline.plan import Plan
from transforms import counters
from transforms.commit import receipts
from transforms.counters import Counts
from transforms.fetching.uris import public_uri
from transforms.sources import finding
from transforms.storage import door

DONE, FAILED, WRONG_REQUEST, TOO_MANY_FAILURES = 0, 1, 2, 3


class Report:
    """Says how the run ended and returns the exit code that goes with it."""

    def __init__(self, path: str = ""):
        self._path = path
        self._left_out: Mapping[str, str] = {}

    def leave_out(self, paths: Mapping[str, str]) -> None:
        """Says which files of the input's folders are not input: path -> reason."""
        self._left_out = paths
        if paths:
            listed = "; --report_file lists them" if not self._path else ""
            say(f"left out {len(paths)} file{'s' * (len(paths) != 1)}: {finding.summary(paths)}{listed}")

    def refused(self, reason: str) -> int:
        say(f"error: {reason}")
        return self._end(WRONG_REQUEST, {"status": "refused", "error": reason})

    def looked(self, lines: Sequence[str]) -> int:
        """What a dry run found."""
        for line in lines:
            say(line)
        return self._end(DONE, {"status": "dry_run", "found": list(lines)})

    def failed(self, error: BaseException, plan: Plan | None = None) -> int:
        reason = _root_cause(error)
        say(f"error: {reason}")
        state: dict[str, Any] = {}
        if plan:
            try:
                state = _kept(plan)
            except Exception as second:  # the store that failed the run may fail here too
                state = {"shards": len(plan.shards), "shards_done_unknown": str(second)}
        return self._end(FAILED, {"status": "failed", "error": reason, **state})

    def stopped(self, name: str, plan: Plan) -> int:
        state = _kept(plan)
        say(
            f"stopped by {name}: {state['shards_done']} of {state['shards']} shards are committed; run again to go on"
        )
        return self._end(FAILED, {"status": "stopped", "error": name, **state})

    def submitted(self, runner: str) -> int:
        """The engine took the job and the launcher does not wait for it."""
        say(f"submitted to {runner}")
        return self._end(DONE, {"status": "submitted", "runner": runner})

    def finished(
        self,
        config: JobConfig,
        plan: Plan,
        runner: str,
        seconds: float,
        counts: Counts | None,
        verdict: Verdict | None,
    ) -> int:
        """Sums the whole output up, earlier runs included, from its receipts.

        `counts` is what the workers counted in this run, `verdict` that on what held them back; None where unknown.
        """
        manifest = json.loads(door.read_bytes(plan.layout.manifest))
        if manifest["shards_done"] != len(plan.shards):
            missing = len(plan.shards) - manifest["shards_done"]
            lost = RuntimeError(
                f"{missing} of {len(plan.shards)} shards have no receipt in {config.output} although {runner} ended "
                "without an error: run the same command again to do them"
            )
            return self.failed(lost, plan)
        inputs, features, failures = (manifest[name] for name in ("inputs", "features", "failures"))
        earlier = sum(receipt.inputs for receipt in (*plan.done, *plan.retried)) - plan.tried_again
        rate = failures / inputs if inputs else 0.0
        smaller_batch = counters.PROCESS.batch_fitted
        too_many = rate > config.max_failure_rate or (inputs > 0 and features == 0)
        if plan.todo:
            speed = (inputs - earlier) / seconds if seconds else 0.0
            say(f"{inputs - earlier} images in {seconds:.1f} s ({progress.speed(speed)})")
            if verdict:
                say(verdict.line())
            if smaller_batch:
                say(
                    f"batches of {config.model.batch_size} images were too large for the device's memory: "
                    f"--batch_size={smaller_batch} starts with what fitted"
                )
        elif config.retry_failures:
            say("nothing to do: there is no failure that could be tried again")
        else:
            say("nothing to do: every shard is committed already")
        codes = ", ".join(f"{code}: {count}" for code, count in manifest["failures_by_code"].items())
        say(f"{config.output}: {features} features, {failures} failures{f' ({codes})' if codes else ''}")
        if manifest["untrained"]:
            say("the weights are untrained: the features have the right shape and no meaning")
        if too_many:
            say(
                f"error: {failures} of {inputs} images failed, more than --max_failure_rate={config.max_failure_rate} "
                f"allows; the ledgers {plan.layout.failures('*')} say why"
            )
        summary = {
            "status": "too_many_failures" if too_many else "done",
            "output": config.output,
            "runner": runner,
            "shards": len(plan.shards),
            "shards_done_before": len(plan.done),
            "inputs": inputs,
            "features": features,
            "failures": failures,
            "failures_by_code": manifest["failures_by_code"],
            "failure_rate": rate,
            "tried_again": plan.tried_again,
            "untrained": manifest["untrained"],
            "seconds": round(seconds, 3),
            "smaller_batch": smaller_batch or None,
            "counters": counts.metrics() if counts else None,
            "stage_seconds": stage_seconds(counts) if counts else None,
            "verdict": asdict(verdict) if verdict else None,
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


def _kept(plan: Plan) -> dict[str, Any]:
    done = receipts.labels(plan.layout)
    return {"shards": len(plan.shards), "shards_done": len(done)}


def _root_cause(error: BaseException) -> str:
    """What went wrong in one line."""
    lines = [line.strip() for line in str(error).splitlines() if any(c.isalnum() for c in line)]
    traced = any("Traceback (most recent call last)" in line for line in lines)
    # Beam passes a worker's traceback on as text; other errors of several lines say the cause in the first ones.
    last = (lines[-1] if traced else " ".join(lines)[:1000]) if lines else ""
    told = f"{type(error).__name__}: {last}" if last else type(error).__name__
    return re.sub(r"^(RuntimeError: )+([\w.]+\.)?(?=\w+(Error|Exception|Shard|Failed|Commit): )", "", told)
