"""Inputs -> shards, minus those already done. Reads inputs and receipts; only `prepare` writes."""

from __future__ import annotations

import errno
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import receipts, request, retry
from transforms.commit import replace as replacing
from transforms.commit.layout import LISTING, Layout, is_data
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.fetching.uris import public_uri
from transforms.sources import earlier as found_earlier
from transforms.sources import finding, tfrecord
from transforms.sources.base import BadInput, Cutting
from transforms.sources.finding import Found
from transforms.storage import door


@dataclass(frozen=True)
class Plan:
    """The work of one run."""

    layout: Layout
    shards: tuple[Shard, ...]
    done: tuple[Receipt, ...]  # of shards that earlier runs finished
    todo: tuple[Shard, ...]
    fingerprint: Mapping[str, Any]
    listing: bytes | None  # the image files that globs or folders matched, if shards refer to such a list
    stale: tuple[str, ...]  # files to delete: overwritten or redone
    begun: tuple[Receipt, ...] = ()  # replacements of a killed retry, to be completed first
    retried: tuple[Receipt, ...] = ()  # of shards of which only the failures are processed
    notes: tuple[str, ...] = ()  # messages to the user
    left_out: Mapping[str, str] = field(default_factory=dict)  # files that are not input: path -> reason

    def summary(self, runner: str) -> str:
        """The work of the run, in one line."""
        again = f" ({len(self.retried)} of them to retry {self.tried_again} failures)" if self.retried else ""
        return f"{len(self.todo)} of {len(self.shards)} shards to do{again} with {runner}"

    @property
    def tried_again(self) -> int:
        """The number of failures of earlier runs that this run retries."""
        return sum(shard.retry.inputs for shard in self.todo if shard.retry)

    @property
    def units(self) -> int:
        """The size of the shards to do: bytes of record files, or rows of lists."""
        return sum(shard.units for shard in self.todo)


def make(config: JobConfig, weights: str) -> Plan:
    """The plan of a run. `weights` identifies the model's weights. Raises RequestError for a wrong request."""
    layout = Layout(config.output)
    try:
        matches = finding.find(config.inputs, config.input_format, config.read)
        plan = _plan(config, layout, matches, weights)
    except (BadInput, RequestError) as error:
        earlier = None if config.overwrite else _as_earlier(config, layout, weights)
        if earlier is None:
            raise RequestError(str(error)) from error
        return earlier
    if request.is_of_other_input(layout, len(plan.shards), plan.listing):
        return _as_earlier(config, layout, weights) or plan
    return plan


def _as_earlier(config: JobConfig, layout: Layout, weights: str) -> Plan | None:
    """The plan for an output that an earlier version started with fewer files; None if there is no such output."""
    try:
        if not receipts.labels(layout) and not door.exists(layout.request):
            return None
        earlier = found_earlier.find(config.inputs, config.input_format, config.read)
        plan = _plan(config, layout, earlier, weights)
        if request.is_of_other_input(layout, len(plan.shards), plan.listing):
            return None
        now, skipped = finding.all_files(config.inputs, config.input_format, config.read)
        begun = [file.last_updated_in_seconds for file in door.match(layout.receipt("*"))]
        begun += [file.last_updated_in_seconds for file in door.match(layout.request)]
    except (BadInput, RequestError, BeamIOError, ValueError, ImportError):
        return None
    more = sorted(set(now) - {file.path for file in earlier.files})
    if any(now[path][0].last_updated_in_seconds > min(begun) for path in more):
        return None  # the input has changed since
    note = (
        f"{config.output} was started by an earlier version and continues with the files of that run, without "
        f"{len(more)} more{f', such as {public_uri(more[0])}; use a new --output to include them' if more else ''}"
    )
    left_out = skipped | dict.fromkeys(more, "not taken by an earlier version")
    return replace(plan, notes=(*plan.notes, note), left_out=left_out)


