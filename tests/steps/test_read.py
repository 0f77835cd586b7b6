"""ReadShards: items into chunks, and one chunk read ahead."""

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


def test_the_next_shard_is_read_while_the_last_chunk_of_the_one_before_is_passed_on(tmp_path):
    first = helpers.write_tfrecord(tmp_path / "a.tfrecord", [helpers.image_example(i) for i in range(5)])
    second = helpers.write_tfrecord(tmp_path / "b.tfrecord", [helpers.image_example(5)])
    empty = helpers.write_tfrecord(tmp_path / "c.tfrecord", [])
    opened = []
    step = ReadShards(ReadSettings(batch_size=2), lambda shard: opened.append(shard.name) or range(9))
    step.setup()
    step.start_bundle()
    emitted = []
    for index, path in enumerate((first, second, empty)):
        shard = Shard(index, 3, RecordFile(str(path), path.stat().st_size, 0.0), path.name)
        emitted.append([(chunk.shard.name, chunk.position) for chunk in step.process(shard)])
    emitted.append([(w.value.shard.name, w.value.position) for w in step.finish_bundle()])
    step.teardown()
    assert emitted == [
        [("a.tfrecord", 0), ("a.tfrecord", 2)],
        [("a.tfrecord", 4)],
        [("b.tfrecord", 0)],
        [("c.tfrecord", 0)],
    ]


def test_what_fails_while_reading_ahead_is_raised_with_its_own_message(tmp_path):
    path = helpers.write_tfrecord(tmp_path / "a.tfrecord", [helpers.image_example(0)])
    step = ReadShards(ReadSettings(batch_size=2), lambda shard: range(9))
    step.setup()
    step.start_bundle()
    shard = Shard(0, 1, RecordFile(str(path), path.stat().st_size + 1, 0.0), path.name)
    with pytest.raises(StorageFailed, match="it has changed since the job was planned"):
        list(step.process(shard))
    step.teardown()
