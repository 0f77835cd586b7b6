"""WriteShards: feature chunks in, committed shards out."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import counters, metrics
from transforms.commit import arrays
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import Failure, FeatureChunk, Pending
from transforms.storage import door
from transforms.storage.door import StoreSettings

COMMITS = 4  # at once: on a store each is a second of waiting for answers, in which a GPU computes two shards


class WriteShards(beam.DoFn):
    """FeatureChunks -> the label of each committed shard.

    One thread writes a chunk while the next one passes through the model; up to COMMITS others commit a shard each while
    the next ones are written. A commit starts when its shard's last chunk is written, since a bundle may be the whole job.
    An error on a thread is raised by a later call, and a bundle ends when its last commit has ended.

    A chunk with pending outputs waits behind another one, so that the device can be given a third.
    """

    def __init__(
        self,
        layout: Layout,
        fingerprint: Mapping[str, Any],
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._layout = layout
        self._stores = stores
        self._fingerprint = fingerprint
        self._writers: dict[str, ShardWriter] = {}
        self._agreed: Mapping[str, str] = {}
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._writing: deque[tuple[Pending | None, Future[Future[str] | None]]] = deque()
        self._committing: deque[Future[str]] = deque()

    def setup(self):
        """Finds the stores of the launcher."""
        door.adopt(self._stores)

    def start_bundle(self):
        """Drops the unfinished shards of a failed bundle."""
        self._abort()
        self._threads = self._threads or (
            ThreadPoolExecutor(1, "write"),
            ThreadPoolExecutor(COMMITS, "commit"),
        )

    def process(self, chunk: FeatureChunk) -> Iterator[str]:
        """Hands the chunk to the writing thread; emits the shards committed since the last call."""
        committed = self._wait_for_chunks(1 if chunk.pending else 0)
        if chunk.is_last:
            committed += self._wait_for_commits(COMMITS - 1)
        assert self._threads, "start_bundle has not been called"
        self._writing.append((chunk.pending, self._threads[0].submit(self._write, chunk)))
        metrics.hand_over()
        yield from committed

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits for the last chunks and commits, and emits their shards."""
        committed = self._wait_for_chunks(0) + self._wait_for_commits(0)
        metrics.hand_over()  # this step is the last of its stage, and its threads are idle now
        for label in committed:
            yield WindowedValue(label, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        """Drops unfinished shards and ends the threads."""
        self._abort()
        for thread in self._threads or ():
            thread.shutdown()

    def _write(self, chunk: FeatureChunk) -> Future[str] | None:
        """Writes a chunk; returns the commit it starts if it is the last of its shard."""
        chunk = chunk.resolved()
        began, label = time.monotonic(), chunk.shard.label
        if chunk.position == 0 and label in self._writers:
            self._writers.pop(label).abort()
        if label not in self._writers:
            if chunk.model != self._agreed:
                arrays.agree(self._layout, chunk.model)
                self._agreed = chunk.model
            self._writers[label] = ShardWriter(self._layout, chunk.shard, self._fingerprint)
        try:
            self._writers[label].append(chunk)
        except BaseException:
            self._writers.pop(label).abort()
            raise
        codes = Counter(item.code for item in chunk.items if isinstance(item, Failure))
        counters.PROCESS.failed(codes)
        counters.PROCESS.batch_done(len(chunk.items))
        counters.PROCESS.add(
            out_features=len(chunk.items) - codes.total(), write_seconds=time.monotonic() - began
        )
        if not chunk.is_last:
            return None
        assert self._threads
        return self._threads[1].submit(_commit, self._writers.pop(label))

    def _wait_for_chunks(self, left: int) -> list[str]:
        """Waits until all chunks but the last `left` are written, and raises their errors.

        Returns the labels committed meanwhile."""
        while len(self._writing) > left:
            pending, writing = self._writing.popleft()
            if pending:
                began = time.monotonic()
                pending.wait()
                counters.PROCESS.add(model_seconds=time.monotonic() - began)
            began = time.monotonic()
            if commit := writing.result():
                self._committing.append(commit)
            counters.PROCESS.waited("write", began)
        return self._committed(lambda commit: commit.done())

    def _wait_for_commits(self, left: int) -> list[str]:
        """Waits until all shards written but the last `left` are committed, and raises their errors. Returns their labels."""
        began = time.monotonic()
        labels = self._committed(lambda commit: len(self._committing) > left or commit.done())
        counters.PROCESS.waited("write", began)
        counters.PROCESS.add(wait_commit_seconds=time.monotonic() - began)
        return labels

    def _committed(self, is_due: Callable[[Future[str]], bool]) -> list[str]:
        labels = []
        while self._committing and is_due(self._committing[0]):
            labels.append(self._committing.popleft().result())
        return labels

    def _abort(self) -> None:
        while self._writing or self._committing:
            with contextlib.suppress(Exception):  # the bundle has failed already
                self._wait_for_chunks(0)
                self._wait_for_commits(0)
        for writer in self._writers.values():
            writer.abort()
        self._writers = {}


def _commit(writer: ShardWriter) -> str:
    began = time.monotonic()
    label = writer.commit().shard
    counters.PROCESS.add(shards=1, commit_seconds=time.monotonic() - began)
    return label
