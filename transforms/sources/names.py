"""Names for shards that do not reveal where the input lies."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths relative to their deepest common folder."""
    prefix = "/".join(posixpath.commonprefix([posixpath.dirname(path).split("/") for path in paths]))
    return [path[len(prefix) :].lstrip("/") for path in paths]
