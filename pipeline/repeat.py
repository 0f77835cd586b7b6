"""The request that an output keeps of itself: made from a run's flags, and read by a command that names only the output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import reach, runners
from pipeline.flags import FETCHING, KEPT, RequestError, group_names
from pipeline.options import DIRECTORY, JobConfig
from transforms.commit import request
from transforms.commit.layout import REQUEST, Layout
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import public_uri
from transforms.storage import door, retrying


def flags_of(config: JobConfig, images_per_shard: int | None, names_here: bool = False) -> dict[str, Any]:
    """The flags that decide what the output holds; nothing of runner, workers or report.

    Paths are as they were given, since keys are made of them; the working directory stands beside them if one is relative to
    it. Signatures of URLs are left out.

    Args:
      images_per_shard: by which the input was cut, None where it is not cut by rows.
      names_here: whether a list has names that are relative to the working directory.
    """
    model = config.model.model
    is_file = model.kind != "untrained" and door.is_local(model.uri)
    paths = [*config.inputs, *config.skip_done, *([model.uri] if is_file else [])]
    is_relative = any(door.is_local(path) and not os.path.isabs(door.local(path)) for path in paths)
    values = {
        **config.flags,
        "skip_done": list(config.skip_done) or None,
        "input": [text if door.is_local(text) else public_uri(text) for text in config.input_texts],
        "model": model.uri if is_file else public_uri(model.name),
        "image_size": config.model.image_size,
        "exif_orientation": config.preprocessing.exif_orientation,
        "images_per_shard": images_per_shard,
        DIRECTORY: os.getcwd() if is_relative or names_here else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def kept_in(folder: str, beam_options: PipelineOptions) -> Mapping[str, Any]:
    """The flags of the request that made the output in `folder`. Raises RequestError if it does not keep them."""
    flags = _kept(folder, beam_options)
    if flags is None:
        raise RequestError(
            f"missing --input and --model: --output={folder} has no {REQUEST}, which would say them, as no run has begun "
            "there, or one of an earlier version; name both, and the other flags of its first run; see --help"
        )
    if unknown := sorted(set(flags) - {*KEPT, DIRECTORY}):
        raise RequestError(
            f"{Layout(folder).request} names --{unknown[0]}, which this version does not know: use the version that made it, "
            "or name --input, --model and the other flags here"
        )
    return flags


def pictures_of(folder: str, beam_options: PipelineOptions) -> dict[str, Any]:
    """The flags of that request that say where its pictures are, and its DIRECTORY; nothing where it is not kept.

    Raises RequestError if the folder cannot be read."""
    flags = _kept(folder, beam_options) or {}
    fetching = (name.removeprefix("--") for name in group_names(FETCHING))
    return {name: flags[name] for name in ("input", "input_format", *fetching, DIRECTORY) if name in flags}


def _kept(folder: str, beam_options: PipelineOptions) -> dict[str, Any] | None:
    reach.enter(beam_options, runners.name_of(beam_options), (folder,), FetchSettings())
    try:
        with retrying.hurried():
            return request.kept(Layout(folder))
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        raise RequestError(f"{folder} cannot be read: {door.explain(folder, error)}") from error
