"""ReadShards: a shard in, its images as encoded chunks out, in input order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from transforms import counters
from transforms.elements import EncodedChunk, Failure, Shard
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings
from transforms.sources.base import Item, Reading, ReadSettings, Source
from transforms.storage import door
from transforms.storage.door import StoreSettings


def chunks(shard: Shard, items: Iterable[Item], batch_size: int) -> Generator[EncodedChunk, None, None]:
    """Groups items into chunks of `batch_size` images; the last chunk has `is_last` set.

    Failures keep their place and do not count as images; a chunk holds at most 8 * batch_size items. The shard of
    the last chunk has the source that `items` returned, if it returned one.
    """
    source = shard.source

    def to_the_end() -> Iterator[Item]:
        nonlocal source
        source = (yield from cast(Generator[Item, None, Source | None], items)) or source

    chunk: list[Item] = []
    start = images = 0
    for item in to_the_end():
        if images == batch_size or len(chunk) == 8 * batch_size:
            yield EncodedChunk(shard, start, False, tuple(chunk))
            start, images, chunk = start + len(chunk), 0, []
        chunk.append(item)
        images += not isinstance(item, Failure)
    yield EncodedChunk(replace(shard, source=source), start, True, tuple(chunk))


class ReadShards(beam.DoFn):
    """Shard -> its EncodedChunks. Skips a shard that another attempt has committed meanwhile.

    A chunk is emitted while a thread reads the next one. So the last chunk of a shard is emitted while the next shard
    is opened, and the last chunk of the last shard by `finish_bundle`.

    Args:
      settings: how to read.
      due: the positions in a shard that are to be processed, or None if it is committed.
      stores: those of the launcher.
    """

    def __init__(
        self,
        settings: ReadSettings,
        due: Callable[[Shard], Container[int] | None],
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._settings = settings
        self._due = due
        self._stores = stores

    def setup(self):
        """Starts the thread that reads ahead; the client and its pool are shared by the process."""
        door.adopt(self._stores)
        self._fetcher, self._pool = _fetching(self._settings.fetch)
        self._thread = ThreadPoolExecutor(1, "read")
        self._chunks: Generator[EncodedChunk, None, None] | None = None

    def start_bundle(self):
        """Drops what a failed bundle left."""
        self._close()
        self._runs_ended = counters.PROCESS.runs_ended
        self._ready: EncodedChunk | None = None

    def process(self, shard: Shard) -> Iterator[EncodedChunk]:
        """Emits the previous shard's last chunk, then all of this one's but the last."""
        due = self._due(shard)
        if due is None:
            return
        reading = Reading(shard.name, self._settings, due, self._fetcher.fetch, self._pool)
        self._chunks = chunks(shard, shard.source.items(reading), self._settings.batch_size)
        while True:
            if (
                counters.PROCESS.runs_ended != self._runs_ended
            ):  # another worker's bundle has failed, or a signal came
                raise RuntimeError("the run that this bundle belongs to has ended")
            following = self._thread.submit(_next, self._chunks)
            yield from self._pass_on()
            began = time.monotonic()
            self._ready = following.result()
            counters.PROCESS.waited("read", began)
            if self._ready.is_last:
                self._close()
                return

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emits the last chunk of the last shard."""
        for chunk in self._pass_on():
            yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        """Ends the reading thread once its read has returned."""
        self._close()
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        """Has the reading thread close the files of a shard that is read no further: no finalizer should."""
        if self._chunks:
            self._thread.submit(self._chunks.close)
            self._chunks = None

    def _pass_on(self) -> Iterator[EncodedChunk]:
        chunk, self._ready = self._ready, None
        if chunk is not None:  # not its truth value: a chunk without images is falsy
            counters.PROCESS.add(in_images=len(chunk.items))
            yield chunk


def _next(chunks_read: Iterator[EncodedChunk]) -> EncodedChunk:
    began = time.monotonic()
    chunk = next(chunks_read)
    counters.PROCESS.add(read_seconds=time.monotonic() - began)
    return chunk


_FETCHING_LOCK = threading.Lock()
_FETCHING: dict[FetchSettings, tuple[Fetcher, ThreadPoolExecutor]] = {}


def _fetching(settings: FetchSettings) -> tuple[Fetcher, ThreadPoolExecutor]:
    """The client and threads of this process, shared by all DoFn instances: their limits are per process."""
    with _FETCHING_LOCK:
        if settings not in _FETCHING:
            _FETCHING[settings] = Fetcher(settings), ThreadPoolExecutor(settings.concurrency, "fetch")
        return _FETCHING[settings]
