"""The source of Parquet files that hold images: a run of rows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import google_crc32c
from apache_beam.io.filesystem import BeamIOError

from transforms import counters
from transforms.elements import Encoded, Failure
from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records import examples
from transforms.sources import parquet_columns, parquet_values, summed
from transforms.sources.base import Item, Reading
from transforms.sources.parquet_rows import RowValues, group_batches, open_parquet, rows_of
from transforms.storage import door

_BATCH_ROWS = 16  # in memory at once: images can be megabytes


@dataclass(frozen=True)
class ImageRows:
    """The rows [start, end) of a Parquet file that holds images in its column `image`."""

    uri: str
    image: str
    others: tuple[str, ...]  # the columns, or fields of structs, that are read besides
    start: int
    end: int
    size_bytes: int  # of the file
    modified: float  # seconds since the epoch, as the file system gives it; 0 where it gives none
    crc32c: str = ""  # of what the rows hold in these columns, in hexadecimal; '' until they have been read

    cut_by = "--images_per_shard"
    unused_images = 0

    @property
    def units(self) -> int:
        return self.end - self.start

    @property
    def inputs(self) -> int:
        return self.units

    def items(self, reading: Reading) -> Generator[Item, None, ImageRows]:
        """The images of the rows that are due; what cannot be read as failures. All rows are read, for the sum."""
        crc = 0
        with self._open() as file:
            for position, row in enumerate(itertools.islice(self._rows(file), reading.limit)):
                crc = self._extended(crc, row)
                if position in reading.due:
                    counters.PROCESS.add(units=1)
                    yield self._item(row, position, reading)
        return self if reading.limit else replace(self, crc32c=f"{crc:08x}")

    def _open(self) -> AbstractContextManager[Any]:
        # Neither all columns of a row group at once nor all of one column, but a buffer of each.
        streamed = {"pre_buffer": False, "buffer_size": door.block_bytes(self.uri)}
        return open_parquet(self.uri, self.size_bytes, page_checksum_verification=True, **streamed)

    def _rows(self, file: Any) -> Iterator[RowValues]:
        """Every row; those of a row group behind damage are errors, for nothing tells where its next page begins."""
        import pyarrow

        columns = parquet_columns.to_read(file.schema_arrow, self.image, self.others)
        first = 0  # row of the group
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            at, end = max(self.start - first, 0), min(self.end - first, size)
            first += size
            if at >= end:
                continue
            reason = "it ends early"
            try:
                for batch in group_batches(file, group, columns, at, end, _BATCH_ROWS):
                    for index in range(len(batch)):  # images: one at a time
                        yield from rows_of(batch.slice(index, 1))
                    at += len(batch)
            except BeamIOError:  # of storage, and an OSError, too
                raise
            except (OSError, pyarrow.ArrowException) as error:
                reason = str(error).strip()
            damage = f"row group {group} of {public_uri(self.uri)} cannot be read: {reason}"
            for _ in range(at, end):
                yield ItemError("damaged_record", damage)

    def _extended(self, crc: int, row: RowValues) -> int:
        """The sum, with one more row."""
        if isinstance(row, ItemError):
            return google_crc32c.extend(crc, row.code.encode())
        image = parquet_values.image_bytes(row[self.image])
        others = [parquet_values.value(row, name) for name in self.others]
        about = repr((None if image is None else len(image), others))
        crc = google_crc32c.extend(crc, image or b"")
        return google_crc32c.extend(crc, about.encode("utf-8", "surrogateescape"))

    def _item(self, row: RowValues, position: int, reading: Reading) -> Item:
        settings = reading.settings
        key = default_key(reading.name, self.start, position)
        try:
            if isinstance(row, ItemError):
                raise row
            if settings.key_feature:
                key = parquet_values.key(row, settings.key_feature)
            image = parquet_values.image(row, self.image)
            values = {name: parquet_values.flat(row, name) for name in settings.pass_through}
            passed, unfit = examples.typed(values, settings.kinds_by_name)
        except ItemError as error:
            return Failure(key, position, "read", error.code, str(error))
        except (ValueError, OverflowError) as error:  # a number beyond 64 bits
            return Failure(key, position, "read", "bad_row", f"a value cannot be stored: {error}")
        return Encoded(key, position, image, passed, unfit)

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "parquet_images",
            "start": self.start,
            "end": self.end,
            "rows": self.end - self.start,
            "size_bytes": self.size_bytes,
            "modified": self.modified,
            "crc32c": self.crc32c,
        }

    def change(self, before: Mapping[str, Any]) -> str:
        return summed.change(before, self.identity(), self._read_again)

    def _read_again(self) -> str:
        with self._open() as file:
            return f"{functools.reduce(self._extended, self._rows(file), 0):08x}"


def default_key(name: str, start: int, position: int) -> bytes:
    """`name#row`, with the row's number in the whole file."""
    return f"{name}#{start + position}".encode("utf-8", "surrogateescape")
