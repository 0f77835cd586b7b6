"""`python -m pipeline.verify OUTPUT`: checks that a job's output is complete and consistent. Reads only the output."""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Iterator, Sequence

from apache_beam.io.filesystem import BeamIOError

from bit.command import exit_with
from pipeline import flags, of_output
from pipeline.console import counted, say
from pipeline.flags import RequestError
from pipeline.reach import Unreachable
from transforms.commit import arrays, receipts, request
from transforms.commit.audit import Problem, check_shard
from transforms.commit.layout import MANIFEST, OF_SHARDS, REQUEST, Layout, label_of, order, receipt_name
from transforms.commit.receipts import Receipt
from transforms.manifest import manifest
from transforms.sources import kinds
from transforms.storage import door

COMPLETE, BROKEN, NO_OUTPUT = 0, 1, 2
_EPILOG = """\
Beam's options for the access to stores are accepted too. All messages go to stderr.

exit codes: 0 complete and consistent, 1 problems, or a store does not answer, 2 the folder holds no output,
or the request is wrong
"""


class NoOutput(ValueError):
    """The folder does not hold the output of a job."""


def _parser() -> flags.Parser:
    out = of_output.parser(
        "verify",
        "[flags]",
        "Checks the output of a job: checksums, counts, order, dimensions, receipts and manifest.",
        _EPILOG,
    )
    out.add_argument(
        "--json",
        action="store_true",
        help="print the manifest to stdout, as one line, if there are no problems",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Lists all problems on stderr; returns 0 if there are none, 1 if there are some, 2 if there is no output.

    A store that does not answer gives 1, a wrong request 2."""
    try:
        arguments, beam_options = of_output.parse(sys.argv[1:] if argv is None else argv, _parser())
        folder = arguments.output
        of_output.enter(beam_options, "verify", folder)
        layout, count, unfinished = Layout(folder), 0, 0
        for problem in check_folder(layout):
            say(str(problem))
            count += 1
            unfinished += problem.is_unfinished
        totals = json.loads(door.read_bytes(layout.manifest)) if not count else {}
    except (RequestError, NoOutput, BeamIOError, ImportError) as error:
        say(f"error: {error}")
        return NO_OUTPUT
    except Unreachable as error:
        say(f"error: {error}")
        return BROKEN
    if count:
        remedy = (
            "the job has not finished: run it again to resume"
            if unfinished == count
            else "delete the receipts of the shards named, then run the job again: it redoes those shards"
        )
        say(f"error: {folder}: {counted(count, 'problem')}; {remedy}")
        return BROKEN
    counts = [counted(totals[name], name.removesuffix("s")) for name in ("shards", "features", "failures")]
    say(f"{folder}: {', '.join(counts)}: complete")
    if arguments.json:
        print(json.dumps(totals))
    return COMPLETE


def check_folder(layout: Layout) -> Iterator[Problem]:
    """All problems of an output folder. Raises NoOutput if it is not one."""
    root = len(door.local(layout.folder))
    files = door.match(door.join(layout.folder, "**"))
    present = {door.local(file.path)[root:].lstrip("/") for file in files}
    labels = sorted(filter(None, map(label_of, present)), key=order)
    if not labels and MANIFEST not in present:
        raise NoOutput(
            f"{layout.folder} holds no output of this job: it has neither a manifest nor a receipt"
        )
    done: list[Receipt] = []
    for label in labels:
        path = layout.receipt(label)
        try:
            receipt = Receipt.from_json(door.read_bytes(path))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            yield Problem(path, f"is not a receipt: {error}")
            continue
        if receipt.shard != label:
            yield Problem(path, f"is the receipt of shard {receipt.shard}")
            continue
        if receipt.replacing:
            yield Problem(
                path, "a retry of the shard's failures was killed: run the job again to complete it", True
            )
            continue
        done.append(receipt)
        yield from check_shard(layout, receipt, kinds.keys(receipt.name, receipt.input, layout.listing))
    yield from _between(layout, done)
    yield from _manifest(layout, done, MANIFEST in present)
    if REQUEST in present:
        try:
            request.kept(layout)
        except request.NotARequest as error:
            yield Problem(layout.request, str(error).removeprefix(f"{layout.request} "))
    of_shards = {receipt_name(label) for label in labels}
    of_shards |= {file.name for receipt in done for file in receipt.files}
    yield from _stray(layout, present - of_shards, MANIFEST in present)


def _between(layout: Layout, done: Sequence[Receipt]) -> Iterator[Problem]:
    """Missing receipts, and receipts that do not belong together."""
    if not done:
        return
    first = done[0]
    of = int(first.shard.split("-of-")[1])
    expected = {f"{index:05d}-of-{of:05d}" for index in range(of)}
    labels = {receipt.shard for receipt in done}
    for label in sorted(expected - labels, key=order):
        yield Problem(layout.receipt(label), "is missing: the shard is not done", True)
    for label in sorted(labels - expected, key=order):
        yield Problem(layout.receipt(label), f"is of another job than {first.shard}: not one of {of} shards")
    for receipt in done[1:]:
        for name, (old, new) in receipts.conflicts(first.fingerprint, receipt.fingerprint).items():
            path = layout.receipt(receipt.shard)
            yield Problem(path, f"{name} is {new!r}, but {old!r} in shard {first.shard}")
    try:
        arrays.check(layout, done)
    except arrays.OtherWeights as error:
        yield Problem(layout.receipts, str(error))
    sizes = {name: size for receipt in done for name, size in receipt.outputs.items()}
    for receipt in done:
        if receipt.features and dict(receipt.outputs) != sizes:
            path = layout.receipt(receipt.shard)
            yield Problem(path, f"outputs of sizes {dict(receipt.outputs)}, but {sizes} in other shards")


def _manifest(layout: Layout, done: Sequence[Receipt], is_there: bool) -> Iterator[Problem]:
    if not is_there:
        yield Problem(layout.manifest, "is missing: the job has not finished; run it again to resume", True)
        return
    try:
        actual = json.loads(door.read_bytes(layout.manifest))
        shards = int(actual["shards"])
    except (ValueError, TypeError, KeyError) as error:
        yield Problem(layout.manifest, f"is not a manifest: {error!r}")
        return
    fingerprint = done[0].fingerprint if done else {}
    expected = json.loads(manifest(done, fingerprint, shards))
    if not done and not shards:  # earlier outputs held all of the input: no receipt says what was requested
        actual = {name: actual.get(name) for name in expected}
    for name, (value, derived) in receipts.differences(actual, expected).items():
        if name == receipts.NAME_ONLY and value in [r.fingerprint["model"]["name"] for r in done]:
            continue  # one of several names of the same weights
        yield Problem(layout.manifest, f"{name} is {value!r}, but {derived!r} by the receipts")
    if shards != len(done):
        yield Problem(layout.manifest, f"counts {shards} shards, but {len(done)} have a receipt")


def _stray(layout: Layout, names: set[str], is_finished: bool) -> Iterator[Problem]:
    """Those of the files that only this job can have written. Other files in the folder are the user's."""
    for name in sorted(names):
        is_ours = name.startswith(OF_SHARDS) or door.is_temporary(name)
        if is_ours and not posixpath.basename(name).startswith("."):  # as file managers leave some
            path = door.join(layout.folder, name)
            yield Problem(path, "belongs to no committed shard", not is_finished)


if __name__ == "__main__":
    exit_with(main)
