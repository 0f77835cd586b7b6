"""What an output folder holds of earlier runs, and whether a new run may go on there. Writes nothing."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata

from pipeline import changes
from pipeline.changes import OTHERWISE, Change
from pipeline.console import counted
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.commit import receipts, request, retry_failures
from transforms.commit import replace as replacing
from transforms.commit.layout import Layout, is_data
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.sources.base import Source
from transforms.sources.uri_list import UriSlice
from transforms.storage import door
from transforms.storage.errors import is_transient

_BEFORE = 1000  # images per shard where no flag said so, in versions before 0.2


@dataclass(frozen=True)
class State:
    """What an output folder holds, and what is left to do there."""

    todo: tuple[Shard, ...]
    done: tuple[Receipt, ...] = ()  # of shards that earlier runs finished
    stale: tuple[str, ...] = ()  # files to delete: overwritten or redone
    begun: tuple[Receipt, ...] = ()  # replacements of a killed retry, to be completed first
    retried: tuple[Receipt, ...] = ()  # of shards of which only the failures are processed


def read(layout: Layout) -> list[Receipt]:
    """The receipts in the output folder. Raises RequestError if it cannot be read."""
    with _readable(layout):
        return receipts.read_receipts(layout)


@contextlib.contextmanager
def _readable(layout: Layout) -> Iterator[None]:
    """A context in which the output folder is read, and what is wrong with its content becomes RequestError."""
    try:
        yield
    except (BeamIOError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        if is_transient(error):
            raise
        raise RequestError(
            f"--output={layout.folder} cannot be read: {door.explain(layout.folder, error)}"
        ) from error


def shard_sizes(
    config: JobConfig, layout: Layout, existing: Sequence[Receipt], kept: Mapping[str, Any]
) -> Iterator[int | None]:
    """The images per shard by which the output's shards may have been cut, the likeliest first; None: by the rows.

    `kept`: the request of the output, as it would be kept of this run but for the images per shard.
    """
    if config.images_per_shard or config.overwrite:
        yield config.images_per_shard
        return
    rows = [receipt.input["rows"] for receipt in existing if "rows" in receipt.input]
    with _readable(layout):
        is_begun = not existing and request.is_begun(layout)
        earlier = request.kept(layout) if rows or is_begun else None
    if earlier and (rows or earlier["input"] == kept["input"]) and "images_per_shard" in earlier:
        yield earlier["images_per_shard"]
    elif rows:
        yield max(rows)  # all but the last shard of a list have as many as can be
    if not earlier and (rows or is_begun):
        yield _BEFORE
    yield None


def as_known(existing: Sequence[Receipt], sources: Sequence[Source]) -> Sequence[Source]:
    """The sources as the output's receipts know them: those of earlier versions name no folder of relative names."""
    if not existing or any("folder" in receipt.input for receipt in existing):
        return sources
    return [replace(source, base="") if isinstance(source, UriSlice) else source for source in sources]


def is_cut_like(existing: Sequence[Receipt], sources: Sequence[Source]) -> bool:
    """Whether an input is cut into as many shards, of as many rows, as it was for these receipts."""
    rows = {
        Shard(index, len(sources), source, "").label: source.inputs for index, source in enumerate(sources)
    }
    return all(
        receipt.shard in rows and rows[receipt.shard] == receipt.input.get("rows") for receipt in existing
    )


def find(
    config: JobConfig,
    layout: Layout,
    shards: tuple[Shard, ...],
    fingerprint: dict[str, Any],
    listing: bytes | None,
    own: Mapping[str, bytes],
    existing: Sequence[Receipt],
) -> State:
    """The state of the output folder of a request. Raises RequestError if it belongs to another request.

    `listing`: the list of image files that the shards refer to. `own`: what else a run writes there, path -> content, but for its
    request. `existing`: the receipts in the folder."""
    with _readable(layout):
        marker = retry_failures.read_marker(layout) if existing else None
        files = {file.path: file.size_in_bytes for file in door.match(layout.data)}
    if not existing:
        _check_foreign(layout, own)
    if config.overwrite:
        old = [layout.receipt(receipt.shard) for receipt in existing]
        kept = [file.path for file in door.match(layout.manifest)]
        kept += [file.path for file in door.match(door.join(layout.temporary, "*"))]
        if existing or request.is_begun(layout):
            kept += [path for path in (layout.listing, layout.input_files) if door.exists(path)]
        stale = [*old, *kept, *(path for path in files if is_data(posixpath.basename(path)))]
        own_list = {layout.listing} if listing is not None else set()
        if inputs := sorted(({shard.source.uri for shard in shards} - own_list) & set(stale)):
            raise RequestError(
                f"--overwrite would delete {inputs[0]}, which is input of this job: move it elsewhere, or use another --output"
            )
        return State(shards, stale=tuple(stale))
    by_label = {shard.label: shard for shard in shards}

    def change() -> Change:
        with _readable(layout):
            return changes.find(layout, existing, shards, listing, config.images_per_shard)

    for receipt in existing:
        _check_same(config, receipt, by_label.get(receipt.shard), fingerprint, len(shards), change)
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


