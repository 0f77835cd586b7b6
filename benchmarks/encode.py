"""Encoding feature records: ours beside tfx-bsl's RecordBatchToExamplesEncoder: python -m benchmarks.encode

Prints microseconds per record of 6144 floats, medians of alternating rounds, and whether two calls give the same bytes.
Then the time of a shard from arrays in memory to its commit on this disk: encoding, framing, both checksums, writing.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa

from benchmarks import figures, machine
from bit.command import exit_with
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, FeatureChunk, Shard
from transforms.records import features
from transforms.sources.tfrecord import RecordFile

_BATCH, _ROUNDS, _REPEATS = 64, 9, 5
_SHARD_BATCHES = 20  # 1280 images, as in a shard of ImageNet


def ours(items: list[Decoded], vectors: np.ndarray) -> list[bytes]:
    """Records of float32 vectors (n, 6144)."""
    return [features.serialize(item, {"embedding": vectors}) for item in items]


def tfx_bsl(encoder, items: list[Decoded], vectors: np.ndarray) -> list[bytes]:
    """The same records through Arrow."""
    single = pa.array(np.arange(len(items) + 1, dtype=np.int32))
    vector = pa.array(np.arange(len(items) + 1, dtype=np.int32) * vectors.shape[1])
    columns = {
        "key": pa.ListArray.from_arrays(single, pa.array([item.key for item in items])),
        "embedding": pa.ListArray.from_arrays(vector, pa.array(vectors.reshape(-1))),
        "image/width": pa.ListArray.from_arrays(single, pa.array([item.width for item in items])),
        "image/height": pa.ListArray.from_arrays(single, pa.array([item.height for item in items])),
        "image/sha256": pa.ListArray.from_arrays(single, pa.array([item.sha256.encode() for item in items])),
    }
    return encoder.encode(pa.RecordBatch.from_arrays(list(columns.values()), list(columns)))


def shard_seconds(vectors: np.ndarray, folder: str) -> dict[str, tuple[float, float]]:
    """(wall, CPU) seconds per image to write a shard, without and with its commit."""
    shard = Shard(0, 1, RecordFile("in.tfrecord", 0, 0.0), "in.tfrecord")
    chunks = [
        FeatureChunk(
            shard,
            batch * _BATCH,
            batch == _SHARD_BATCHES - 1,
            tuple(
                Decoded(b"key-%d" % (batch * _BATCH + i), batch * _BATCH + i, i, 500, 375, f"{i:064x}")
                for i in range(_BATCH)
            ),
            {"embedding": vectors},
        )
        for batch in range(_SHARD_BATCHES)
    ]
    clocks = [(time.perf_counter(), time.process_time())]
    writer = ShardWriter(Layout(folder), shard, {})
    for chunk in chunks:
        writer.append(chunk)
    clocks.append((time.perf_counter(), time.process_time()))
    writer.commit()
    clocks.append((time.perf_counter(), time.process_time()))
    (wall, cpu), (wall_appended, cpu_appended), (wall_done, cpu_done) = clocks
    images = _BATCH * _SHARD_BATCHES
    return {
        "encoded, framed and written": ((wall_appended - wall) / images, (cpu_appended - cpu) / images),
        "with the commit": ((wall_done - wall) / images, (cpu_done - cpu) / images),
    }


def main() -> None:
    """Prints both comparisons."""
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
            f"{name:8} {statistics.median(seconds[name]) * 1e6:6.1f} us per record, the same bytes in each call: {same}"
        )

    with tempfile.TemporaryDirectory() as scratch:
        shards = [shard_seconds(vectors, f"{scratch}/{index}") for index in range(_ROUNDS)]
    for name in shards[0]:
        wall, cpu = (statistics.median(shard[name][clock] for shard in shards) * 1e6 for clock in (0, 1))
        figures.report(**{name: wall})
        print(f"{name:28} {wall:6.1f} us per image, {cpu:.1f} us of CPU time")


if __name__ == "__main__":
    exit_with(main)
