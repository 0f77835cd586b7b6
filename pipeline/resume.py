"""What an output folder holds of earlier runs, and whether a new run may go on there. Writes nothing."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata

from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import receipts, retry_failures
from transforms.commit import replace as replacing
from transforms.commit.layout import LISTING, Layout, is_data
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.storage import door


@dataclass(frozen=True)
class State:
    """What an output folder holds, and what is left to do there."""

    todo: tuple[Shard, ...]
    done: tuple[Receipt, ...] = ()  # of shards that earlier runs finished
    stale: tuple[str, ...] = ()  # files to delete: overwritten or redone
    begun: tuple[Receipt, ...] = ()  # replacements of a killed retry, to be completed first
    retried: tuple[Receipt, ...] = ()  # of shards of which only the failures are processed


def find(
    config: JobConfig,
    layout: Layout,
    shards: tuple[Shard, ...],
    fingerprint: dict[str, Any],
    listing: bytes | None,
    class_names: bytes | None = None,
) -> State:
    """The state of the output folder of a request. Raises RequestError if it belongs to another request."""
    try:
        existing = receipts.read_receipts(layout)
        marker = retry_failures.read_marker(layout) if existing else None
        files = {file.path: file.size_in_bytes for file in door.match(layout.data)}
    except (BeamIOError, ValueError, ImportError, KeyError, TypeError) as error:
        raise RequestError(
            f"--output={config.output} cannot be read: {door.explain(config.output, error)}"
        ) from error
    if not existing:
        _check_foreign(layout, listing, class_names)
    if config.overwrite:
        old = [layout.receipt(receipt.shard) for receipt in existing]
        kept = [file.path for file in door.match(layout.manifest)]
        kept += [file.path for file in door.match(door.join(layout.temporary, "*"))]
        stale = [*old, *kept, *(path for path in files if is_data(posixpath.basename(path)))]
        if inputs := sorted({shard.source.uri for shard in shards} & set(stale)):
            raise RequestError(
                f"--overwrite would delete {inputs[0]}, which is input of this job: move it elsewhere, or use another --output"
            )
        return State(shards, stale=tuple(stale))
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
        if (failed := retry_failures.of_receipt(receipt))
        and (config.retry_failures if marker is None else marker.get(receipt.shard) == failed.base)
    }
    retried = tuple(receipt for receipt in done if receipt.shard in retries)
    done = tuple(receipt for receipt in done if receipt.shard not in retries)
    todo += tuple(replace(shard, retry=retries[shard.label]) for shard in shards if shard.label in retries)
    if todo:  # the manifest is invalid until the run has ended
        stale += [file.path for file in door.match(layout.manifest)]
    return State(todo, done, tuple(stale), begun, retried)


def check_inputs(layout: Layout, files: Iterable[FileMetadata], listing: bytes | None) -> None:
    """Raises RequestError if the run would write over its own input."""
    folder = _real(layout.folder)
    for file in files:
        parent, _, name = file.path.rpartition("/")
        if (is_data(name) or (name == LISTING and listing is not None)) and _real(parent or ".") == folder:
            raise RequestError(
                f"--output={layout.folder} would write over {file.path}, which is this job's input: use another --output"
            )


def _check_foreign(layout: Layout, listing: bytes | None, class_names: bytes | None) -> None:
    """Raises RequestError if a folder without receipts has files with this job's names that are not its."""
    foreign = ""
    if b'"shards_done"' not in (door.read_if_there(layout.manifest) or b'"shards_done"'):
        foreign = layout.manifest
    for path, content in ((layout.listing, listing), (layout.class_names, class_names)):
        if content is not None and door.read_if_there(path) not in (None, content):
            foreign = path
    if foreign and not door.exists(layout.request):
        raise RequestError(
            f"--output={layout.folder} holds {foreign}, which this job did not write, and would write over it: move it "
            "elsewhere, or use another --output"
        )


def _real(folder: str) -> str:
    return os.path.realpath(door.local(folder)) if door.is_local(folder) else folder


def _is_complete(layout: Layout, receipt: Receipt, files: Mapping[str, int]) -> bool:
    """Whether the files that a receipt lists exist and have the right size."""
    return not receipt.replacing and all(
        files.get(door.join(layout.folder, file.name)) == file.bytes for file in receipt.files
    )


def _check_same(
    config: JobConfig, receipt: Receipt, shard: Shard | None, fingerprint: dict[str, Any], of: int
) -> None:
    remedy = "use another --output, or --overwrite to start again"
    for name, (old, new) in receipts.conflicts(receipt.fingerprint, fingerprint).items():
        if name == "numerics":
            raise RequestError(
                f"--output={config.output} was made by another version of this job, whose --precision={config.model.precision} "
                f"gives other vectors (numerics = {old or 1}, here {new or 1}): finish it with that version; else {remedy}"
            )
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
