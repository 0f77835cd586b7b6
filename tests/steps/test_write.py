"""WriteShards: writing and committing behind the model, and their errors."""

import threading
import time
from dataclasses import replace

import pytest

from tests import helpers
from tests.fakes import SHARD, feature_chunk
from transforms.commit import files
from transforms.commit.layout import Layout
from transforms.commit.writer import BrokenShard, ShardWriter
from transforms.elements import Shard
from transforms.sources.uri_list import UriSlice
from transforms.write import COMMITS, WriteShards


def test_chunks_out_of_order_are_never_committed(tmp_path):
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()
    assert list(step.process(feature_chunk(0, 4))) == []
    list(step.process(feature_chunk(8, 1, last=True)))
    with pytest.raises(BrokenShard, match="expected the chunk at position 4, got 8"):
        list(step.finish_bundle())
    step.teardown()
    assert helpers.contents(tmp_path) == {}


def test_a_shard_that_does_not_add_up_is_never_committed(tmp_path):
    shard = Shard(0, 1, UriSlice("list.txt", "txt", 0, 10, 5, ""), "list")
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()
    list(step.process(feature_chunk(0, 4, last=True, shard=shard)))
    with pytest.raises(BrokenShard, match="4 features and 0 failures do not add up to 5"):
        list(step.finish_bundle())
    assert not list(tmp_path.glob("features-*"))
    assert not list(tmp_path.glob("receipts/*"))


def test_what_fails_while_writing_behind_is_raised_by_the_next_call(tmp_path, monkeypatch):
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.FileWriter, "write", full)
    assert list(step.process(feature_chunk(0, 4))) == []
    with pytest.raises(OSError, match="no space left"):
        list(step.process(feature_chunk(4, 4)))
    list(step.process(feature_chunk(0, 4, shard=replace(SHARD, index=2))))
    with pytest.raises(OSError, match="no space left"):
        list(step.finish_bundle())
    step.teardown()
    assert helpers.contents(tmp_path) == {}


def test_shards_are_committed_while_the_next_ones_are_written_and_told_once_they_stand(tmp_path, monkeypatch):
    step = WriteShards(Layout(str(tmp_path)), {})
    shards = [replace(SHARD, index=index, of=COMMITS + 2) for index in range(COMMITS + 1)]
    may_commit = {shard.label: threading.Event() for shard in shards}
    plain, begun = ShardWriter.commit, threading.Semaphore(0)

    def commit_when_allowed(self):
        begun.release()
        assert may_commit[self._shard.label].wait(60)
        return plain(self)

    monkeypatch.setattr(ShardWriter, "commit", commit_when_allowed)
    step.start_bundle()
    for shard in shards[:COMMITS]:
        assert list(step.process(feature_chunk(0, 2, last=True, shard=shard))) == []
    for _ in range(COMMITS):  # all at once
        assert begun.acquire(timeout=60)
    assert list(step.process(feature_chunk(0, 4, shard=shards[-1]))) == []  # does not wait for a commit
    assert not list(tmp_path.glob("receipts/*"))
    may_commit[shards[1].label].set()
    may_commit[shards[0].label].set()
    # Waits for one: no more than COMMITS at once.
    committed = list(step.process(feature_chunk(4, 4, last=True, shard=shards[-1])))
    assert committed[0] == shards[0].label
    assert {path.stem for path in tmp_path.glob("receipts/*")} >= set(committed)
    for event in may_commit.values():
        event.set()
    committed += [windowed.value for windowed in step.finish_bundle()]
    assert committed == [shard.label for shard in shards]
    assert {path.stem for path in tmp_path.glob("receipts/*")} == set(committed)
    step.teardown()


def test_a_commit_that_fails_while_other_shards_are_written_fails_the_bundle(tmp_path, monkeypatch):
    step, second = WriteShards(Layout(str(tmp_path)), {}), replace(SHARD, index=2)
    plain, may_fail = ShardWriter.commit, threading.Event()

    def failing(self):
        if self._shard.label == SHARD.label:
            assert may_fail.wait(60)
            raise OSError("no space left")
        return plain(self)

    monkeypatch.setattr(ShardWriter, "commit", failing)
    step.start_bundle()
    list(step.process(feature_chunk(0, 2, last=True)))
    list(step.process(feature_chunk(0, 4, last=True, shard=second)))
    may_fail.set()
    with pytest.raises(OSError, match="no space left"):
        list(step.finish_bundle())
    assert not (tmp_path / "receipts" / f"{SHARD.label}.json").exists()
    monkeypatch.setattr(ShardWriter, "commit", plain)
    step.start_bundle()  # the bundle is retried
    list(step.process(feature_chunk(0, 2, last=True)))
    list(step.process(feature_chunk(0, 4, last=True, shard=second)))
    list(step.finish_bundle())
    assert len(list(tmp_path.glob("receipts/*"))) == 2
    step.teardown()


def test_a_commit_begins_without_another_call(tmp_path):
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()
    list(step.process(feature_chunk(0, 2, last=True)))
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("receipts/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    step.teardown()


def test_no_thread_is_left_behind(tmp_path):
    before = set(threading.enumerate())
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()
    list(step.process(feature_chunk(0, 4)))
    step.teardown()
    assert set(threading.enumerate()) <= before


def test_a_retried_bundle_starts_its_shards_anew(tmp_path):
    step = WriteShards(Layout(str(tmp_path)), {})
    step.start_bundle()
    list(step.process(feature_chunk(0, 4)))
    step.start_bundle()
    list(step.process(feature_chunk(0, 3, last=True)))
    assert [windowed.value for windowed in step.finish_bundle()] == ["00001-of-00003"]
    assert len(helpers.read_features(tmp_path / "features-00001-of-00003.tfrecord")) == 3
