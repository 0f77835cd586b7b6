"""Names for shards that do not reveal where the input lies."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Sequence


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths relative to their deepest common folder."""
    folders = [posixpath.dirname(path) for path in paths]
    common = folders[0].split("/")
    for folder in folders[1:]:
        parts = folder.split("/")
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(common, parts, strict=False))
        common = [part for part, _ in same]
    prefix = "/".join(common)
    return [path[len(prefix) :].lstrip("/") for path in paths]
