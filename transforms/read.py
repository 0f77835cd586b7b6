"""ReadShards: a shard in, its images as encoded chunks out, in input order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
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

    A chunk is emitted while a thread reads the next one, and a shard while the first images of the next one are read or
    fetched: `process` emits the shard before its own, and `finish_bundle` the last one.

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
        """Starts the threads that read ahead; the client and its pool are shared by the process."""
        door.adopt(self._stores)
        self._fetcher, self._pool = _fetching(self._settings.fetch)
        self._threads = ThreadPoolExecutor(2, "read")  # for the shard that is emitted, and the next
        self._open: list[_Ahead] = []

    def start_bundle(self):
        """Drops what a failed bundle left."""
        self._close()
        self._runs_ended = counters.PROCESS.runs_ended

    def process(self, shard: Shard) -> Iterator[EncodedChunk]:
        """Begins to read this shard, and emits the one before it."""
        due = self._due(shard)
        if due is None:
            return
        reading = Reading(shard.name, self._settings, due, self._fetcher.fetch, self._pool)
        items = shard.source.items(reading)
        self._open.append(_Ahead(self._threads, chunks(shard, items, self._settings.batch_size)))
        if len(self._open) == 2:
            yield from self._emit()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emits the last shard."""
        if self._open:
            for chunk in self._emit():
                yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        """Ends the reading threads once their reads have returned."""
        self._close()
        self._threads.shutdown(wait=False)

    def _close(self) -> None:
        while self._open:
            self._open.pop().close()

    def _emit(self) -> Iterator[EncodedChunk]:
        """The chunks of the first of the shards that are open."""
        is_last = False
        while not is_last:
            if (
                counters.PROCESS.runs_ended != self._runs_ended
            ):  # another worker's bundle has failed, or a signal came
                raise RuntimeError("the run that this bundle belongs to has ended")
            began = time.monotonic()
            chunk = self._open[0].next()
            counters.PROCESS.waited("read", began)
            counters.PROCESS.add(in_images=len(chunk.items))
            if is_last := chunk.is_last:
                self._open.pop(0).close()
            yield chunk


class _Ahead:
    """The chunks of a shard, of which a thread reads the next one."""

    def __init__(self, threads: Executor, of_shard: Generator[EncodedChunk, None, None]):
        self._threads, self._chunks = threads, of_shard
        self._following = threads.submit(_next, of_shard)

    def next(self) -> EncodedChunk:
        """Waits for the next chunk; if it is not the last, the one after it is being read from now on."""
        chunk = self._following.result()
        if not chunk.is_last:
            self._following = self._threads.submit(_next, self._chunks)
        return chunk

    def close(self) -> None:
        """Has the shard's files closed once its thread is at rest: no finalizer should do that."""
        self._following.add_done_callback(lambda _: self._chunks.close())


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