def _plan(config: JobConfig, layout: Layout, matches: Found, weights: str) -> Plan:
    cutting = Cutting(config.read, config.images_per_shard, config.split_bytes, layout.listing)
    cut = matches.kind.cut(matches.files, cutting)
    inputs = ",".join(config.inputs)
    if not cut.sources:
        raise RequestError(f"--input={inputs} lists no image: there is nothing to do")
    if config.split_bytes and cut.sources[0].cut_by != "--split_bytes":
        raise RequestError(
            f"--split_bytes cuts TFRecord files, and --input={inputs} has none; use --images_per_shard"
        )
    shards = tuple(
        Shard(index, len(cut.sources), source, name)
        for index, (source, name) in enumerate(zip(cut.sources, cut.names, strict=True))
    )
    _check_own_files(layout, matches, cut.listing)
    plan = _resume(config, layout, shards, _fingerprint(config, weights), cut.listing)
    return replace(plan, notes=cut.notes, left_out=matches.left_out)


def prepare(plan: Plan) -> None:
    """Makes the output folder ready for the run: the only step of planning that writes.

    Raises RequestError if the folder is not writable, or in use by another job.
    """
    layout = plan.layout
    note = layout, plan.fingerprint, len(plan.shards), plan.listing
    try:
        if plan.stale:  # nothing is deleted unless the folder is writable
            _check_writable(layout)
        if plan.todo and layout.request not in plan.stale:
            request.enter(*note)
        # Receipts first: from then on nothing counts as done.
        door.delete([path for path in plan.stale if path.endswith(".json")])
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


def _check_writable(layout: Layout) -> None:
    """Raises a storage error if files cannot be written to the output folder, or those in it cannot be replaced."""
    probe = f"{layout.request}.probe"
    door.write_atomic(probe, b"")
    door.delete([probe])
    for folder in (layout.folder, layout.receipts):
        if (
            door.is_local(folder)
            and door.exists(folder)
            and not os.access(door.local(folder), os.W_OK | os.X_OK)
        ):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def _fingerprint(config: JobConfig, weights: str) -> dict[str, Any]:
    """Everything besides the input that determines the bytes of a shard."""
    fingerprint = {
        "model": {"name": public_uri(config.model.model.name), "weights": weights},
        "untrained": config.model.model.kind == "untrained",
        "precision": config.model.precision,
        "outputs": list(config.model.outputs),
        "top_k": config.model.top_k if "top_k" in config.model.outputs else None,
        "preprocessing": asdict(config.preprocessing),
        "schema": {
            "image_feature": config.read.image_feature or tfrecord.IMAGE_FEATURE,
            "uri_column": config.read.uri_column,
            "key_feature": config.read.key_feature,
            "pass_through": list(config.read.pass_through),
        },
        "split_bytes": config.split_bytes,
    }
    return json.loads(json.dumps(fingerprint))  # with the types that a receipt returns


