"""Inputs -> shards, minus those already done. Reads inputs and receipts, writes nothing."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from bit import tuned
from bit.models import NUMERICS
from pipeline import growth, repeat, resume, runners
from pipeline.console import counted
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from pipeline.resume import State
from transforms.commit import receipts, request
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.elements import Shard
from transforms.fetching.uris import public_uri
from transforms.infer import ModelSettings
from transforms.model import devices
from transforms.sources import earlier as found_earlier
from transforms.sources import finding, input_files
from transforms.sources.base import BadInput, Cut, Cutting, ReadSettings
from transforms.sources.finding import Found
from transforms.storage import door


@dataclass(frozen=True)
class Plan:
    """The work of one run."""

    layout: Layout
    shards: tuple[Shard, ...]
    fingerprint: Mapping[str, Any]
    read: ReadSettings  # those of the request, with the type of each column that is passed through
    listing: bytes | None  # the image files that globs or folders matched, if shards refer to such a list
    state: State  # of the output folder
    request: bytes  # to be kept in the output folder
    images_per_shard: int | None = None  # at most; None for kinds that are not cut by rows
    notes: tuple[str, ...] = ()  # messages to the user
    left_out: Mapping[str, str] = field(default_factory=dict)  # files that are not input: path -> reason
    class_names: bytes | None = None  # of a tuned head, to be kept beside the manifest
    input_files: bytes | None = None  # the files of any other kind, one per line

    @property
    def lists(self) -> dict[str, bytes]:
        """The lists of input files that the output keeps: path -> content."""
        return _lists(self.layout, self.listing, self.input_files) if self.shards else {}

    @property
    def todo(self) -> tuple[Shard, ...]:
        """The shards of this run; those of which only failures are retried come last."""
        return self.state.todo

    def summary(self, model: ModelSettings, runner: str) -> str:
        """The work of the run, in one line: how much of what, with which model in which precision, on what."""
        retried = len(self.state.retried)
        again = f" ({retried} of them to retry {counted(self.tried_again, 'failure')})" if retried else ""
        work = f"{len(self.todo)} of {counted(len(self.shards), 'shard')} to do{again} with {runner}"
        if not self.todo:
            return work
        much = f"{self.units / 1e6:,.1f} MB" if self.images is None else counted(self.images, "image")
        place = devices.expected() if runner == runners.LOCAL else "its workers"
        return f"{work}: {much}, {public_uri(model.model.name)} in {model.precision} on {place}"

    @functools.cached_property
    def images(self) -> int | None:
        """The number of images of this run; None where only reading would tell."""
        inputs = [shard.retry.inputs if shard.retry else shard.source.inputs for shard in self.todo]
        return None if None in inputs else sum(filter(None, inputs))

    @property
    def tried_again(self) -> int:
        """The number of failures of earlier runs that this run retries."""
        return sum(shard.retry.inputs for shard in self.todo if shard.retry)

    @functools.cached_property
    def units(self) -> int:
        """The size of the shards to do: bytes of record files, or rows of lists."""
        return sum(shard.units for shard in self.todo)


def _lists(layout: Layout, listing: bytes | None, input_files: bytes | None) -> dict[str, bytes]:
    both = {layout.listing: listing, layout.input_files: input_files}
    return {path: content for path, content in both.items() if content is not None}


def make(config: JobConfig, weights: str) -> Plan:
    """The plan of a run. `weights` identifies the model's weights. Raises RequestError for a wrong request."""
    layout = Layout(config.output)
    try:
        matches = finding.find(config.input_texts, config.input_format, config.read)
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
        if not receipts.labels(layout) and not request.is_begun(layout):
            return None
        earlier = found_earlier.find(config.inputs, config.input_format, config.read)
        plan = _plan(config, layout, earlier, weights)
        if request.is_of_other_input(layout, len(plan.shards), plan.listing):
            return None
        now, skipped, _ = finding.all_files(config.input_texts, config.input_format, config.read)
        begun = [file.last_updated_in_seconds for file in door.match(layout.receipt("*"))]
        begun += [file.last_updated_in_seconds for path in request.notes(layout) for file in door.match(path)]
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
    existing = resume.read(layout)
    grown = growth.find(config, layout, existing, matches)
    found = grown.found
    cut = _cut(config, layout, grown, existing)
    inputs = ",".join(config.input_texts)
    if not cut.sources and not grown.earlier.fingerprint:
        raise RequestError(f"--input={inputs} lists no image: there is nothing to do")
    if config.split_bytes and any(source.cut_by != "--split_bytes" for source in cut.sources[:1]):
        raise RequestError(
            f"--split_bytes cuts TFRecord files, and --input={inputs} has none; use --images_per_shard"
        )
    known = cut.sources if config.overwrite else resume.as_known(existing, cut.sources)
    shards = tuple(
        Shard(index, len(known), source, name)
        for index, (source, name) in enumerate(zip(known, cut.names, strict=True))
    )
    is_listed = cut.listing is not None
    files = None if is_listed else input_files.content(found.kind, found.files, cut.sources, grown.bounds)
    lists = _lists(layout, cut.listing, files)
    resume.check_inputs(layout, matches.files, lists)
    of_earlier = grown.earlier.fingerprint
    read = replace(config.read, kinds=resume.kinds(config, layout, existing, cut.kinds, of_earlier))
    class_names = tuned.format_names(config.model.class_names) if config.model.class_names else None
    fingerprint = _fingerprint(config, weights, read, class_names)
    names_here = any(source.identity().get("folder", ".") != "." for source in cut.sources)
    grown.earlier.check(fingerprint)
    own = {**(lists if shards else {}), **({layout.class_names: class_names} if class_names else {})}
    state = resume.find(config, layout, shards, fingerprint, cut.listing, own, existing)
    if cut.problem and state.todo:
        raise RequestError(cut.problem)
    if grown.more and not state.todo and not config.retry_failures and not config.skip_done:
        raise RequestError(grown.refusal(layout))
    notes = [*cut.notes, *_notes(config, found), *grown.notes]
    notes += _notes_on_keys(config, {one.name for one in grown.earlier.files}, cut.names)
    return Plan(
        layout,
        shards,
        fingerprint,
        read,
        cut.listing,
        state,
        request.content(repeat.flags_of(config, cut.images_per_shard, names_here)),
        cut.images_per_shard,
        tuple(notes),
        {**matches.left_out, **dict.fromkeys(grown.left_out, "new since the output was begun")},
        class_names,
        files,
    )


