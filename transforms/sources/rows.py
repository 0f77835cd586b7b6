"""A row of a list, independent of the list's format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transforms.errors import ItemError
from transforms.sources.base import BadInput

_LINE_ENDS = (b"\n", b"\r\n", b"\r")
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


def agreeing(rows: Iterable[tuple[bytes, int, bool]], earlier: Sequence[Slice]) -> Iterator[int]:
    """The end of each slice, in order, whose rows are what they were; stops at the first that has others.

    `rows` are those from the start of the first slice on."""
    upcoming = iter(earlier)
    at, end, _, digest = next(upcoming)
    now = hashlib.sha256()
    for raw, length, _ in rows:
        at += length
        if at > end and raw[end - at :] in _LINE_ENDS:  # which the last row has only since others follow
            raw, at = raw[: end - at], end
        now.update(raw)
        if at < end:
            continue
        if at > end or now.hexdigest() != digest:
            return
        yield end
        _, end, _, digest = next(upcoming, (0, 0, 0, ""))
        if not end:
            return
        now = hashlib.sha256()


def row_of(values: Mapping[str, object], columns: Columns) -> Row:
    """A row from its values by column; ItemError 'bad_row' is its `error` if it has no URI."""
    uri = values.get(columns.uri)
    if not isinstance(uri, str) or not uri:
        return Row("", {}, ItemError("bad_row", f"no URI in column {columns.uri!r}"))
    return Row(uri, {name: values[name] for name in columns.passed if name in values})


def check_columns(path: str, columns: Columns, names: Sequence[str], likely_cause: str = "") -> None:
    """Raises BadInput if one of `columns` is not among `names`, or is there more than once."""
    asked = (columns.uri, *columns.passed)
    missing = [name for name in asked if name not in set(names)]
    if missing:
        padded = next((name for name in names if name.strip() in missing), None)
        if padded is not None:
            likely_cause = f"the blanks in {padded!r} are part of its name: take them out of the list"
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {listed(names)}: "
            + (likely_cause or "set --uri_column and --pass_through")
        )
    check_once(path, asked, names)


def check_once(path: str, asked: Iterable[str], names: Sequence[str]) -> None:
    """Raises BadInput if one of the columns `asked` for has its name in common with another."""
    for name in asked:
        if (count := names.count(name)) > 1:
            raise BadInput(
                f"{path} has {count} columns named {name!r}; its columns are {listed(names)}: rename all but the one that "
                "is meant"
            )


def listed(names: Iterable[str]) -> str:
    """Names of columns for a message, in quotes where it would not show that they are empty or have blanks at their ends."""
    return ", ".join(name if name and name == name.strip() else repr(name) for name in names) or "none"