def _resume(
    config: JobConfig,
    layout: Layout,
    shards: tuple[Shard, ...],
    fingerprint: dict[str, Any],
    listing: bytes | None,
) -> Plan:
    try:
        existing = receipts.read_receipts(layout)
        marker = retry.read_marker(layout) if existing else None
        files = {file.path: file.size_in_bytes for file in door.match(layout.data)}
    except (BeamIOError, ValueError, ImportError, KeyError, TypeError) as error:
        raise RequestError(
            f"--output={config.output} cannot be read: {door.explain(config.output, error)}"
        ) from error
    if config.overwrite:
        old = [layout.receipt(receipt.shard) for receipt in existing]
        kept = [file.path for file in door.match(layout.manifest)]
        kept += [file.path for file in door.match(door.join(layout.temporary, "*"))]
        stale = [*old, *kept, *_data(files)]
        if inputs := sorted({shard.source.uri for shard in shards} & set(stale)):
            raise RequestError(
                f"--overwrite would delete {inputs[0]}, which is input of this job: move it elsewhere, or use another --output"
            )
        return Plan(layout, shards, (), shards, fingerprint, listing, tuple(stale))
    by_label = {shard.label: shard for shard in shards}
    for receipt in existing:
        _check_same(config, receipt, by_label.get(receipt.shard), fingerprint, len(shards))
    begun = tuple(
        receipt for receipt in existing if receipt.replacing and replacing.can_settle(layout, receipt)
    )
    settling = {receipt.shard for receipt in begun}
    complete = [r for r in existing if r.shard in settling or _is_complete(layout, r, files)]
    done = tuple(replace(receipt, replacing="") if receipt.replacing else receipt for receipt in complete)
    labels = {receipt.shard for receipt in done}
    todo = tuple(shard for shard in shards if shard.label not in labels)
    stale = [layout.receipt(receipt.shard) for receipt in existing if receipt.shard not in labels]
    if config.retry_failures and marker is None and todo:
        raise RequestError(
            f"--retry_failures: --output={config.output} holds no finished run: {len(done)} of {len(shards)} shards are "
            "done; run the job without this flag first"
        )
    retries = {
        receipt.shard: failed
        for receipt in done
        if (failed := retry.of_receipt(receipt))
        and (config.retry_failures if marker is None else marker.get(receipt.shard) == failed.base)
    }
    retried = tuple(receipt for receipt in done if receipt.shard in retries)
    done = tuple(receipt for receipt in done if receipt.shard not in retries)
    todo += tuple(replace(shard, retry=retries[shard.label]) for shard in shards if shard.label in retries)
    if todo:  # the manifest is invalid until the run has ended
        stale += [file.path for file in door.match(layout.manifest)]
    return Plan(layout, shards, done, todo, fingerprint, listing, tuple(stale), begun, retried)


def _check_own_files(layout: Layout, matches: Found, listing: bytes | None) -> None:
    """Refuses to write over the run's own input, or over files that have this job's names and are not its."""
    folder = _real(layout.folder)
    for file in matches.files:
        parent, _, name = file.path.rpartition("/")
        if (is_data(name) or (name == LISTING and listing is not None)) and _real(parent or ".") == folder:
            raise RequestError(
                f"--output={layout.folder} would write over {file.path}, which is this job's input: use another --output"
            )
    if receipts.labels(layout) or door.exists(layout.request):
        return
    foreign = ""
    if (data := door.read_if_there(layout.manifest)) is not None and b'"shards_done"' not in data:
        foreign = layout.manifest
    if listing is not None and door.read_if_there(layout.listing) not in (None, listing):
        foreign = layout.listing
    if foreign:
        raise RequestError(
            f"--output={layout.folder} holds {foreign}, which this job did not write, and would write over it: move it "
            "elsewhere, or use another --output"
        )


def _real(folder: str) -> str:
    return os.path.realpath(door.local(folder)) if door.is_local(folder) else folder


def _data(files: Iterable[str]) -> list[str]:
    return [f for f in files if is_data(posixpath.basename(f))]


def _is_complete(layout: Layout, receipt: Receipt, files: Mapping[str, int]) -> bool:
    """Whether the files that a receipt lists exist and have the right size."""
    return not receipt.replacing and all(
        files.get(door.join(layout.folder, file.name)) == file.bytes for file in receipt.files
    )


def _check_same(
    config: JobConfig, receipt: Receipt, shard: Shard | None, fingerprint: dict[str, Any], of: int
) -> None:
    remedy = "use another --output, or --overwrite to start again"
    for name, (old, new) in receipts.differences(receipt.fingerprint, fingerprint).items():
        if name == receipts.NAME_ONLY:  # the same weights under another name
            continue
        raise RequestError(
            f"--output={config.output} was made with {name} = {old!r}, this run requests {new!r}: {remedy}"
        )
    if shard is None:
        raise RequestError(
            f"--output={config.output} holds shard {receipt.shard}, but the input now has {of} shards: {remedy}"
        )
    field = "name" if receipt.name != shard.name else shard.source.change(receipt.input)
    if field:
        raise RequestError(
            f"the input of shard {receipt.shard} has changed since the shard was made: {shard.source.uri} "
            f"({field} differs): {remedy}"
        )
