"""Inputs -> shards, minus those that are done. Reads inputs and receipts; writes nothing."""

from __future__ import annotations

import itertools
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline import inputs, splits
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import receipts, request, retry
from transforms.commit import replace as replacing
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.elements import RecordFile, Shard, UriSlice
from transforms.fetching.uris import public_uri
from transforms.sources import identity, uri_list
from transforms.storage import door

_OURS = re.compile(r"features-\d{5,}-of-\d{5,}\.tfrecord|failures-\d{5,}-of-\d{5,}\.jsonl")


@dataclass(frozen=True)
class Plan:
    """What a run has to do."""

    layout: Layout
    shards: tuple[Shard, ...]
    done: tuple[Receipt, ...]  # of earlier runs, still valid
    todo: tuple[Shard, ...]
    fingerprint: Mapping[str, Any]
    listing: bytes | None  # the image files that a glob or folder matched, when shards refer to such a list
    stale: tuple[str, ...]  # files of an output to be overwritten or redone
    begun: tuple[Receipt, ...] = ()  # replacements of a retry that was killed, to be carried to their end
    retried: tuple[Receipt, ...] = ()  # of the shards of which only the failures are to be done
    notes: tuple[str, ...] = ()  # what the user ought to know

    def summary(self, runner: str) -> str:
        """What there is to do, in one line."""
        again = f", {self.tried_again} failures of {len(self.retried)} of them again" if self.retried else ""
        return f"{len(self.todo)} of {len(self.shards)} shards to do{again} with {runner}"

    @property
    def tried_again(self) -> int:
        """Failures of earlier runs that this one tries again."""
        return sum(shard.retry.inputs for shard in self.todo if shard.retry)

    @property
    def units(self) -> int:
        """Size of what is left: bytes of record files, or rows of lists."""
        return sum(units(shard) for shard in self.todo)


def units(shard: Shard) -> int:
    source = shard.source
    if shard.retry and isinstance(source, UriSlice):
        return shard.retry.inputs
    return (source.end or source.size_bytes) - source.start if isinstance(source, RecordFile) else source.rows


def make(config: JobConfig, weights: str) -> Plan:
    """The plan of a run. `weights` identifies the model's weights. Raises RequestError for a wrong request."""
    layout = Layout(config.output)
    kind, files = inputs.find(config)
    listing, notes = None, tuple[str, ...]()
    if kind == "tfrecord":
        inputs.look_into(files, config)
        cut, notes = splits.cut(files, config)
        sources: Iterable[RecordFile | UriSlice] = [source for file in cut for source in file]
        short = inputs.short_names([file.path for file in files])
        names = [name for name, file in zip(short, cut, strict=True) for _ in file]
    elif config.split_bytes:
        raise RequestError(
            f"--split_bytes cuts TFRecord files, and --input={','.join(config.inputs)} has none; --images_per_shard "
            "says how lists and image files are cut"
        )
    else:
        if kind == "images":
            listing = b"".join(file.path.encode("utf-8", "surrogateescape") + b"\n" for file in files)
            sources = _cut_listing(layout.listing, listing, config)
        else:
            sources = itertools.chain.from_iterable(_cut(file.path, kind, config) for file in files)
        sources = list(sources)
        names = [f"{posixpath.basename(s.uri)}[{s.start}:{s.end}]" for s in sources]
    sources = list(sources)
    if not sources:
        raise RequestError(f"--input={','.join(config.inputs)} lists no image: there is nothing to do")
    shards = tuple(
        Shard(index, len(sources), source, name)
        for index, (source, name) in enumerate(zip(sources, names, strict=True))
    )
    made = _resume(config, layout, shards, _fingerprint(config, weights), listing)
    return replace(made, notes=notes)


def prepare(plan: Plan) -> None:
    """Makes the output folder ready for the run: the only step of planning that writes.

    Raises RequestError if the folder cannot be written to, or another job is at work there.
    """
    layout = plan.layout
    note = layout, plan.fingerprint, len(plan.shards), plan.listing
    try:
        if plan.todo and layout.request not in plan.stale:
            request.enter(*note)
        door.delete(
            [path for path in plan.stale if path.endswith(".json")]
        )  # first, nothing is "done" any more
        door.delete([path for path in plan.stale if not path.endswith(".json")])
        for receipt in plan.begun:
            replacing.settle(layout, receipt)
        if plan.retried:
            retry.write_marker(layout, plan.todo)
        if plan.listing is not None and (plan.todo or not door.exists(layout.listing)):
            door.write_atomic(layout.listing, plan.listing)
        if layout.request in plan.stale:
            request.enter(*note)
    except request.OutputInUse as error:
        raise RequestError(str(error)) from error
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        raise RequestError(
            f"--output={layout.folder} cannot be written to: {door.explain(layout.folder, error)}"
        ) from error


