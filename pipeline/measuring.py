"""What `--dry_run` measures besides single images: all threads at once, the model, the writer. Writes to temporary folders."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.estimate import Cost, Measured
from pipeline.options import JobConfig
from pipeline.sampling import Sample, Watch
from transforms import decode
from transforms.commit import claim, receipts
from transforms.commit.receipts import Layout
from transforms.commit.retry import Due
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Encoded, FeatureChunk, Shard
from transforms.infer import BitModelHandler
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door

_MODEL_CALLS, _MODEL_SECONDS = (3, 30), 3.0  # at least, at most; enough calls once they take so long
_COMMITS = 5
_COMMIT_REQUESTS = 12  # to a store, for a shard
_PACES, _PACE_SECONDS = 5, 0.8


def paces(samples: Sequence[Sample], config: JobConfig) -> list[float]:
    """Seconds on the wall for one of CPU time while all threads decode, measured several times."""
    side = config.model.image_size
    own = threading.local()

    def again(item: Encoded) -> None:
        if not hasattr(own, "pixels"):
            own.pixels = np.empty((1, side, side, 3), np.float32)
        decode.decode_item(item, 0, config.preprocessing, own.pixels)

    timed = [(sample.encoded, sample.decode.cpu) for sample in samples if sample.encoded]
    total = max(1e-6, sum(seconds for _, seconds in timed))
    repeat = max(1, min(1000, round(_PACE_SECONDS / total)))
    found = []
    with ThreadPoolExecutor(config.decode.threads_here) as pool:
        for _ in range(_PACES):
            with Watch() as watch:
                list(pool.map(again, [item for item, _ in timed] * repeat))
            found.append(watch.cost.wall / (repeat * total))
    return found


def device(
    config: JobConfig, pixels: np.ndarray, shown: list[Decoded], pace: list[float]
) -> tuple[Measured, int]:
    """The loaded model on full batches, the writing and committing of its outputs, and the bytes of a record."""
    model = BitModelHandler(config.model).load_model()
    outputs = model(pixels)
    calls: list[Cost] = []
    while len(calls) < _MODEL_CALLS[0] or (
        len(calls) < _MODEL_CALLS[1] and sum(call.wall for call in calls) < _MODEL_SECONDS
    ):
        with Watch() as watch:
            outputs = model(pixels)
        calls.append(watch.cost)
    items = tuple(
        dataclasses.replace(shown[row % len(shown)], position=row, row=row) for row in range(len(pixels))
    )
    writes, commits = [], []
    for _ in range(_COMMITS):
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(folder)
            shard = Shard(0, 1, RecordFile("dry-run.tfrecord", 0, 0.0), "dry-run.tfrecord")
            with Watch() as starting:
                Due(layout)(shard)
                claim.IsFirstAttempt(layout)(shard)
                writer = ShardWriter(layout, shard, {})
            with Watch() as writing:
                writer.append(FeatureChunk(shard, 0, True, items, outputs))
            with Watch() as committing:
                (file,) = writer.commit().files
                receipts.read_receipts(layout)  # as the manifest does in the end
        writes.append(Cost(writing.cost.wall / len(items), writing.cost.cpu / len(items)))
        commits.append(
            Cost(starting.cost.wall + committing.cost.wall, starting.cost.cpu + committing.cost.cpu)
        )
    if not door.is_local(config.output):
        asking = []
        for _ in range(_COMMITS):
            with Watch() as watch:
                door.exists(Layout(config.output).manifest)
            asking.append(watch.cost.wall)
        wait = _COMMIT_REQUESTS * statistics.median(asking)
        commits = [Cost(cost.wall + wait, cost.cpu) for cost in commits]
    return Measured(calls, writes, commits, pace), file.bytes // len(items)
