"""The layout of clip-retrieval: embeddings as .npy, all else as Parquet beside them, numbered with zeros as its readers sort
by name (github.com/rom1504/embedding-reader)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from transforms.exporting import parquet, vectors
from transforms.exporting.base import Export, Part, batches
from transforms.exporting.files import placed
from transforms.records import columns

_EMBEDDING = "embedding"


class _Npy:
    name = "npy"
    final = ""
    needs_embedding = True
    described_by = "metadata/metadata_*.parquet"
    files = ("img_emb/img_emb_*.npy", described_by)

    def done(self, export: Export, part: Part) -> str:
        """The embeddings. Nothing for a shard without features, since readers fail on an array without rows."""
        return export.place.file("img_emb", f"img_emb_{part.number}.npy") if part.rows else ""

    def write(self, export: Export, part: Part, schema: pa.Schema) -> None:
        """Writes the part's two files, side by side, in one pass."""
        target = vectors.schema(export, schema)
        vector = target.field(_EMBEDDING).type
        header = {
            "descr": np.lib.format.dtype_to_descr(
                np.dtype(vector.value_type.to_pandas_dtype()).newbyteorder("<")
            ),
            "fortran_order": False,
            "shape": (part.rows, vector.list_size),
        }
        rest = target.remove(target.get_field_index(_EMBEDDING))
        # The block inside ends first: the embeddings, which say that the part is done, come last.
        with (
            placed(self.done(export, part)) as embeddings,
            placed(export.place.file("metadata", f"metadata_{part.number}.parquet")) as metadata,
        ):
            np.lib.format.write_array_header_1_0(embeddings, header)

            def others() -> Iterator[pa.RecordBatch]:
                for batch in batches(export.layout, part, schema):
                    converted = vectors.convert(export, batch, target)
                    embeddings.write(columns.to_numpy(converted.column(_EMBEDDING)).data.cast("B"))
                    yield converted.select(rest.names).replace_schema_metadata(rest.metadata)

            parquet.write(metadata, rest, others())

    def finish(self, export: Export) -> None:
        """Nothing is left to do."""


FORMAT = _Npy()
