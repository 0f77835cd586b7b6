"""`python -m pipeline.duplicates OUTPUT --to=duplicates.parquet`: pictures that are the same, or nearly so."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import console, duplicates_plan, flags, of_output, options, progress, runners
from pipeline.console import say
from pipeline.duplicates_plan import SUFFIX
from pipeline.flags import RequestError
from pipeline.report import DONE, FAILED, WRONG_REQUEST, root_cause
from pipeline.signals import Signals, Stopped
from transforms.similarity import exact, index, pictures, table
from transforms.similarity.groups import Groups
from transforms.storage import retrying

_EPILOG = """\
examples:
  python -m pipeline.duplicates local/features --to=local/duplicates.parquet
  python -m pipeline.duplicates 'features/*' --to=duplicates.parquet      several outputs of one request
  python -m pipeline.duplicates gs://bucket/features --to=gs://bucket/duplicates.parquet --threshold=0.9

Beside duplicates.parquet it writes duplicates.drop.jsonl, the keys to drop, each as a JSON string.
It runs in this process, and takes Beam's options for the access to stores. All messages go to stderr.

exit codes: 0 done, 1 failed or stopped, 2 the request is wrong, and nothing was started
"""


def parser() -> flags.Parser:
    """The parser of this command's own flags."""
    out = of_output.parser(
        "duplicates",
        "--to=FILE.parquet [flags]",
        "Finds pictures of equal bytes, and pictures whose embeddings have a high cosine similarity.",
        _EPILOG,
        partial="take the committed shards of an unfinished job",
    )
    out.add_argument("--to", default="", metavar="FILE.parquet", help="file to write to (required)")
    of_output.add_threshold(out)
    out.add_argument(
        "--exact_limit",
        type=flags.positive,
        default=200_000,
        metavar="N",
        help="compare all pairs of up to N distinct vectors; of more, those that an index proposes (default: %(default)s)",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Finds duplicates; returns the exit code: 0 done, 2 wrong request, 1 any other error."""
    try:
        arguments, beam_options = parse(sys.argv[1:] if argv is None else argv)
        console.configure_logging(runners.LOCAL)
        of_output.enter(beam_options, "duplicates", arguments.output, arguments.to)
        with retrying.hurried():
            plan = duplicates_plan.make(arguments)
        if plan.is_done:
            say(f"nothing to do: {plan.to} is there already")
            return DONE
        with Signals() as signals:
            _run(plan, Display(signals))
        return DONE
    except RequestError as error:
        say(f"error: {error}")
        return WRONG_REQUEST
    except Stopped as error:
        say(f"stopped by {error}: nothing was written; the same command starts again")
        return FAILED
    except Exception as error:
        console.show_traceback()
        say(f"error: {root_cause(error)}")
        return FAILED


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong."""
    arguments, beam_options = of_output.parse(argv, parser(), "to", several=True)
    arguments.to = options.folder("--to", arguments.to)
    if not arguments.to.endswith(SUFFIX):
        raise RequestError(f"--to={arguments.to} is not the name of a Parquet file: let it end with {SUFFIX}")
    return arguments, beam_options


class Display(progress.Display):
    """Shows which step is under way and how far it is. Raises Stopped after a signal."""

    def __init__(self, signals: Signals):
        super().__init__(in_process=True)
        self._signals = signals
        self._step, self._done, self._total, self._since = "", 0, 0, 0.0

    def begin(self, step: str) -> None:
        """Names the step that begins."""
        self._step, self._done, self._total, self._since = step, 0, 0, time.monotonic()

    def tick(self, done: int, total: int) -> None:
        """Called from time to time."""
        self._done, self._total = int(done), total
        if self._signals.received:
            console.show("")
            raise self._signals.stopped()
        self.draw()

    def line(self) -> str:
        """The state of the run now, as shown to the user."""
        seconds = time.monotonic() - self._since
        rest = progress.duration(seconds * (self._total - self._done) / max(1, self._done))
        return f"{self._step}: {self._done / max(1, self._total):.1%}, about {rest} left"


def _run(plan: duplicates_plan.Plan, display: Display) -> None:
    """Reads, searches and writes, and says what was found."""
    began, committed = time.monotonic(), plan.committed
    display.begin(f"reading {committed.rows} records")
    every = pictures.collect(plan.batches(), plan.dimensions, lambda n: display.tick(n, committed.rows))
    groups, how = _search(plan, every, display)
    console.show("")
    found = table.members(every, groups.all())
    parts = [(output, part) for output, part in committed.parts if part.rows]
    firsts = np.array([part.first for _, part in parts])
    rows = table.table(every, found, [committed.label(*part) for part in parts], firsts)
    keys, by_row_only = table.drop_keys(every, found)
    about = {"duplicates": plan.request, "search": how, "manifest": json.loads(committed.manifest)}
    table.write(rows, keys, about, plan.to, plan.list_path)
    _tell(rows, len(found.dropped), plan.request["threshold"])
    if every.without_direction:
        say(
            f"vectors that are zero or not finite, of which only the pictures' bytes were compared: {every.without_direction}"
        )
    if by_row_only:
        say(
            f"records to drop with the key of a record to keep: {by_row_only}; they are in the table, by shard "
            "and row, and not in the list"
        )
    if json.loads(committed.manifest)["model"]["name"].startswith("untrained/"):
        say("the weights are untrained: similarities say little about pictures")
    seconds = progress.duration(time.monotonic() - began)
    say(f"{len(every)} records in {seconds}: {plan.to}, {plan.list_path}")


def _search(
    plan: duplicates_plan.Plan, every: pictures.Pictures, display: Display
) -> tuple[Groups, dict[str, Any]]:
    """The groups of distinct vectors, and how they were found."""
    vectors, threshold, groups = every.vectors, plan.request["threshold"], Groups(len(every.vectors))
    if len(vectors) <= plan.request["exact_limit"]:
        display.begin(f"comparing all pairs of {len(vectors)} distinct vectors")
        exact.search(vectors, threshold, groups, display.tick)
        return groups, {"method": "exact"}
    display.begin(f"searching {len(vectors)} distinct vectors with an index")
    index.search(vectors, threshold, groups, display.tick)
    display.begin("measuring the recall")
    recall = exact.recall(vectors, threshold, groups, display.tick)
    console.show("")
    say(
        f"recall against exact search: {recall.share:.4f} ({recall.found} of the {recall.pairs} pairs of {recall.vectors} evenly "
        "spread vectors are in one group)"
    )
    return groups, {"method": "faiss", "recall": recall.share}


def _tell(rows: pa.Table, dropped: int, threshold: float) -> None:
    """Says what was found."""
    groups = len(rows) - dropped
    same = int(np.count_nonzero(rows["same_bytes"].to_numpy() & ~rows["is_representative"].to_numpy()))
    say(
        f"groups: {groups}, with {len(rows)} pictures; to drop: {dropped}, {same} with the bytes of their representative"
    )
    if chained := int(np.count_nonzero(rows["similarity"].to_numpy() < threshold)):
        say(f"alike through others only, less than {threshold:g} similar to their representative: {chained}")


if __name__ == "__main__":
    console.leave(main)
