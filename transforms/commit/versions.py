"""Versions of the packages that can change a feature's bytes, as kept in receipts."""

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
    """Package -> version, in this process; packages that are not installed are absent."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # the module comes from another distribution
            versions[name] = metadata.version(name)
    return versions


def merged(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The versions that made a shard: '1.0 and 1.1' for a package upgraded before a retry."""
    return {
        name: " and ".join(
            dict.fromkeys(filter(None, [*old.get(name, "").split(" and "), new.get(name, "")]))
        )
        for name in {**old, **new}
    }