def _notes(config: JobConfig, matches: Found) -> Iterator[str]:
    if len(config.inputs) > 1 and (twice := finding.by_several_paths(matches.files)):
        (path, other), *_ = twice
        yield (
            f"--input has {counted(len(twice), 'file')} more than once, by several paths, and each is processed: "
            f"{public_uri(other)} is {public_uri(path)}"
        )


def _notes_on_keys(config: JobConfig, before: Set[str], names: Sequence[str]) -> Iterator[str]:
    """`before`: names of files in earlier outputs; `names`: of those to do."""
    if again := [] if config.read.key_feature else sorted(before & {*names}):
        have = "has the name" if len(again) == 1 else "have the names"
        yield (
            f"{counted(len(again), 'file')}, such as {again[0]}, {have} of one in an earlier output, and so the same keys: "
            "--key_feature takes others from a feature, column or member"
        )


def _cut(config: JobConfig, layout: Layout, grown: growth.Grown, existing: Sequence[Receipt]) -> Cut:
    """The input, cut like the output's shards if it has some."""
    found, first = grown.found, None
    if not found.files:
        return Cut((), ())
    for size in resume.shard_sizes(config, layout, existing, repeat.flags_of(config, None)):
        cutting = Cutting(config.read, size, config.split_bytes, layout.listing, grown.among, grown.bounds)
        cut = found.kind.cut(found.files, cutting)
        is_other = not existing and request.is_of_other_input(layout, len(cut.sources), cut.listing)
        is_like = resume.is_cut_like(existing, cut.sources) and not is_other
        if cut.images_per_shard is None or config.overwrite or is_like:
            return cut
        first = first or cut
    assert first
    return first


def _fingerprint(
    config: JobConfig, weights: str, read: ReadSettings, class_names: bytes | None
) -> dict[str, Any]:
    """Everything besides the input that determines the bytes of a shard."""
    fingerprint = {
        "model": {"name": public_uri(config.model.model.name), "weights": weights},
        "untrained": config.model.model.kind == "untrained",
        "precision": config.model.precision,
        "outputs": list(config.model.outputs),
        "top_k": config.model.top_k if "top_k" in config.model.outputs else None,
        "preprocessing": asdict(config.preprocessing),
        "schema": {
            **config.schema,
            **({"pass_through_types": read.kinds_by_name} if read.kinds else {}),
        },
        "split_bytes": config.split_bytes,
    }
    if numerics := NUMERICS.get(config.model.precision):
        fingerprint["numerics"] = numerics
    if config.model.outputs_map:
        fingerprint["outputs_map"] = dict(config.model.outputs_map)
    if class_names is not None:
        fingerprint["class_names"] = f"sha256:{hashlib.sha256(class_names).hexdigest()}"
    return json.loads(json.dumps(fingerprint))  # with the types that a receipt returns
