"""One pass over all features: an evenly spread sample of them, and figures of all, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.flags import RequestError
from pipeline.look.statistics import Statistics
from pipeline.outputs import Committed
from transforms.exporting import base
from transforms.exporting.base import Part
from transforms.exporting.tensorboard import sample
from transforms.records import columns, features

MOST = 5000  # pictures on a page
_DIGESTS = 1 << 23  # images compared for exact duplicates


@dataclass(frozen=True)
class Row:
    """One record, without its vector."""

    number: int  # in the whole output, from 0
    label: str  # of its shard
    index: int  # in the shard's feature file
    key: bytes
    sha256: str
    width: int  # of the image, in pixels
    height: int
    passed: dict[str, tuple[bytes, ...]]  # by feature, as text


@dataclass
class Scan:
    """What one pass over the features has found."""

    rows: list[Row]  # the sample, in order
    vectors: np.ndarray  # of the sample, float32 (rows, dimensions)
    statistics: Statistics
    digests: np.ndarray  # uint64, the first 8 bytes of each image's SHA-256, if below a limit
    digest_rows: np.ndarray  # the row of each
    share: float  # of all images whose digests are below that limit
    parts: Sequence[Part] = field(default_factory=tuple)


def vector_of(committed: Committed) -> str:
    """The output that the page is about: the embedding, else the logits. Raises RequestError if there is neither."""
    dimensions = columns.vectors_of(_dimensions(committed))
    names = [name for name, _ in dimensions]
    for name in ("embedding", "logits"):
        if name in names:
            return name
    raise RequestError(
        f"{committed.layout.folder} has neither embedding nor logits, whose similarities the page shows"
    )


def read(committed: Committed, vector: str, limit: int) -> Scan:
    """Reads all features once. Raises Damaged."""
    schema = _schema(committed, vector)
    rows: list[Row] = []
    kept = np.empty((min(limit, committed.rows), schema.field(vector).type.list_size), np.float32)
    statistics = Statistics(kept.shape[1], committed.rows)
    # Equal images have equal digests, so those below a limit are a fair share, in which groups are complete.
    share = min(1.0, _DIGESTS / committed.rows)
    below = np.uint64(min(share * 2.0**64, 2.0**64 - 2048))
    digests, digest_rows = [], []
    for part in committed.parts:
        wanted = np.array(sample(limit, committed.rows, part.first, part.rows), np.int64)
        for start, batch in _batches(committed, part, schema):
            vectors = columns.to_numpy(batch.column(vector))
            statistics.add(vectors)
            inside = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
            kept[len(rows) : len(rows) + len(inside)] = vectors[inside]
            rows += _rows(part, start, batch, inside.tolist())
            heads = np.array(
                [int(text[:16], 16) for text in batch.column(features.SHA256).to_pylist()], np.uint64
            )
            at = np.flatnonzero(heads <= below)
            digests.append(heads[at])
            digest_rows.append(part.first + start + at)
    return Scan(
        rows, kept, statistics, np.concatenate(digests), np.concatenate(digest_rows), share, committed.parts
    )


def look_up(committed: Committed, vector: str, numbers: Sequence[int]) -> Iterator[tuple[Row, np.ndarray]]:
    """The records of some rows of the whole output, in order, each with its vector. Reads only their shards."""
    schema, wanted = _schema(committed, vector), np.array(sorted(numbers), np.int64)
    for part in committed.parts:
        of_part = wanted[(wanted >= part.first) & (wanted < part.first + part.rows)] - part.first
        if not len(of_part):
            continue
        for start, batch in _batches(committed, part, schema):
            inside = of_part[(of_part >= start) & (of_part < start + len(batch))] - start
            vectors = columns.to_numpy(batch.column(vector))
            yield from zip(_rows(part, start, batch, inside.tolist()), vectors[inside].copy(), strict=True)
            if start + len(batch) > of_part[-1]:
                break


def _dimensions(committed: Committed) -> dict[str, int]:
    return {name: size for receipt in committed.receipts for name, size in receipt.outputs.items()}


def _schema(committed: Committed, vector: str) -> pa.Schema:
    """Columns that hold any record: what is passed through is lists of bytes, whatever its type."""
    size = _dimensions(committed)[vector]
    passed = committed.receipts[0].fingerprint["schema"]["pass_through"]
    return pa.schema(
        [
            pa.field(features.KEY, pa.binary(), False),
            pa.field(vector, pa.list_(pa.field("element", pa.float32(), False), size), False),
            pa.field(features.WIDTH, pa.int64(), False),
            pa.field(features.HEIGHT, pa.int64(), False),
            pa.field(features.SHA256, pa.string(), False),
            *(pa.field(name, pa.list_(pa.binary())) for name in passed),
        ]
    )


def _batches(committed: Committed, part: Part, schema: pa.Schema) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row in the part, batch)."""
    start = 0
    for batch in base.batches(committed.layout, part, schema):
        yield start, batch
        start += len(batch)


def _rows(part: Part, start: int, batch: pa.RecordBatch, wanted: Sequence[int]) -> Iterator[Row]:
    taken = batch.take(pa.array(wanted, pa.int64())) if wanted else batch.slice(0, 0)
    standard = [
        taken.column(name).to_pylist()
        for name in (features.KEY, features.SHA256, features.WIDTH, features.HEIGHT)
    ]
    names = [field.name for field in batch.schema if pa.types.is_list(field.type)]
    passed = [taken.column(name).to_pylist() for name in names]
    for at, row, (key, sha256, width, height) in zip(itertools.count(), wanted, zip(*standard, strict=True)):
        values = {name: tuple(column[at] or ()) for name, column in zip(names, passed, strict=True)}
        index = start + row
        yield Row(part.first + index, part.label, index, key, sha256, width, height, values)
