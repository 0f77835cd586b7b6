"""Names for shards that do not reveal where the input lies."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence


def short_names(paths: Sequence[str], among: Sequence[str] = ()) -> list[str]:
    """The paths relative to their deepest common folder, and that of the files `among` which they are."""
    folders = [posixpath.dirname(path).split("/") for path in (*paths, *among)]
    prefix = "/".join(posixpath.commonprefix(folders))
    return [path[len(prefix) :].lstrip("/") for path in paths]


def with_names(paths: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The path of each short name: all of them are names below one folder. Empty if no folder has a file of each name.

    A folder that holds all of the paths comes before others."""
    if not names or not paths:
        return {}
    known, first, ends = set(paths), names[0], (min(paths), max(paths))
    roots = [path[: len(path) - len(first)] for path in paths if path == first or path.endswith(f"/{first}")]
    roots.sort(key=lambda root: not all(path.startswith(root) for path in ends))
    for root in roots:
        if all(root + name in known for name in names):
            return {name: root + name for name in names}
    return {}
