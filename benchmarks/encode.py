"""Encoding feature records: ours against tfx-bsl's RecordBatchToExamplesEncoder: python -m benchmarks.encode

Prints microseconds a record of 6144 floats, medians of alternating rounds, and whether two calls give the same bytes.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pyarrow as pa

from benchmarks import machine
from transforms import records
from transforms.elements import Decoded

_BATCH, _ROUNDS, _REPEATS = 64, 9, 5


def ours(items: list[Decoded], vectors: np.ndarray) -> list[bytes]:
    return [records.encode(item, {"embedding": vector}) for item, vector in zip(items, vectors, strict=True)]


def tfx_bsl(encoder, items: list[Decoded], vectors: np.ndarray) -> list[bytes]:
    """The same records through Arrow."""
    one = pa.array(np.arange(len(items) + 1, dtype=np.int32))
    many = pa.array(np.arange(len(items) + 1, dtype=np.int32) * vectors.shape[1])
    columns = {
        "key": pa.ListArray.from_arrays(one, pa.array([item.key for item in items])),
        "embedding": pa.ListArray.from_arrays(many, pa.array(vectors.reshape(-1))),
        "image/width": pa.ListArray.from_arrays(one, pa.array([item.width for item in items])),
        "image/height": pa.ListArray.from_arrays(one, pa.array([item.height for item in items])),
        "image/sha256": pa.ListArray.from_arrays(one, pa.array([item.sha256.encode() for item in items])),
    }
    return encoder.encode(pa.RecordBatch.from_arrays(list(columns.values()), list(columns)))


def main() -> None:
    from tfx_bsl.public.tfxio import RecordBatchToExamplesEncoder

    vectors = np.random.RandomState(0).standard_normal((_BATCH, 6144)).astype(np.float32)
    items = [Decoded(b"key-%d" % i, i, i, 500, 375, f"{i:064x}") for i in range(_BATCH)]
    encoder = RecordBatchToExamplesEncoder()
    ways = {"ours": lambda: ours(items, vectors), "tfx-bsl": lambda: tfx_bsl(encoder, items, vectors)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, encode in ways.items():
            began = time.perf_counter()
            for _ in range(_REPEATS):
                encode()
            seconds[name].append((time.perf_counter() - began) / _REPEATS / _BATCH)
    print(machine.describe())
    for name, encode in ways.items():
        same = encode() == encode()
        print(
            f"{name:8} {statistics.median(seconds[name]) * 1e6:6.1f} us a record, the same bytes in each call: {same}"
        )


if __name__ == "__main__":
    main()
