"""A row of a list, independent of the list's format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from transforms.errors import ItemError
from transforms.sources.base import BadInput

Slice = tuple[int, int, int, str]  # start, end, number of rows, SHA-256 of the rows


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


def slices(rows: Iterable[tuple[bytes, int, bool]], start: int, rows_per_slice: int) -> Iterator[Slice]:
    """Slices of at most `rows_per_slice` rows, from `start` on. Each row: its bytes, its length, whether it is an input."""
    end, count, digest = start, 0, hashlib.sha256()
    for raw, length, is_input in rows:
        end += length
        digest.update(raw)
        count += is_input
        if count == rows_per_slice:
            yield start, end, count, digest.hexdigest()
            start, count, digest = end, 0, hashlib.sha256()
    if count:
        yield start, end, count, digest.hexdigest()


def row_of(values: Mapping[str, object], columns: Columns) -> Row:
    """A row from its values by column; ItemError 'bad_row' is its `error` if it has no URI."""
    uri = values.get(columns.uri)
    if not isinstance(uri, str) or not uri:
        return Row("", {}, ItemError("bad_row", f"no URI in column {columns.uri!r}"))
    return Row(uri, {name: values[name] for name in columns.passed if name in values})


def check_columns(path: str, columns: Columns, names: Iterable[str], likely_cause: str = "") -> None:
    """Raises BadInput if one of `columns` is not among `names`."""
    missing = [name for name in (columns.uri, *columns.passed) if name not in set(names)]
    if missing:
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(names) or 'none'}: "
            + (likely_cause or "set --uri_column and --pass_through")
        )
