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
    """FeatureChunk... -> the label of each committed shard.

    One thread writes a chunk while the next one passes through the model, another commits a shard while the next one
    begins. A commit starts when its shard's last chunk arrives, since a bundle may be the whole job. What fails on
    a thread is raised by the next call, and a bundle ends when its last commit has.
    """

    def __init__(self, layout: Layout, fingerprint: Mapping[str, Any]):
        self._layout = layout
        self._fingerprint = fingerprint
        self._writers: dict[str, ShardWriter] = {}
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._writing: Future[Future[str] | None] | None = None
        self._committing: Future[str] | None = None

    def start_bundle(self):
        self._abort()
        self._threads = self._threads or (ThreadPoolExecutor(1, "write"), ThreadPoolExecutor(1, "commit"))

    def process(self, chunk: FeatureChunk) -> Iterator[str]:
        began = time.monotonic()
        committed = self._wait_for_chunk()
        if chunk.is_last:
            committed += self._wait_for_commit()
        assert self._threads, "start_bundle comes first"
        self._writing = self._threads[0].submit(self._write, chunk)
        counters.PROCESS.waited("write", began)
        metrics.hand_over()
        yield from committed

    def finish_bundle(self) -> Iterator[WindowedValue]:
        began = time.monotonic()
        committed = self._wait_for_chunk() + self._wait_for_commit()
        counters.PROCESS.waited("write", began)
        metrics.hand_over()  # the step is the last of its stage, and its threads have come to rest
        for label in committed:
            yield WindowedValue(label, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self):
        self._abort()
        for thread in self._threads or ():
            thread.shutdown()

    def _write(self, chunk: FeatureChunk) -> Future[str] | None:
        """The commit that the chunk sets off, if it is the last of its shard."""
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
        """Until the chunk before is written; raises what writing it raised. The labels committed meanwhile."""
        writing, self._writing = self._writing, None
        if writing:
            self._committing = writing.result() or self._committing
        return self._wait_for_commit() if self._committing and self._committing.done() else []

    def _wait_for_commit(self) -> list[str]:
        """Until the shard before is committed; raises what committing it raised. Its label, if there is one."""
        committing, self._committing = self._committing, None
        began = time.monotonic()
        labels = [committing.result()] if committing else []
        counters.PROCESS.add(wait_commit_seconds=time.monotonic() - began)
        return labels

    def _abort(self) -> None:
        for wait in (self._wait_for_chunk, self._wait_for_commit):
            with contextlib.suppress(Exception):  # of a bundle that is given up
                wait()
        for writer in self._writers.values():
            writer.abort()
        self._writers = {}


def _commit(writer: ShardWriter) -> str:
    began = time.monotonic()
    label = writer.commit().shard
    counters.PROCESS.add(shards=1, commit_seconds=time.monotonic() - began)
    return label
