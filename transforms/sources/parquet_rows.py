"""Rows of Parquet files. A slice is a range of row numbers."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from transforms.errors import ItemError
from transforms.sources import rows
from transforms.sources.base import WHOLE, BadInput, Bounds, as_bad_input
from transforms.sources.rows import Columns, Row, Slice, check_columns, row_of, slices
from transforms.storage import door
from transforms.storage.errors import changed_since_planned, describe

_BATCH_ROWS = 65_536


def cut(path: str, columns: Columns, rows_per_slice: int, bounds: Bounds = WHOLE) -> Iterator[Slice]:
    """The slices of a list, or of its rows within bounds, each (start, end, rows, SHA-256).

    Raises BadInput if a column is missing, that of the URIs is not text, or a page is damaged."""
    due = _rows(path, columns, *bounds)
    yield from slices(((_row_bytes(row), 1, True) for row in due), bounds[0], rows_per_slice)


def count(path: str, most: int, bounds: Bounds = WHOLE) -> int:
    """How many rows a file has, within bounds, up to `most`."""
    with as_bad_input(path), open_parquet(path) as file:
        total = file.metadata.num_rows
    end = total if bounds[1] is None else min(total, bounds[1])
    return min(most, max(0, end - bounds[0]))


def agreeing(path: str, columns: Columns, earlier: Sequence[Slice]) -> Iterator[int]:
    """The ends of the slices whose rows are what they were: see `rows.agreeing`."""
    rows_now = _rows(path, columns, earlier[0][0], earlier[-1][1])
    yield from rows.agreeing(((_row_bytes(row), 1, True) for row in rows_now), earlier)


def read(path: str, columns: Columns, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then, as the last item, the SHA-256 of what was read."""
    digest = hashlib.sha256()
    for row in _rows(path, columns, start, end):
        digest.update(_row_bytes(row))
        yield Row("", {}, row) if isinstance(row, ItemError) else row_of(row, columns)
    yield digest.hexdigest()


def types(path: str) -> dict[str, Any]:
    """The Arrow type of each column."""
    with as_bad_input(path), open_parquet(path) as file:
        return {field.name: field.type for field in file.schema_arrow}


def _rows(path: str, columns: Columns, start: int = 0, end: int | None = None) -> Iterator[RowValues]:
    import pyarrow

    with as_bad_input(path), open_parquet(path) as file:
        check_columns(path, columns, file.schema_arrow.names)
        _check_uris(path, columns, file.schema_arrow.field(columns.uri).type)
        names = list(dict.fromkeys((columns.uri, *columns.passed)))
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start and (end is None or first < end):
                high = size if end is None else min(end - first, size)
                try:
                    for batch in group_batches(file, group, names, max(start - first, 0), high, _BATCH_ROWS):
                        yield from rows_of(batch)
                except BeamIOError:  # of storage, and an OSError, too
                    raise
                except (OSError, pyarrow.ArrowException) as error:
                    raise BadInput(
                        f"{path} cannot be read: row group {group}, of rows {first} to {first + size - 1}, is damaged "
                        f"({describe(error)}): make or copy the file again"
                    ) from error
            first += size


def _check_uris(path: str, columns: Columns, kind: Any) -> None:
    from pyarrow import types

    text = kind.value_type if types.is_dictionary(kind) else kind
    if str(text) not in ("string", "large_string", "string_view"):
        raise BadInput(
            f"{path}: column {columns.uri!r} is {kind}, and a URI is text: name another column with --uri_column, or write "
            "this one as text"
        )


RowValues = Mapping[str, Any] | ItemError  # what a row holds by column, or why it cannot be read


def rows_of(batch: Any) -> Iterator[RowValues]:
    """The rows of a batch; one with a value that Python cannot hold costs itself alone."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a time beyond the year 9999
        if len(batch) == 1:
            yield ItemError("bad_row", f"a value cannot be read: {error}")
        else:
            for index in range(len(batch)):
                yield from rows_of(batch.slice(index, 1))


@contextlib.contextmanager
def open_parquet(path: str, size_bytes: int | None = None, **options: Any) -> Iterator[Any]:
    """Opens a pyarrow ParquetFile. Raises BadInput if the file is not Parquet, StorageFailed if it no longer has `size_bytes`.

    `options` are pyarrow's.
    """
    import pyarrow.parquet

    with door.open_binary(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        if size_bytes is not None and size != size_bytes:
            raise changed_since_planned(path, size_bytes, size)
        try:
            file = pyarrow.parquet.ParquetFile(stream, **options)
        except BeamIOError:
            raise
        except (OSError, pyarrow.ArrowException) as error:  # the former is a footer that cannot be parsed
            with as_bad_input(path):
                door.check_is_plain(path)
            raise BadInput(
                f"{path} is not a Parquet file, or was cut short ({describe(error)}): make or copy it again, or name its format "
                "with --input_format"
            ) from error
        yield file


def group_batches(
    file: Any, group: int, columns: Sequence[str], start: int, end: int, batch_rows: int
) -> Iterator[Any]:
    """The rows [start, end) of a row group, counted from its first, as Arrow record batches."""
    at = 0
    for batch in file.iter_batches(row_groups=[group], columns=list(columns), batch_size=batch_rows):
        low, high = max(start - at, 0), min(end - at, len(batch))
        if low < high:
            yield batch.slice(low, high - low)
        at += len(batch)
        if at >= end:
            return


def _row_bytes(row: RowValues) -> bytes:
    if isinstance(row, ItemError):
        return row.code.encode()
    return repr(sorted(row.items())).encode("utf-8", "surrogateescape")
