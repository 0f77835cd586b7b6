"""One Parquet file per shard, all of one schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.exporting import vectors
from transforms.exporting.base import Export, Part, batches
from transforms.exporting.files import Output, placed
from transforms.records import columns
from transforms.storage import door

_GROUP_BYTES = 32 << 20  # 32 MiB of vectors, which are in memory until the row group is complete
_MAX_GROUP_ROWS = 16_384


def write(out: Output, schema: pa.Schema, rows: Iterable[pa.RecordBatch]) -> None:
    """Writes a Parquet file, whose row groups depend on the rows and the schema alone."""
    group = group_rows(schema)
    with pq.ParquetWriter(out, schema, **options(schema)) as writer:
        pending: list[pa.RecordBatch] = []
        count = 0
        for batch in rows:
            while count + len(batch) >= group:
                head = group - count
                writer.write_table(pa.Table.from_batches([*pending, batch.slice(0, head)], schema))
                pending, count, batch = [], 0, batch.slice(head)
            if len(batch):
                pending.append(batch)
                count += len(batch)
        if count:
            writer.write_table(pa.Table.from_batches(pending, schema))


def group_rows(schema: pa.Schema) -> int:
    """Rows per row group."""
    return max(1, min(_MAX_GROUP_ROWS, _GROUP_BYTES // columns.row_bytes(schema)))


def options(schema: pa.Schema) -> dict[str, Any]:
    """How pyarrow writes: vectors as they are, for neither a dictionary nor a general compression makes them smaller."""
    dense = columns.vectors(schema)
    others = [name for name in schema.names if name not in dense]
    compression = {path: "none" if path.split(".")[0] in dense else "zstd" for path in _paths(schema)}
    return {"use_dictionary": others, "write_statistics": others, "compression": compression}


def _paths(schema: pa.Schema) -> list[str]:
    """The columns as Parquet names them."""
    return [f"{f.name}.list.element" if f.type.num_fields else f.name for f in schema]


def request_of(path: str) -> bytes | None:
    """The request that a Parquet file of an export was made for, as JSON; None if an export did not write it."""
    with door.open_binary(path) as stream:
        try:
            return (pq.read_schema(stream).metadata or {}).get(b"bit_features.request")
        except pa.ArrowException:
            return None


class _Parquet:
    name = "parquet"
    final = ""
    needs_embedding = False
    described_by = "features-*.parquet"
    files = (described_by,)

    def done(self, export: Export, part: Part) -> str:
        """The file, also for a shard without features: readers find one per shard."""
        return export.place.file(f"features-{part.name}.parquet")

    def write(self, export: Export, part: Part, schema: pa.Schema) -> None:
        """Writes the part's file."""
        target = vectors.schema(export, schema)
        with placed(self.done(export, part)) as out:
            rows = batches(export.layout, part, schema)
            write(out, target, (vectors.convert(export, batch, target) for batch in rows))

    def finish(self, export: Export) -> None:
        """Nothing is left to do."""


FORMAT = _Parquet()