def kinds(
    config: JobConfig,
    layout: Layout,
    existing: Sequence[Receipt],
    settled: tuple[tuple[str, str], ...],
    skipped: Mapping[str, Any] | None = None,
) -> tuple[tuple[str, str], ...]:
    """The types of the columns that are passed through: those of what the folder holds already, else those `settled` now.

    Between these come those of outputs that are skipped, of which `skipped` is the fingerprint.

    An output of an earlier version has none, and goes on without: each value has a type of its own. What the request itself says
    stands, so that a difference is refused by name.
    """
    if not config.read.pass_through:
        return settled
    before = None
    if not config.overwrite:
        with _readable(layout):
            before = existing[0].fingerprint if existing else request.fingerprint(layout)
    before = before or skipped
    if before is None:
        return settled
    old = before.get("schema", {}).get("pass_through_types", {})
    requested = config.read.kinds_by_name
    names = [name for name in config.read.pass_through if name in {**old, **requested}]
    return tuple((name, requested.get(name) or old[name]) for name in names)


def check_inputs(layout: Layout, files: Iterable[FileMetadata], own: Iterable[str]) -> None:
    """Raises RequestError if the run would write over its own input. `own`: paths of further files that it writes."""
    folder, names = _real(layout.folder), {posixpath.basename(path) for path in own}
    for file in files:
        parent, _, name = file.path.rpartition("/")
        if (is_data(name) or name in names) and _real(parent or ".") == folder:
            raise RequestError(
                f"--output={layout.folder} would write over {file.path}, which is this job's input: use another --output"
            )


def _check_foreign(layout: Layout, own: Mapping[str, bytes]) -> None:
    """Raises RequestError if a folder without receipts has files with this job's names that are not its."""
    foreign = ""
    if b'"shards_done"' not in (door.read_if_there(layout.manifest) or b'"shards_done"'):
        foreign = layout.manifest
    for path, content in own.items():
        if door.read_if_there(path) not in (None, content):
            foreign = path
    try:
        request.kept(layout)
    except request.NotARequest:
        foreign = layout.request
    if foreign and not request.is_begun(layout):
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
    config: JobConfig,
    receipt: Receipt,
    shard: Shard | None,
    fingerprint: dict[str, Any],
    of: int,
    find_change: Callable[[], Change],
) -> None:
    for name, (old, new) in receipts.conflicts(receipt.fingerprint, fingerprint).items():
        if name == "numerics":
            raise RequestError(
                f"--output={config.output} was made by another version of this job, whose --precision={config.model.precision} "
                f"gives other vectors (numerics = {old or 1}, here {new or 1}): finish it with that version; else {OTHERWISE}"
            )
        raise RequestError(
            f"--output={config.output} was made with {name} = {old!r}, this run requests {new!r}: {OTHERWISE}"
        )
    field = "" if not shard else "name" if receipt.name != shard.name else shard.source.change(receipt.input)
    if shard and not field:
        return
    what, remedy = find_change()
    if shard is None:
        raise RequestError(
            f"--output={config.output} holds shard {receipt.shard}, but the input now has {counted(of, 'shard')}"
            f"{what and f' ({what})'}: {remedy}"
        )
    what = what or changes.of_source(shard.source, field)
    raise RequestError(
        f"the input of shard {receipt.shard} has changed since the shard was made: {shard.source.uri} ({what}): {remedy}"
    )
