"""Rows of Parquet files. A slice is a range of row numbers."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from transforms.sources.base import BadInput
from transforms.sources.rows import Columns, Row, Slice, check_columns, row_of, slices
from transforms.storage import door
from transforms.storage.errors import changed_since_planned

_BATCH_ROWS = 65_536


def cut(path: str, columns: Columns, rows_per_slice: int) -> Iterator[Slice]:
    """The slices of a list, each (start, end, rows, SHA-256). Raises BadInput if a column is missing."""
    return slices(((_row_bytes(values), 1, True) for values in _values(path, columns)), 0, rows_per_slice)


def count(path: str, most: int) -> int:
    """How many rows a file has, up to `most`."""
    with open_parquet(path) as file:
        return min(most, file.metadata.num_rows)


def read(path: str, columns: Columns, start: int, end: int) -> Iterator[Row | str]:
    """The rows of a slice, then, as the last item, the SHA-256 of what was read."""
    digest = hashlib.sha256()
    for values in _values(path, columns, start, end):
        digest.update(_row_bytes(values))
        yield row_of(values, columns)
    yield digest.hexdigest()


def _values(path: str, columns: Columns, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    with open_parquet(path) as file:
        check_columns(path, columns, file.schema_arrow.names)
        names = list(dict.fromkeys((columns.uri, *columns.passed)))
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start and (end is None or first < end):
                high = size if end is None else min(end - first, size)
                for batch in group_batches(file, group, names, max(start - first, 0), high, _BATCH_ROWS):
                    yield from batch.to_pylist()
            first += size


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
            raise BadInput(
                f"{path} is not a Parquet file ({error}); name its format with --input_format"
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


def _row_bytes(values: dict[str, object]) -> bytes:
    return repr(sorted(values.items())).encode("utf-8", "surrogateescape")
