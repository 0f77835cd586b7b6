"""The features of an output as Arrow and NumPy: `from pipeline import read`."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline import outputs
from transforms.commit import committed as files
from transforms.exporting import base
from transforms.records import columns, features


class Features:
    """The records of one or several outputs, in the order of shards and rows, with the columns of a Parquet export.

    Nothing is kept: each pass reads the files again, with a few megabytes in memory.
    """

    def __init__(
        self, output: str | Sequence[str], names: Sequence[str] | None = None, partial: bool = False
    ):
        self._outputs = outputs.several([output] if isinstance(output, str) else output, partial)
        self._names = names
        if isinstance(names, str):
            raise TypeError(f"read takes the names of columns; for a single one: columns=[{names!r}]")
        _selected(self._schema({}), names)  # now: not every use would look at the names

    def __len__(self) -> int:
        """The number of records."""
        return self._outputs.rows

    @functools.cached_property
    def manifest(self) -> dict:
        """The manifest of the shards read, of all outputs together."""
        return json.loads(self._outputs.manifest)

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns. Their types follow from all records, which the first call reads through."""
        vectors = columns.vectors_of(self.manifest["dimensions"])
        seen = columns.merge(
            columns.summarize(files.records(output.layout.features(part.label), part.file), vectors)
            for output, part in self._outputs.parts
            if part.file
        )
        return _selected(self._schema(seen), self._names)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Record batches of about 16 MB. Raises Damaged if a file is not the one that was committed."""
        return self._batches(self.schema)

    def to_numpy(self, column: str = "embedding") -> np.ndarray:
        """An output of the model as one float32 array (records, dimensions).

        Raises KeyError for a column that is not a vector.
        """
        dimensions = self.manifest["dimensions"]
        vector = columns.schema({}, len(self), dimensions)
        if column not in columns.vectors(vector):
            raise KeyError(f"no vector {column!r}; there are {', '.join(columns.vectors(vector))}")
        out, start = np.empty((len(self), dimensions[column]), np.float32), 0
        for batch in self._batches(_selected(vector, [column])):
            out[start : start + len(batch)] = columns.to_numpy(batch.column(0))
            start += len(batch)
        return out

    def keys(self) -> list[str] | list[bytes]:
        """The key of each record: text, or bytes if one of them is not UTF-8."""
        schema = pa.schema([pa.field(features.KEY, pa.binary(), False)])
        found = list(itertools.chain.from_iterable(b.column(0).to_pylist() for b in self._batches(schema)))
        try:
            return [key.decode() for key in found]
        except UnicodeDecodeError:
            return found

    def _schema(self, seen: columns.Summaries) -> pa.Schema:
        """All columns. Their names follow from the manifest alone, their types from what the records hold."""
        passed = self.manifest["schema"]
        return columns.schema(
            seen,
            len(self),
            self.manifest["dimensions"],
            passed["pass_through"],
            passed.get("pass_through_types"),
        )

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for output, part in self._outputs.parts:
            yield from base.batches(output.layout, part, schema)


def _selected(schema: pa.Schema, names: Sequence[str] | None) -> pa.Schema:
    if names is None:
        return schema
    if missing := [name for name in names if name not in schema.names]:
        raise KeyError(f"no column {missing[0]!r}; there are {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in names])
