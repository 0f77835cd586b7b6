"""What --dtype and --normalize do to the vectors of a batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from transforms.exporting.base import BadExport, Export
from transforms.records import columns

_TYPES = {"float32": pa.float32(), "float16": pa.float16()}


def schema(export: Export, records: pa.Schema) -> pa.Schema:
    """The columns as they are written, with what they say about the features."""
    for name in columns.vectors(records):
        index, field = records.get_field_index(name), records.field(name)
        item = field.type.value_field.with_type(_TYPES[export.dtype])
        records = records.set(index, field.with_type(pa.list_(item, field.type.list_size)))
    return records.with_metadata(export.metadata)


def convert(export: Export, batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns of `target`, a schema of `schema`. Raises BadExport for a value that float16 cannot hold."""
    arrays = list(batch.columns)
    for name in columns.vectors(batch.schema):
        index, field = batch.schema.get_field_index(name), target.field(name)
        values = columns.to_numpy(arrays[index])
        if name == "embedding" and export.normalize == "l2":
            values = l2_normalized(values)
        if export.dtype == "float16":
            values = _as_float16(name, values, batch)
        arrays[index] = columns.vector(values, field.type)
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def l2_normalized(values: np.ndarray) -> np.ndarray:
    """Rows of float32 (rows, dimensions) divided by their L2 norms, which are summed up in float64; zeros stay zeros."""
    norms = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1, keepdims=True))
    return (values / np.where(norms == 0, 1, norms)).astype(np.float32)


def _as_float16(name: str, values: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    overflowed = np.isinf(halves) & np.isfinite(values)
    if overflowed.any():
        row = int(overflowed.any(axis=1).argmax())
        remedy = ", or --normalize=l2" if name == "embedding" else ""  # which leaves the logits as they are
        raise BadExport(
            f"{name} of {batch.column('key')[row].as_py()!r} has the value {values[row][overflowed[row]][0]:g}, and float16 "
            f"ends at 65504: use --dtype=float32{remedy}"
        )
    return halves
