"""Names for shards that do not reveal where the input lies."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence


def short_names(paths: Sequence[str], among: Sequence[str] = ()) -> list[str]:
    """The paths relative to their deepest common folder, and that of the files `among` which they are."""
    prefix = common_folder([*paths, *among])
    return [path[len(prefix) :].lstrip("/") for path in paths]


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that all paths lie in."""
    return "/".join(posixpath.commonprefix([posixpath.dirname(path).split("/") for path in paths]))


def with_names(paths: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """The path of each short name: all of them are names below one folder. Empty if no folder has a file of each name."""
    known = set(paths)
    first = names[0] if names else ""
    for path in known:
        if path == first or path.endswith(f"/{first}"):
            root = path[: len(path) - len(first)]
            if all(root + name in known for name in names):
                return {name: root + name for name in names}
    return {}
