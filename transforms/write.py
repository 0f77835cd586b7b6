"""WriteShards: feature chunks in, committed shards out."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import counters, metrics
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import Failure, FeatureChunk


class WriteShards(beam.DoFn):
    """FeatureChunks -> the label of each committed shard.

    One thread writes a chunk while the next one passes through the model; another commits a shard while the next shard
    begins. A commit starts when its shard's last chunk arrives, since a bundle may be the whole job. An error on a
    thread is raised by the next call, and a bundle ends when its last commit has ended.
    """

    def __init__(self, layout: Layout, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._fingerprint = fingerprint
        self._writers: dict[str, ShardWriter] = {}
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._writing: Future[Future[str] | None] | None = None
        self._committing: Future[str] | None = None

    def start_bundle(self):
        """Drops the unfinished shards of a failed bundle."""
        self._abort()
        self._threads = self._threads or (ThreadPoolExecutor(1, "write"), ThreadPoolExecutor(1, "commit"))

    def process(self, chunk: FeatureChunk) -> Iterator[str]:
        """Hands the chunk to the writing thread; emits the shards committed since the last call."""
        began = time.monotonic()
        committed = self._wait_for_chunk()
        if chunk.is_last:
            committed += self._wait_for_commit()
        assert self._threads, "start_bundle has not been called"
        self._writing = self._threads[0].submit(self._write, chunk)
        counters.PROCESS.waited("write", began)
        metrics.hand_over()
        yield from committed

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits for the last chunk and commit, and emits their shards."""
        began = time.monotonic()
        committed = self._wait_for_chunk() + self._wait_for_commit()
        counters.PROCESS.waited("write", began)
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
        began, label = time.monotonic(), chunk.shard.label
        if chunk.position == 0 and label in self._writers:
            self._writers.pop(label).abort()
        if label not in self._writers:
            self._writers[label] = ShardWriter(self._layout, chunk.shard, self._fingerprint)
        self._writers[label].append(chunk)
        codes = Counter(item.code for item in chunk.items if isinstance(item, Failure))
        counters.PROCESS.failed(codes)
        counters.PROCESS.add(
            out_features=len(chunk.items) - codes.total(), write_seconds=time.monotonic() - began
        )
        if not chunk.is_last:
            return None
        assert self._threads
        return self._threads[1].submit(_commit, self._writers.pop(label))

    def _wait_for_chunk(self) -> list[str]:
        """Waits until the previous chunk is written, and raises its error. Returns the labels committed meanwhile."""
        writing, self._writing = self._writing, None
        if writing:
            self._committing = writing.result() or self._committing
        return self._wait_for_commit() if self._committing and self._committing.done() else []

    def _wait_for_commit(self) -> list[str]:
        """Waits until the previous shard is committed, and raises its error. Returns its label, if there was one."""
        committing, self._committing = self._committing, None
        began = time.monotonic()
        labels = [committing.result()] if committing else []
        counters.PROCESS.add(wait_commit_seconds=time.monotonic() - began)
        return labels

    def _abort(self) -> None:
        for wait in (self._wait_for_chunk, self._wait_for_commit):
            with contextlib.suppress(Exception):  # the bundle has failed already
                wait()
        for writer in self._writers.values():
            writer.abort()
        self._writers = {}


def _commit(writer: ShardWriter) -> str:
    began = time.monotonic()
    label = writer.commit().shard
    counters.PROCESS.add(shards=1, commit_seconds=time.monotonic() - began)
    return label
