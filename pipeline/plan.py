"""Inputs -> shards, minus those already done. Reads inputs and receipts, writes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from bit import tuned
from bit.models import NUMERICS
from pipeline import resume
from pipeline.flags import RequestError
from pipeline.options import JobConfig
from pipeline.resume import State
from transforms.commit import receipts, request
from transforms.commit.layout import Layout
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
    fingerprint: Mapping[str, Any]
    listing: bytes | None  # the image files that globs or folders matched, if shards refer to such a list
    state: State  # of the output folder
    notes: tuple[str, ...] = ()  # messages to the user
    left_out: Mapping[str, str] = field(default_factory=dict)  # files that are not input: path -> reason
    class_names: bytes | None = None  # of a tuned head, to be kept beside the manifest

    @property
    def todo(self) -> tuple[Shard, ...]:
        """The shards of this run; those of which only failures are retried come last."""
        return self.state.todo

    def summary(self, runner: str) -> str:
        """The work of the run, in one line."""
        retried = len(self.state.retried)
        again = f" ({retried} of them to retry {self.tried_again} failures)" if retried else ""
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
    resume.check_inputs(layout, matches.files, cut.listing)
    class_names = tuned.format_names(config.model.class_names) if config.model.class_names else None
    fingerprint = _fingerprint(config, weights, class_names)
    state = resume.find(config, layout, shards, fingerprint, cut.listing, class_names)
    return Plan(layout, shards, fingerprint, cut.listing, state, cut.notes, matches.left_out, class_names)


def _fingerprint(config: JobConfig, weights: str, class_names: bytes | None) -> dict[str, Any]:
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
    if numerics := NUMERICS.get(config.model.precision):
        fingerprint["numerics"] = numerics
    if config.model.outputs_map:
        fingerprint["outputs_map"] = dict(config.model.outputs_map)
    if class_names is not None:
        fingerprint["class_names"] = f"sha256:{hashlib.sha256(class_names).hexdigest()}"
    return json.loads(json.dumps(fingerprint))  # with the types that a receipt returns
