"""A few images of one shard for `--dry_run`: what they are, and what each costs to read, or fetch, and to decode."""

from __future__ import annotations

import contextlib
import statistics
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from pipeline.estimate import NOTHING, Cost
from pipeline.options import JobConfig
from transforms import counters, decode
from transforms.elements import Decoded, Encoded, Failure, Shard
from transforms.fetching.fetcher import Fetcher
from transforms.imaging.sniff import format_of
from transforms.sources.base import Item, Reading
from transforms.storage import door

IMAGES_PER_SHARD = 16
_KEPT_BYTES = 8 << 20  # of a shard


@dataclass(frozen=True)
class Sample:
    """What was found in one image, and what it cost."""

    outcome: str  # '' for a decoded image, else the failure's code
    input: Cost
    decode: Cost = NOTHING
    format: str = ""
    size_bytes: int = 0
    decoded: Decoded | None = None
    encoded: Encoded | None = None  # of the first ones, for what is done with the bytes again


class Watch:
    """Measures what it is around."""

    def __enter__(self) -> Watch:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        self.cost = Cost(time.perf_counter() - self._began[0], time.process_time() - self._began[1])


def look_at(
    shard: Shard, config: JobConfig, fetcher: Fetcher, pool: ThreadPoolExecutor, pixels: np.ndarray
) -> tuple[list[Sample], float]:
    """The first images of a shard, and the units (bytes of a record file, rows of a list) of one of them."""
    if shard.source.inputs is None:
        items, costs, unit = _read(shard, config)
    else:
        items, costs, unit = _fetched(shard, config, fetcher, pool)
    samples = [_decoded(item, cost, config, pixels) for item, cost in zip(items, costs, strict=True)]
    kept = 0
    for index, sample in enumerate(samples):
        if kept and kept + sample.size_bytes > _KEPT_BYTES:
            samples[index] = replace(sample, encoded=None)
        else:
            kept += sample.size_bytes
    return samples, unit


def _read(shard: Shard, config: JobConfig) -> tuple[list[Item], list[Cost], float]:
    """The first images of a record file, what each costs to read, and the bytes of one.

    A file is read in blocks, and opened with the first: what that costs is shared out over the bytes of the blocks.
    """
    before = counters.PROCESS.counts().units
    items: list[Item] = []
    costs: list[Cost] = []
    with contextlib.closing(shard.source.items(Reading(shard.name, config.read))) as found:
        while len(items) < IMAGES_PER_SHARD:
            with Watch() as watch:
                item = next(found, None)
            if item is None:
                break
            items.append(item)
            costs.append(watch.cost)
    if not items:
        return [], [], 1.0
    seen, size = counters.PROCESS.counts().units - before, shard.units
    if seen == size:
        unit = size / len(items)
    elif seen and len(items) > 1:
        unit = seen / (len(items) - 1)
    else:  # compressed: where the records lie in the file cannot be seen, and images hardly get smaller
        unit = statistics.mean(
            len(i.data) + len(i.passed) + 64 if isinstance(i, Encoded) else 64 for i in items
        )
    block = door.block_bytes(shard.source.uri)
    was_read = min(size, -(-unit * len(items) // block) * block)
    each = []
    for clock in ("wall", "cpu"):
        taken = [getattr(cost, clock) for cost in costs]
        parsing = statistics.median(taken)
        each.append(parsing + max(0.0, sum(taken) - parsing * len(taken)) * unit / was_read)
    return items, [Cost(*each)] * len(items), unit


def _fetched(
    shard: Shard, config: JobConfig, fetcher: Fetcher, pool: ThreadPoolExecutor
) -> tuple[list[Item], list[Cost], float]:
    """The first images of a run of rows, and how long each would keep the reader waiting among others."""
    taken: list[float] = []
    hosts: set[str | None] = set()

    def fetch(uri: str) -> bytes:
        began = time.perf_counter()
        hosts.add(_http_host(uri))
        try:
            return fetcher.fetch(uri)
        finally:
            taken.append(time.perf_counter() - began)

    before = counters.PROCESS.counts().queue_seconds
    with Watch() as watch:
        reading = Reading(shard.name, config.read, fetch=fetch, pool=pool, limit=IMAGES_PER_SHARD)
        items = list(shard.source.items(reading))
    queued = counters.PROCESS.counts().queue_seconds - before
    settings = config.read.fetch
    at_once = (
        settings.concurrency if None in hosts else min(settings.concurrency, settings.per_host * len(hosts))
    )
    wall = max(0.0, sum(taken) - queued) / max(1, at_once) / max(1, len(items))
    return items, [Cost(wall, watch.cost.cpu / max(1, len(items)))] * len(items), 1.0


def _http_host(uri: str) -> str | None:
    """The host that must not be asked for too much at once; None where there is no such limit."""
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:  # no address, as its own failure will say
        return None


def _decoded(item: Item, reading: Cost, config: JobConfig, pixels: np.ndarray) -> Sample:
    if isinstance(item, Failure):
        return Sample(item.code, reading)
    with Watch() as watch:
        found = decode.decode_item(item, 0, config.preprocessing, pixels)
    if isinstance(found, Failure):
        return Sample(found.code, reading, watch.cost)
    return Sample("", reading, watch.cost, format_of(item.data), len(item.data), found, item)
