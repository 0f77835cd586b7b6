"""ReadShards: items into chunks, one of them read ahead, and the first of the next shard."""

import itertools
import threading
from dataclasses import dataclass

import pytest

from tests import helpers
from tests.fakes import SHARD, bad, good
from transforms.elements import EncodedChunk, Shard
from transforms.read import ReadShards, chunks
from transforms.sources.base import ReadSettings
from transforms.sources.tfrecord import RecordFile
from transforms.storage.errors import StorageFailed


def test_chunks_hold_batch_size_images_and_failures_in_their_place():
    items = [good(0), bad(1), good(2), good(3), bad(4), good(5)]
    chunks_read = list(chunks(SHARD, items, 2))
    assert [chunk.items for chunk in chunks_read] == [tuple(items[:3]), tuple(items[3:])]
    assert [(chunk.position, chunk.is_last, len(chunk)) for chunk in chunks_read] == [
        (0, False, 2),
        (3, True, 2),
    ]


def test_an_empty_shard_still_ends_in_a_last_chunk():
    assert list(chunks(SHARD, [], 4)) == [EncodedChunk(SHARD, 0, True, ())]


def test_a_run_of_failures_does_not_grow_a_chunk_without_bound():
    chunks_read = list(chunks(SHARD, [bad(i) for i in range(100)], 2))
    assert max(len(chunk.items) for chunk in chunks_read) == 16
    assert sum(len(chunk.items) for chunk in chunks_read) == 100
    assert [chunk.is_last for chunk in chunks_read] == [False] * 6 + [True]


def emitted_by(step: ReadShards, shards: list[Shard]) -> list[list[tuple[str, int]]]:
    """What it emits for each shard, and at the end of the bundle: shards and positions of chunks."""
    step.setup()
    step.start_bundle()
    emitted = [[(chunk.shard.name, chunk.position) for chunk in step.process(shard)] for shard in shards]
    emitted.append([(w.value.shard.name, w.value.position) for w in step.finish_bundle()])
    step.teardown()
    return emitted


def test_a_shard_is_emitted_once_the_next_one_is_begun(tmp_path):
    first = helpers.write_tfrecord(tmp_path / "a.tfrecord", [helpers.image_example(i) for i in range(5)])
    second = helpers.write_tfrecord(tmp_path / "b.tfrecord", [helpers.image_example(5)])
    empty = helpers.write_tfrecord(tmp_path / "c.tfrecord", [])
    shards = [
        Shard(index, 3, RecordFile(str(path), path.stat().st_size, 0.0), path.name)
        for index, path in enumerate((first, second, empty))
    ]
    step = ReadShards(ReadSettings(batch_size=2), lambda shard: range(9))
    assert emitted_by(step, shards) == [
        [],
        [("a.tfrecord", 0), ("a.tfrecord", 2), ("a.tfrecord", 4)],
        [("b.tfrecord", 0)],
        [("c.tfrecord", 0)],
    ]
    committed = ReadShards(ReadSettings(batch_size=2), lambda shard: None if shard.index == 1 else range(9))
    assert emitted_by(committed, shards)[1:] == [
        [],
        [("a.tfrecord", 0), ("a.tfrecord", 2), ("a.tfrecord", 4)],
        [("c.tfrecord", 0)],
    ]


@dataclass(frozen=True)
class Slow:
    """A source whose second image comes no sooner than the first one of the next shard is asked for."""

    asked: threading.Event
    awaited: threading.Event

    def items(self, reading):
        self.asked.set()
        yield good(0)
        assert self.awaited.wait(60)
        yield good(1)


def test_the_first_images_of_the_next_shard_are_asked_for_while_a_shard_waits_for_its_own():
    asked = [threading.Event() for _ in range(3)]
    sources = [Slow(asked[index], asked[min(index + 1, 2)]) for index in range(3)]
    shards = [Shard(index, 3, source, str(index)) for index, source in enumerate(sources)]
    step = ReadShards(ReadSettings(batch_size=1), lambda shard: range(9))
    assert emitted_by(step, shards) == [
        [],
        [("0", 0), ("0", 1)],
        [("1", 0), ("1", 1)],
        [("2", 0), ("2", 1)],
    ]


def test_a_bundle_that_fails_leaves_no_shard_open():
    closed = []

    class Endless:
        def items(self, reading):
            try:
                for index in itertools.count():
                    yield good(index)
            finally:
                closed.append(reading.name)

    step = ReadShards(ReadSettings(batch_size=1), lambda shard: range(9))
    step.setup()
    step.start_bundle()
    assert list(step.process(Shard(0, 2, Endless(), "0"))) == []
    emitting = step.process(Shard(1, 2, Endless(), "1"))
    next(emitting), next(emitting)
    step.start_bundle()  # of the next attempt
    step.teardown()
    step._threads.shutdown()
    assert sorted(closed) == ["0", "1"]


def test_what_fails_while_reading_ahead_is_raised_with_its_own_message(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "a.tfrecord", [helpers.image_example(0)])
    step = ReadShards(ReadSettings(batch_size=2), lambda shard: range(9))
    step.setup()
    step.start_bundle()
    shard = Shard(0, 1, RecordFile(str(path), path.stat().st_size + 1, 0.0), path.name)
    with pytest.raises(StorageFailed, match="it has changed since the job was planned"):
        [*step.process(shard), *step.finish_bundle()]
    step.teardown()
