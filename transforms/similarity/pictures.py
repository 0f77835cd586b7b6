"""The pictures of an output, as far as a search for duplicates needs them: keys, sizes, digests and distinct vectors."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transforms.records import columns, features
from transforms.similarity.vectors import Vectors, has_direction, norms


@dataclass(frozen=True)
class Pictures:
    """The records of an output, in order. Those with equal bytes, or with equal vectors, share a vector."""

    keys: pa.ChunkedArray  # binary
    digests: pa.ChunkedArray  # SHA-256 of the encoded images
    areas: np.ndarray  # int64, pixels
    vector_of: np.ndarray  # int64, numbers in `vectors`
    vectors: Vectors
    without_direction: int = 0  # vectors that are zero or have a value that is not finite

    def __len__(self) -> int:
        return len(self.vector_of)


def schema(dimensions: int) -> pa.Schema:
    """The columns that `collect` reads."""
    found = columns.schema({}, 1, {"embedding": dimensions})
    return found.set(found.get_field_index(features.KEY), pa.field(features.KEY, pa.binary(), False))


def collect(
    batches: Iterable[pa.RecordBatch], dimensions: int, tick: Callable[[int], None] = lambda rows: None
) -> Pictures:
    """Reads all records; the vectors go to a temporary file. `tick` is called with the rows read so far."""
    with tempfile.TemporaryFile(prefix="bit-features-") as file:
        return _collect(batches, Vectors(file, dimensions), tick)


def _collect(batches: Iterable[pa.RecordBatch], vectors: Vectors, tick: Callable[[int], None]) -> Pictures:
    by_bytes: dict[bytes, int] = {}
    by_vector: dict[bytes, int] = {}
    numbers = array("q")  # 8 bytes each, where a list has 36
    keys, digests, areas, without = [], [], [np.empty(0, np.int64)], 0
    for batch in batches:
        values = columns.to_numpy(batch["embedding"])
        packed = map(bytes.fromhex, batch[columns.SHA256].to_pylist())
        for digest, vector, norm in zip(packed, values, norms(values), strict=True):
            if digest not in by_bytes:
                if not has_direction(norm):  # equal to no other, since it has no cosine
                    by_bytes[digest], without = vectors.append(vector, norm), without + 1
                else:
                    equal = hashlib.blake2b(vector, digest_size=16).digest()
                    if equal not in by_vector:
                        by_vector[equal] = vectors.append(vector, norm)
                    by_bytes[digest] = by_vector[equal]
            numbers.append(by_bytes[digest])
        keys.append(batch[features.KEY])
        digests.append(batch[columns.SHA256])
        areas.append(batch[columns.WIDTH].to_numpy() * batch[columns.HEIGHT].to_numpy())
        tick(len(numbers))
    vectors.freeze()
    return Pictures(
        pa.chunked_array(keys, pa.binary()),
        pa.chunked_array(digests, pa.string()),
        np.concatenate(areas),
        np.array(numbers, np.int64),
        vectors,
        without,
    )
