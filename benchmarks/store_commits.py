"""How fast shards are committed to a store that answers late: python -m benchmarks.store_commits

Moto plays S3 on this machine, and each request waits for --latency_ms first. The job's writing step gets shards as fast as it
takes them: its rate is the most that a GPU can reach with shards of --images. With one commit at a time and with as many as
the job has, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from benchmarks import figures, machine
from bit.command import exit_with
from tests import stores
from transforms import write
from transforms.commit.layout import Layout
from transforms.elements import Decoded, FeatureChunk, Shard
from transforms.sources.tfrecord import RecordFile
from transforms.storage.s3 import S3

_BATCH = 128
_SHARD = Shard(0, 1, RecordFile("in.tfrecord", 1, 0.0), "in.tfrecord")


def _write(folder: str, shards: int, images: int) -> float:
    """Seconds from the first chunk to the last commit."""
    outputs = {"embedding": np.random.RandomState(0).standard_normal((_BATCH, 6144)).astype(np.float32)}
    step = write.WriteShards(Layout(folder), {})
    began = time.perf_counter()
    step.start_bundle()
    for index in range(shards):
        shard = replace(_SHARD, index=index, of=shards)
        for start in range(0, images, _BATCH):
            rows = range(min(_BATCH, images - start))
            items = tuple(
                Decoded(b"%d" % (start + row), start + row, row, 500, 375, "ab" * 32) for row in rows
            )
            chunk = FeatureChunk(shard, start, start + _BATCH >= images, items, outputs, {})
            list(step.process(chunk))
    list(step.finish_bundle())
    seconds = time.perf_counter() - began
    step.teardown()
    return seconds


def main() -> None:
    """Prints each round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency_ms", type=float, default=50)
    parser.add_argument("--images", type=int, default=1250, help="per shard, as in ImageNet's 1,024 files")
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    requests = 0

    def late(**_) -> None:
        nonlocal requests
        requests += 1
        time.sleep(flags.latency_ms / 1000)

    measured: dict[int, list[float]] = {1: [], write.COMMITS: []}
    with stores.s3() as store:
        store.use()
        S3.connect()
        S3._client.meta.events.register("before-send.s3", late)
        for _ in range(flags.rounds):
            for commits, runs in measured.items():
                write.COMMITS = commits
                runs.append(_write(store.folder(), flags.shards, flags.images))
                rate = flags.shards * flags.images / runs[-1]
                print(f"  {commits} at once: {rate:.0f} images/s", flush=True)
    of_one = requests / (2 * flags.rounds * flags.shards)
    print(machine.describe())
    what = f"{flags.shards} shards of {flags.images} images, {of_one:.0f} requests each"
    print(f"{what}, which take {flags.latency_ms:g} ms more")
    print("| commits at once | images/s | seconds per shard |\n|---|---|---|")
    for commits, runs in measured.items():
        seconds = statistics.median(runs)
        rate = flags.shards * flags.images / seconds
        print(f"| {commits} | {rate:.0f} | {seconds / flags.shards:.2f} |")
        figures.report(**{"one commit" if commits == 1 else "as the job does": rate})


if __name__ == "__main__":
    exit_with(main)
