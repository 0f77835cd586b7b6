"""Measures what does not depend on single images for `--dry_run`: the loaded model, and the writer in temporary folders."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.dry_run.estimate import NOTHING, Cost, Measured, total
from pipeline.dry_run.sample import Stopwatch
from pipeline.options import JobConfig
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.commit.retry_failures import Due
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, FeatureChunk, Shard
from transforms.infer import BitModelHandler
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door
from transforms.write import COMMITS

_MODEL_CALLS = (3, 30)  # at least, at most
_MODEL_SECONDS = 3.0  # no more calls after this time
_COMMITS = 5
_COMMIT_REQUESTS = 12  # to a store, per shard


def measure(config: JobConfig, decoded: Sequence[Decoded]) -> tuple[Measured, int]:
    """All costs that do not depend on the shard, and the bytes per feature record. `decoded`: one or more images."""
    batch, side = config.model.batch_size, config.model.image_size
    pixels = np.zeros((batch, side, side, 3), np.float32)
    model = BitModelHandler(config.model).load_model().ready()
    outputs = model(pixels)
    calls: list[Cost] = []
    while len(calls) < _MODEL_CALLS[0] or (
        len(calls) < _MODEL_CALLS[1] and total(calls).wall < _MODEL_SECONDS
    ):
        with Stopwatch() as watch:
            outputs = model(pixels)
        calls.append(watch.cost)
    rows = tuple(decoded[row % len(decoded)]._replace(position=row, row=row) for row in range(batch))
    writes, commits, sizes = zip(*(_write_shard(rows, outputs) for _ in range(_COMMITS)), strict=True)
    commit = total([_median(commits), _waiting_for_store(config.output)])
    calls.sort(key=lambda call: call.wall)
    measured = Measured(_median(calls), calls[0], calls[-1], _median(writes).times(1 / batch), commit)
    return measured, sizes[0] // batch


def _write_shard(rows: tuple[Decoded, ...], outputs: Mapping[str, np.ndarray]) -> tuple[Cost, Cost, int]:
    """The costs of writing and committing a shard of one batch on a local disk, and the bytes of its features."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(folder)
        shard = Shard(0, 1, RecordFile("dry-run.tfrecord", 0, 0.0), "dry-run.tfrecord")
        with Stopwatch() as starting:
            Due(layout)(shard)
            writer = ShardWriter(layout, shard, {})
        with Stopwatch() as writing:
            writer.append(FeatureChunk(shard, 0, True, rows, outputs))
        with Stopwatch() as committing:
            (file,) = writer.commit().files
            receipts.read_receipts(layout)  # as for the manifest at the end
        return writing.cost, total([starting.cost, committing.cost]), file.bytes


def _waiting_for_store(output: str) -> Cost:
    """How long commits, several at once, wait for requests to the store of the output, per shard; nothing on a disk."""
    if door.is_local(output):
        return NOTHING
    waits = []
    for _ in range(_COMMITS):
        with Stopwatch() as watch:
            door.exists(Layout(output).manifest)
        waits.append(Cost(watch.cost.wall))
    return _median(waits).times(_COMMIT_REQUESTS / COMMITS)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.cpu for c in costs))
