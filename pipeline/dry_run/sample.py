"""Samples a few images of one shard for `--dry_run`: their properties, and their cost of reading or fetching, and decoding."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
import urllib.parse
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.dry_run.estimate import NOTHING, Cost, ShardSample, total
from pipeline.options import JobConfig
from transforms import counters
from transforms.elements import EVERY, Decoded, Encoded, Failure, Shard
from transforms.feeding import feeders
from transforms.fetching.fetcher import Fetcher
from transforms.imaging.formats import format_of
from transforms.records import images as records
from transforms.sources.base import Item, Reading, ReadSettings
from transforms.sources.tfrecord import RecordFile
from transforms.storage import door

IMAGES_PER_SHARD = 16
# 16 MiB: files of records below this are read whole, as are those that cannot be sought in up to here.
_SPREAD_BYTES = 16 << 20
_STORE_BYTES = 128 << 20  # 128 MiB: of a file in a store, read to see how fast that is
_PARTS = 4  # of a file of records
_DECODE_SECONDS = 0.2  # per shard, at least


class Stopwatch:
    """Measures the block it is around; `cost` holds the result."""

    def __enter__(self) -> Stopwatch:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        self.cost = Cost(time.perf_counter() - self._began[0], time.process_time() - self._began[1])


@dataclass(frozen=True)
class Image:
    """One sampled image."""

    failure: str  # the failure code; '' for a decoded image
    format: str = ""
    size_bytes: int = 0
    decoded: Decoded | None = None


class Sampler:
    """Samples shards with the job's own reader, fetcher and decoder."""

    def __init__(self, config: JobConfig, read: ReadSettings):
        self._config, self._read_settings = config, read
        self._fetcher = Fetcher(config.read.fetch)
        self._fetching = ThreadPoolExecutor(IMAGES_PER_SHARD, "fetch")
        self._feeders = feeders.acquire(config.decode)
        self._store_seconds: dict[str, float] = {}  # per byte, by scheme

    def close(self) -> None:
        """Closes connections and ends threads and feeders."""
        self._fetcher.close()
        self._fetching.shutdown(cancel_futures=True)
        feeders.release(self._feeders)

    def sample(self, shard: Shard, represented_units: float) -> tuple[list[Image], ShardSample]:
        """A few images of a shard, and their cost. `represented_units`: of the shard and its neighbors."""
        read, cost, image_units = self._read(shard)
        items = list(map(records.encoded, read))
        encoded = [item for item in items if isinstance(item, Encoded)]
        results = iter(self._decode(encoded))
        images = [
            Image(item.code) if isinstance(item, Failure) else _image(item, next(results)) for item in items
        ]
        decoding = self._decoding_cost(encoded).times(len(encoded) / max(1, len(items)))
        return images, ShardSample(represented_units, image_units, cost, decoding)

    def _read(self, shard: Shard) -> tuple[list[Item], Cost, float]:
        """A few images spread over a shard, the cost of reading one, and the units of one.

        Of a large compressed file or tar, which can only be read from its start, they are spread over its first 16 MiB."""
        parts = _parts(shard)
        if len(parts) == 1:
            return self._read_part(shard, IMAGES_PER_SHARD, 0 if shard.source.inputs else _SPREAD_BYTES)
        read = [self._read_part(part, IMAGES_PER_SHARD // len(parts)) for part in parts]
        read = [(items, cost, units) for items, cost, units in read if items]
        if not read:
            return [], NOTHING, 1.0
        cost = total(cost for _, cost, _ in read).times(1 / len(read))
        return [item for items, _, _ in read for item in items], cost, statistics.mean(u for _, _, u in read)

    def _read_part(self, shard: Shard, most: int, spread_bytes: int = 0) -> tuple[list[Item], Cost, float]:
        """At most so many images of a shard, the cost of reading one, and the units of one.

        They are the first ones that are due, or are spread over the first so many bytes of images.
        A file is read in blocks and opened with the first, so the images of a block share that cost. For fetched images,
        the cost is how long one keeps the reader waiting while others are fetched in parallel.
        """
        fetch_seconds: list[float] = []
        hosts: set[str | None] = set()

        def fetch(uri: str) -> bytes:
            began = time.perf_counter()
            hosts.add(_http_host(uri))
            try:
                return self._fetcher.fetch(uri)
            finally:
                fetch_seconds.append(time.perf_counter() - began)

        settings = self._read_settings
        due, limit = (EVERY, None) if spread_bytes else _due(shard, most)
        reading = Reading(shard.name, settings, due, fetch=fetch, pool=self._fetching, limit=limit)
        before = counters.PROCESS.counts()
        with contextlib.closing(shard.source.items(reading)) as source:
            with Stopwatch() as opening:
                items = list(itertools.islice(source, 1))
            with Stopwatch() as going_on:
                items, count = _spread(itertools.chain(items, source), most, spread_bytes)
        if not items:
            return [], NOTHING, 1.0
        after = counters.PROCESS.counts()
        image_units = _image_units(shard, items, count, after.units - before.units)
        if fetch_seconds:
            queued = after.queue_seconds - before.queue_seconds
            at_once = settings.fetch.concurrency
            if None not in hosts:
                at_once = max(1, min(at_once, settings.fetch.per_host * len(hosts)))
            wall = max(0.0, sum(fetch_seconds) - queued) / at_once
            cpu = opening.cost.cpu + going_on.cost.cpu
            return items, Cost(wall / len(items), cpu / len(items)), image_units
        block = door.block_bytes(shard.source.uri) if shard.source.inputs is None else shard.units
        share = min(1.0, image_units / max(1, min(shard.units, block)))
        read = limit or count  # with those passed over
        cost = total([opening.cost.times(share), going_on.cost.times(1 / max(1, read - 1))])
        if shard.source.inputs is None and not door.is_local(shard.source.uri):
            cost = Cost(image_units * self._seconds_per_byte(shard.source.uri), cost.cpu)
        return items, cost, image_units

    def _seconds_per_byte(self, uri: str) -> float:
        """Of reading a file of a store from its start, with several requests at once; measured once for each kind of store.

        A few images say nothing of it: they come with the first request, before others run beside it."""
        store = uri.partition("://")[0]
        if store not in self._store_seconds:
            size = 0
            with Stopwatch() as reading, door.open_unbuffered(uri) as stream:
                while size < _STORE_BYTES and (block := stream.read_block()):
                    size += len(block)
            self._store_seconds[store] = reading.cost.wall / max(1, size)
        return self._store_seconds[store]

    def _decoding_cost(self, encoded: Sequence[Encoded]) -> Cost:
        """The cost of decoding one of the images while all feeders decode."""
        if not encoded:
            return NOTHING
        repeated = list(encoded) * math.ceil(4 * self._config.decode.processes_here / len(encoded))
        rounds, until = 0, time.perf_counter() + _DECODE_SECONDS
        busy = counters.PROCESS.counts().decode_seconds
        with Stopwatch() as watch:
            while not rounds or time.perf_counter() < until:
                self._decode(repeated)
                rounds += 1
        busy = counters.PROCESS.counts().decode_seconds - busy
        return Cost(watch.cost.wall, watch.cost.cpu + busy).times(1 / (rounds * len(repeated)))

    def _decode(self, encoded: Sequence[Encoded]) -> list[Decoded | Failure]:
        size = self._config.decode.batch_size
        parts = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        batches = list(map(self._feeders.submit, parts))  # all, so that each feeder has something to do
        return [result for batch in batches for result in batch.wait()]


def _parts(shard: Shard) -> list[Shard]:
    """Parts of a shard that is a large file of records, spread over it; else the shard itself."""
    source = shard.source
    if not isinstance(source, RecordFile) or source.units < _SPREAD_BYTES:
        return [shard]
    with door.open_input(source.uri) as stream:
        if door.is_compressed(stream):
            return [shard]
    end, step = source.start + source.units, source.units // _PARTS
    later = [source.start + part * step for part in range(1, _PARTS)]
    parts = [source, *(replace(source, start=start, end=end, first=None) for start in later)]
    return [replace(shard, source=part) for part in parts]


def _due(shard: Shard, most: int) -> tuple[Container[int], int]:
    """The positions of the images to sample, and how many inputs have to be read for them."""
    inputs = shard.source.inputs
    if not inputs:
        return EVERY, most
    count = min(inputs, most)
    due = {index * (inputs - 1) // max(1, count - 1) for index in range(count)}
    return due, max(due) + 1


def _spread(source: Iterator[Item], most: int, spread_bytes: int) -> tuple[list[Item], int]:
    """At most so many items, spread over the first `spread_bytes` of images (0: the first ones), and how many were read."""
    if not spread_bytes:
        items = list(itertools.islice(source, most))
        return items, len(items)
    items, step, count, read_bytes = [], 1, 0, 0
    for item in source:
        if count % step == 0:
            items.append(item)
            if len(items) == 2 * most:
                items, step = items[::2], 2 * step
        count += 1
        read_bytes += 0 if isinstance(item, Failure) else len(item.data)
        if read_bytes >= spread_bytes:
            break
    kept = min(most, len(items))
    return [items[index * (len(items) - 1) // max(1, kept - 1)] for index in range(kept)], count


def _image_units(shard: Shard, items: Sequence[Item], count: int, units_read: int) -> float:
    """The units of one image, if `units_read` units of the shard were read for `count` of them, some of which are `items`."""
    if shard.source.inputs is not None:
        return 1.0
    if units_read == shard.units:
        return shard.units / count
    if units_read and count > 1:
        return units_read / (count - 1)
    # Compressed: the offsets of records in the file are unknown, but images hardly shrink.
    return statistics.mean(
        64 if isinstance(item, Failure) else 64 + len(item.data) + len(getattr(item, "passed", b""))
        for item in items
    )


def _image(item: Encoded, result: Decoded | Failure) -> Image:
    if isinstance(result, Failure):
        return Image(result.code)
    return Image("", format_of(item.data).name, len(item.data), result)


def _http_host(uri: str) -> str | None:
    """The host, which limits how many images are fetched at once; None if nothing limits that."""
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:  # not a valid URI: its own failure says so
        return None
