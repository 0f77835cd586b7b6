"""The versions that decide the bytes of a feature, as a receipt keeps them."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Mapping
from importlib import metadata

from transforms.imaging import formats

_PACKAGES = sorted({"apache-beam", "numpy", "tensorflow", *formats.PACKAGES})


@functools.cache
def current() -> dict[str, str]:
    """Package -> version, in this process."""
    known = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # another distribution of the same module
            known[name] = metadata.version(name)
    return known


def merged(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The versions that made a shard; of what was upgraded before a retry, both."""
    return {
        name: " and ".join(
            dict.fromkeys(filter(None, [*old.get(name, "").split(" and "), new.get(name, "")]))
        )
        for name in {**old, **new}
    }
