"""A few images of one shard for `--dry_run`: what they are, and what they cost to read, or fetch, and to decode."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.dry_run.estimate import NOTHING, Cost, ShardSample, total
from pipeline.options import JobConfig
from pipeline.plan import units
from transforms import counters, decode, read
from transforms.elements import Decoded, Encoded, Failure, RecordFile, Shard
from transforms.fetching.fetcher import Fetcher
from transforms.imaging.sniff import format_of
from transforms.storage import door

IMAGES_PER_SHARD = 16
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
    """What was seen of one image."""

    failure: str  # its code; '' for a decoded image
    format: str = ""
    size_bytes: int = 0
    decoded: Decoded | None = None


class Sampler:
    """Looks at shards with the job's own reader, fetcher and decoder."""

    def __init__(self, config: JobConfig):
        self._config = config
        self._fetcher = Fetcher(config.read.fetch)
        self._fetching = ThreadPoolExecutor(IMAGES_PER_SHARD, "fetch")
        self._decoding = ThreadPoolExecutor(config.decode.threads_here, "decode")
        self._own = threading.local()  # pixels of each decoding thread

    def close(self) -> None:
        """Ends connections and threads."""
        self._fetcher.close()
        self._fetching.shutdown(cancel_futures=True)
        self._decoding.shutdown(cancel_futures=True)

    def look_at(self, shard: Shard, stands_for: float) -> tuple[list[Image], ShardSample]:
        """The first images of a shard, and their cost. `stands_for`: the units of the shard and its neighbors."""
        is_list = not isinstance(shard.source, RecordFile)
        items, cost, image_units = self._fetched(shard) if is_list else self._read(shard)
        encoded = [item for item in items if isinstance(item, Encoded)]
        results = iter(list(self._decoding.map(self._decode, encoded)))
        images = [
            Image(item.code) if isinstance(item, Failure) else _image(item, next(results)) for item in items
        ]
        decoding = self._decoding_cost(encoded).times(len(encoded) / max(1, len(items)))
        return images, ShardSample(stands_for, image_units, cost, decoding)

    def _items(self, shard: Shard, fetch: Callable[[str], bytes]) -> Generator[read.Item, None, None]:
        """The images of a shard, as the job reads them; of a list no more rows are fetched than are looked at."""
        if isinstance(shard.source, RecordFile):
            yield from read.record_items(shard, shard.source, self._config.read)
        else:
            config, limit = self._config.read, IMAGES_PER_SHARD
            yield from read.fetched_items(shard.source, config, fetch, self._fetching, limit=limit)

    def _read(self, shard: Shard) -> tuple[list[read.Item], Cost, float]:
        """The first images of a record file, what one costs to read, and its bytes in the file.

        A file is read in blocks, and opened with the first: the images of a block share what that costs.
        """
        before = counters.PROCESS.counts().units
        with contextlib.closing(self._items(shard, self._fetcher.fetch)) as reading:
            with Stopwatch() as opening:
                items = list(itertools.islice(reading, 1))
            with Stopwatch() as going_on:
                items += itertools.islice(reading, IMAGES_PER_SHARD - 1)
        if not items:
            return [], NOTHING, 1.0
        seen, size = counters.PROCESS.counts().units - before, units(shard)
        if seen == size:
            image_units = size / len(items)
        elif seen and len(items) > 1:
            image_units = seen / (len(items) - 1)
        else:  # compressed: where the records lie in the file cannot be seen, and images hardly get smaller
            image_units = statistics.mean(
                len(item.data) + len(item.passed) + 64 if isinstance(item, Encoded) else 64 for item in items
            )
        share = min(1.0, image_units / min(size, door.block_bytes(shard.source.uri)))
        cost = total([opening.cost.times(share), going_on.cost.times(1 / max(1, len(items) - 1))])
        return items, cost, image_units

    def _fetched(self, shard: Shard) -> tuple[list[read.Item], Cost, float]:
        """The first images of a list, and how long one keeps the reader waiting while others are fetched beside it."""
        fetch_seconds: list[float] = []
        hosts: set[str | None] = set()

        def fetch(uri: str) -> bytes:
            began = time.perf_counter()
            hosts.add(_http_host(uri))
            try:
                return self._fetcher.fetch(uri)
            finally:
                fetch_seconds.append(time.perf_counter() - began)

        before = counters.PROCESS.counts().queue_seconds
        with Stopwatch() as watch:
            items = list(self._items(shard, fetch))
        queued = counters.PROCESS.counts().queue_seconds - before
        settings, images = self._config.read.fetch, max(1, len(items))
        at_once = settings.concurrency
        if None not in hosts:
            at_once = max(1, min(at_once, settings.per_host * len(hosts)))
        wall = max(0.0, sum(fetch_seconds) - queued) / at_once
        return items, Cost(wall / images, watch.cost.cpu / images), 1.0

    def _decoding_cost(self, encoded: Sequence[Encoded]) -> Cost:
        """What one of the images costs while all threads decode."""
        if not encoded:
            return NOTHING
        repeated = list(encoded) * math.ceil(4 * self._config.decode.threads_here / len(encoded))
        rounds, until = 0, time.perf_counter() + _DECODE_SECONDS
        with Stopwatch() as watch:
            while not rounds or time.perf_counter() < until:
                list(self._decoding.map(self._decode, repeated))
                rounds += 1
        return watch.cost.times(1 / (rounds * len(repeated)))

    def _decode(self, item: Encoded) -> Decoded | Failure:
        if not hasattr(self._own, "pixels"):
            side = self._config.model.image_size
            self._own.pixels = np.empty((1, side, side, 3), np.float32)
        return decode.decode_item(item, 0, self._config.preprocessing, self._own.pixels)


def _image(item: Encoded, result: Decoded | Failure) -> Image:
    if isinstance(result, Failure):
        return Image(result.code)
    return Image("", format_of(item.data), len(item.data), result)


def _http_host(uri: str) -> str | None:
    """The host, of which only so many images may be asked for at once; None where there is no such limit."""
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:  # no address, as its own failure will say
        return None