def _fingerprint(config: JobConfig, weights: str) -> dict[str, Any]:
    """Everything that decides the bytes of a shard, besides the input."""
    made_of = {
        "model": {"name": public_uri(config.model.model.name), "weights": weights},
        "untrained": config.model.model.kind == "untrained",
        "precision": config.model.precision,
        "outputs": list(config.model.outputs),
        "top_k": config.model.top_k if "top_k" in config.model.outputs else None,
        "preprocessing": asdict(config.preprocessing),
        "schema": {
            "image_feature": config.read.image_feature,
            "uri_column": config.read.uri_column,
            "key_feature": config.read.key_feature,
            "pass_through": list(config.read.pass_through),
        },
        "split_bytes": config.split_bytes,
    }
    return json.loads(json.dumps(made_of))  # as a receipt gives it back


def _cut(path: str, kind: str, config: JobConfig) -> Iterator[UriSlice]:
    try:
        yield from uri_list.cut(path, kind, config.read.columns, config.images_per_shard)
    except uri_list.BadList as error:
        raise RequestError(str(error)) from error


def _cut_listing(path: str, listing: bytes, config: JobConfig) -> list[UriSlice]:
    if config.read.pass_through or config.read.key_feature:
        raise RequestError(
            "image files have no columns: leave --pass_through and --key_feature out, or write a list"
        )
    return list(uri_list.cut_lines(path, listing, config.images_per_shard))


def _resume(
    config: JobConfig,
    layout: Layout,
    shards: tuple[Shard, ...],
    fingerprint: dict[str, Any],
    listing: bytes | None,
) -> Plan:
    try:
        found = receipts.read_receipts(layout)
        marker = retry.read_marker(layout) if found else None
        files = {file.path: file.size_in_bytes for file in door.match(door.join(layout.folder, "f*"))}
    except (BeamIOError, ValueError, ImportError, KeyError, TypeError) as error:
        raise RequestError(
            f"--output={config.output} cannot be read: {door.explain(config.output, error)}"
        ) from error
    if config.overwrite:
        old = [layout.receipt(receipt.shard) for receipt in found]
        kept = [file.path for file in door.match(layout.manifest)]
        kept += [file.path for file in door.match(door.join(layout.temporary, "*"))]
        return Plan(layout, shards, (), shards, fingerprint, listing, tuple(old + kept + _data(files)))
    by_label = {shard.label: shard for shard in shards}
    for receipt in found:
        _check_same(config, receipt, by_label.get(receipt.shard), fingerprint, len(shards))
    begun = tuple(receipt for receipt in found if receipt.replacing and replacing.can_settle(layout, receipt))
    settling = {receipt.shard for receipt in begun}
    whole = [r for r in found if r.shard in settling or _whole(layout, r, files)]
    done = tuple(replace(receipt, replacing="") if receipt.replacing else receipt for receipt in whole)
    labels = {receipt.shard for receipt in done}
    todo = tuple(shard for shard in shards if shard.label not in labels)
    stale = [layout.receipt(receipt.shard) for receipt in found if receipt.shard not in labels]
    if config.retry_failures and marker is None and todo:
        raise RequestError(
            f"--retry_failures: --output={config.output} holds no finished run, {len(done)} of {len(shards)} shards are "
            "done: run the job without this flag first"
        )
    again = {
        receipt.shard: failed
        for receipt in done
        if (failed := retry.of_receipt(receipt))
        and (config.retry_failures if marker is None else marker.get(receipt.shard) == failed.base)
    }
    retried = tuple(receipt for receipt in done if receipt.shard in again)
    done = tuple(receipt for receipt in done if receipt.shard not in again)
    todo += tuple(replace(shard, retry=again[shard.label]) for shard in shards if shard.label in again)
    if todo:  # until the run has ended there is no manifest that holds
        stale += [file.path for file in door.match(layout.manifest)]
    return Plan(layout, shards, done, todo, fingerprint, listing, tuple(stale), begun, retried)


def _data(files: Iterable[str]) -> list[str]:
    return [f for f in files if _OURS.fullmatch(posixpath.basename(f))]


def _whole(layout: Layout, receipt: Receipt, files: Mapping[str, int]) -> bool:
    """Whether the files that a receipt tells of are there, at their size."""
    return not receipt.replacing and all(
        files.get(door.join(layout.folder, file.name)) == file.bytes for file in receipt.files
    )


def _check_same(
    config: JobConfig, receipt: Receipt, shard: Shard | None, fingerprint: dict[str, Any], of: int
) -> None:
    remedy = "use another --output, or --overwrite to start anew"
    for name, (old, new) in receipts.differences(receipt.fingerprint, fingerprint).items():
        if name == receipts.NAME_ONLY:  # the same weights by another path
            continue
        raise RequestError(
            f"--output={config.output} was made with {name} = {old!r}, this run asks for {new!r}: {remedy}"
        )
    if shard is None:
        raise RequestError(
            f"--output={config.output} holds shard {receipt.shard}, but the input now makes {of} shards: {remedy}"
        )
    field = "name" if receipt.name != shard.name else identity.change(receipt.input, shard)
    if field:
        raise RequestError(
            f"the input of shard {receipt.shard} has changed since it was made: {shard.source.uri} "
            f"({field} differs): {remedy}"
        )
