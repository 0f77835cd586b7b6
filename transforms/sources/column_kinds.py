"""The type of each column that is passed through: settled once at launch, for all files of a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transforms.records import values
from transforms.sources.base import ReadSettings


def settled(settings: ReadSettings, seen: Mapping[str, Iterable[str | None]]) -> tuple[tuple[str, str], ...]:
    """The types: what the request says, else what holds all that was seen of the column, else bytes, which hold anything."""
    requested = settings.kinds_by_name
    return tuple(
        (name, requested.get(name) or values.common(seen.get(name, ())) or values.BYTES)
        for name in settings.pass_through
    )


def of_arrow(kind: Any) -> str | None:
    """The type for a column of an Arrow type; None for a column of nulls. What is nested deeper than a list is JSON: bytes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return of_arrow(kind.value_type)
    if any(str(kind).startswith(name) for name in ("list", "large_list", "fixed_size_list")):
        return values.BYTES if types.is_nested(kind.value_type) else of_arrow(kind.value_type)
    if types.is_null(kind):
        return None
    if types.is_integer(kind) or types.is_boolean(kind):
        return values.INT64
    return values.FLOAT if types.is_floating(kind) else values.BYTES
