"""A row of a list, independent of the list's format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transforms.errors import ItemError
from transforms.sources.base import BadInput


@dataclass(frozen=True)
class Columns:
    """Which column holds the URI, and which columns are copied into the feature record."""

    uri: str
    passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row: its URI and the columns to pass through, or the error if it has no URI."""

    uri: str
    columns: dict[str, object]
    error: ItemError | None = None


def row_of(values: dict[str, object], columns: Columns) -> Row:
    """A row from its values by column; ItemError 'bad_row' is its `error` if it has no URI."""
    uri = values.get(columns.uri)
    if not isinstance(uri, str) or not uri:
        return Row("", {}, ItemError("bad_row", f"no URI in column {columns.uri!r}"))
    return Row(uri, {name: values[name] for name in columns.passed if name in values})


def check_columns(path: str, columns: Columns, names: Iterable[str]) -> None:
    """Raises BadInput if one of `columns` is not among `names`."""
    missing = [name for name in (columns.uri, *columns.passed) if name not in set(names)]
    if missing:
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(names) or 'none'}: "
            "set --uri_column and --pass_through"
        )
