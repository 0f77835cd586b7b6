"""What a row of a list is, whatever the format of the list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transforms.errors import ItemError
from transforms.sources.base import BadInput


@dataclass(frozen=True)
class Columns:
    """Which column holds the URI and which are copied into the feature record."""

    uri: str
    passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row: its URI, or why it has none; and the columns to pass through."""

    uri: str
    columns: dict[str, object]
    error: ItemError | None = None


def row_of(values: dict[str, object], columns: Columns) -> Row:
    """The row with these values by column; one without a URI comes with its error."""
    uri = values.get(columns.uri)
    if not isinstance(uri, str) or not uri:
        return Row("", {}, ItemError("bad_row", f"no URI in column {columns.uri!r}"))
    return Row(uri, {name: values[name] for name in columns.passed if name in values})


def check_columns(path: str, columns: Columns, names: Iterable[str]) -> None:
    """Raises BadInput if a column that is asked for is not among `names`."""
    missing = [name for name in (columns.uri, *columns.passed) if name not in set(names)]
    if missing:
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(names) or 'none'}: "
            "name them with --uri_column and --pass_through"
        )
