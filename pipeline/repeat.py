"""The request that an output keeps of itself: made from a run's flags, and read by a command that names only the output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import reach, runners
from pipeline.flags import KEPT, RequestError
from pipeline.options import JobConfig
from transforms.commit import request
from transforms.commit.layout import REQUEST, Layout
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import public_uri
from transforms.sources import patterns
from transforms.storage import door, retrying


def flags_of(config: JobConfig, images_per_shard: int | None) -> dict[str, Any]:
    """The flags that decide what the output holds; nothing of runner, workers or report.

    Local paths are absolute, so that a command in another folder means the same; signatures of URLs are left out.
    `images_per_shard`: by which the input was cut, None where it is not cut by rows.
    """
    model = config.model.model
    is_file = model.kind != "untrained" and door.is_local(model.uri)
    values = {
        **config.flags,
        "input": [_place(path) for text in config.input_texts for path in _paths(text)],
        "model": _place(model.uri) if is_file else public_uri(model.name),
        "image_size": config.model.image_size,
        "images_per_shard": images_per_shard,
    }
    return {name: value for name, value in values.items() if value is not None}


def kept_in(folder: str, beam_options: PipelineOptions) -> Mapping[str, Any]:
    """The flags of the request that made the output in `folder`. Raises RequestError if it does not keep them."""
    reach.check(beam_options, runners.name_of(beam_options), (folder,), FetchSettings())
    door.configure(beam_options)
    try:
        with retrying.hurried():
            flags = request.kept(Layout(folder))
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        raise RequestError(f"--output={folder} cannot be read: {door.explain(folder, error)}") from error
    if flags is None:
        raise RequestError(
            f"missing --input and --model: --output={folder} has no {REQUEST}, which would say them, as no run has begun "
            "there, or one of an earlier version; name both, and the other flags of its first run; see --help"
        )
    if unknown := sorted(set(flags) - {*KEPT}):
        raise RequestError(
            f"{Layout(folder).request} names --{unknown[0]}, which this version does not know: use the version that made it, "
            "or name --input, --model and the other flags here"
        )
    return flags


def _paths(text: str) -> list[str]:
    """The patterns in a value of --input; one that is a name with commas stays whole."""
    is_name = door.is_local(text) and os.path.lexists(door.local(text))
    return [text] if is_name else patterns.expand(text)


def _place(path: str) -> str:
    if not door.is_local(path):
        return public_uri(path)
    slash = "/" if path.endswith("/") and len(path) > 1 else ""
    return os.path.abspath(door.local(path)) + slash
