"""The steps by themselves: chunks, lists, decoding ahead, bisecting, writing, committing."""

import json
import os
import threading
import time
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import helpers
from transforms import infer
from transforms.coders import ChunkCoder
from transforms.commit import receipts, writer
from transforms.commit.receipts import Layout
from transforms.commit.writer import BrokenShard, ShardWriter
from transforms.decode import CHUNKS_AHEAD, DecodeImages, DecodeSettings
from transforms.elements import (
    Decoded,
    Encoded,
    EncodedChunk,
    Failure,
    FeatureChunk,
    PixelChunk,
    RecordFile,
    Shard,
    UriSlice,
)
from transforms.imaging.preprocess import Preprocessing
from transforms.read import ReadSettings, ReadShards, chunks
from transforms.sources import uri_list
from transforms.storage import copying
from transforms.storage.errors import StorageFailed
from transforms.write import WriteShards

SHARD = Shard(1, 3, RecordFile("in.tfrecord", 100, 0.0), "in.tfrecord")


def good(position, data=b"x"):
    return Encoded(b"k%d" % position, position, data)


def bad(position):
    return Failure(b"k%d" % position, position, "read", "code", "why")


# chunks


def test_chunks_hold_batch_size_images_and_failures_in_their_place():
    items = [good(0), bad(1), good(2), good(3), bad(4), good(5)]
    found = list(chunks(SHARD, items, 2))
    assert [chunk.items for chunk in found] == [tuple(items[:3]), tuple(items[3:])]
    assert [(chunk.position, chunk.is_last, len(chunk)) for chunk in found] == [(0, False, 2), (3, True, 2)]


def test_an_empty_shard_still_ends_in_a_last_chunk():
    assert list(chunks(SHARD, [], 4)) == [EncodedChunk(SHARD, 0, True, ())]


def test_a_run_of_failures_does_not_grow_a_chunk_without_bound():
    found = list(chunks(SHARD, [bad(i) for i in range(100)], 2))
    assert max(len(chunk.items) for chunk in found) == 16
    assert sum(len(chunk.items) for chunk in found) == 100
    assert [chunk.is_last for chunk in found] == [False] * 6 + [True]


@pytest.mark.parametrize(
    "chunk",
    [
        EncodedChunk(SHARD, 0, True, (good(0, b"abc"), bad(1))),
        PixelChunk(SHARD, 0, False, (Decoded(b"k", 0, 0, 4, 5, "00"),), np.ones((1, 2, 2, 3), np.float32)),
        FeatureChunk(SHARD, 2, True, (), {"embedding": np.ones((2, 3), np.float32)}, {"route": "npz"}),
    ],
)
def test_the_coder_moves_a_chunk_whole_and_measures_it_without_pickling(chunk):
    coder = ChunkCoder()
    back = coder.decode(coder.encode(chunk))
    assert type(back) is type(chunk)
    assert (back.shard, back.position, back.is_last, back.items) == (
        chunk.shard,
        chunk.position,
        chunk.is_last,
        chunk.items,
    )
    assert len(back) == len(chunk)
    assert coder.estimate_size(chunk) == chunk.nbytes + 256 * len(chunk.items)


# lists


@pytest.mark.parametrize("rows_per_slice", [1, 2, 3, 100])
def test_slices_of_a_csv_with_line_breaks_in_fields(tmp_path, rows_per_slice):
    path = tmp_path / "list.csv"
    path.write_text(
        '\ufeffuri,text\r\n/a.jpg,"one\ntwo, ""quoted"""\r\n\r\n/b.jpg,x\n/c.jpg\n,empty\n', newline=""
    )
    columns = uri_list.Columns("uri", ("text",))
    cut = list(uri_list.cut(str(path), "csv", columns, rows_per_slice))
    assert sum(one.rows for one in cut) == 4
    assert all(one.rows <= rows_per_slice for one in cut)
    found = [row for one in cut for row in uri_list.rows(one, columns)]
    assert [(row.uri, row.columns) for row in found[:2]] == [
        ("/a.jpg", {"text": 'one\ntwo, "quoted"'}),
        ("/b.jpg", {"text": "x"}),
    ]
    assert [str(row.error) for row in found[2:]] == [
        "the row has 1 fields, the header 2",
        "no URI in column 'uri'",
    ]


def test_bad_lines_of_json_keep_their_place(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"uri": "/a.jpg"}\nnot json\n[1]\n{"url": "/b.jpg"}\n')
    (cut,) = uri_list.cut(str(path), "jsonl", uri_list.Columns("uri"), 10)
    found = list(uri_list.rows(cut, uri_list.Columns("uri")))
    assert [row.error.code if row.error else row.uri for row in found] == ["/a.jpg", *["bad_row"] * 3]


def test_a_changed_list_changes_its_slices(tmp_path):
    path = tmp_path / "list.txt"
    columns = uri_list.Columns("uri")
    path.write_text("/a.jpg\n/b.jpg\n/c.jpg\n")
    before = list(uri_list.cut(str(path), "txt", columns, 2))
    path.write_text("/a.jpg\n/b.jpg\n/d.jpg\n")
    after = list(uri_list.cut(str(path), "txt", columns, 2))
    assert before[0] == after[0]
    assert before[1].sha256 != after[1].sha256


# read


def test_the_next_shard_is_read_while_the_last_chunk_of_the_one_before_is_passed_on(tmp_path):
    first = helpers.write_tfrecord(tmp_path / "a.tfrecord", [helpers.image_example(i) for i in range(5)])
    second = helpers.write_tfrecord(tmp_path / "b.tfrecord", [helpers.image_example(5)])
    empty = helpers.write_tfrecord(tmp_path / "c.tfrecord", [])
    asked = []
    step = ReadShards(ReadSettings(batch_size=2), lambda shard: asked.append(shard.name) or range(9))
    step.setup()
    step.start_bundle()
    got = []
    for index, path in enumerate((first, second, empty)):
        shard = Shard(index, 3, RecordFile(str(path), path.stat().st_size, 0.0), path.name)
        got.append([(chunk.shard.name, chunk.position) for chunk in step.process(shard)])
    got.append([(w.value.shard.name, w.value.position) for w in step.finish_bundle()])
    step.teardown()
    assert got == [
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


# decode


def test_decoding_runs_ahead_within_bounds_and_keeps_the_order():
    step = DecodeImages(DecodeSettings(Preprocessing(image_size=8), batch_size=2, threads=2), lambda _: True)
    step.start_bundle()
    sent = [
        EncodedChunk(SHARD, 2 * i, i == 4, (good(2 * i, helpers.encoded(i)), bad(2 * i + 1)))
        for i in range(5)
    ]
    got, held = [], []
    for chunk in sent:
        got += step.process(chunk)
        held.append(len(step._pending))
    assert max(held) == CHUNKS_AHEAD
    got += [windowed.value for windowed in step.finish_bundle()]
    assert [chunk.position for chunk in got] == [0, 2, 4, 6, 8]
    assert [chunk.is_last for chunk in got] == [False] * 4 + [True]
    for chunk in got:
        assert chunk.pixels.shape == (2, 8, 8, 3)
        assert chunk.pixels[0].any()
        assert not chunk.pixels[1].any()


def test_an_undecodable_image_leaves_a_zero_row():
    step = DecodeImages(DecodeSettings(Preprocessing(image_size=8), batch_size=3, threads=1), lambda _: True)
    step.start_bundle()
    items = (good(0, helpers.encoded(0)), good(1, b"no image"), good(2, helpers.encoded(2)))
    list(step.process(EncodedChunk(SHARD, 0, True, items)))
    (chunk,) = [windowed.value for windowed in step.finish_bundle()]
    first, second, third = chunk.items
    assert (first.row, third.row) == (0, 2)
    assert isinstance(second, Failure)
    assert not chunk.pixels[1].any()


# infer


class FakeModel:
    """Means of each picture; raises or gives NaN for pictures that hold certain values."""

    identity = types.MappingProxyType({"route": "fake"})

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        if (pixels == 13).any():
            raise RuntimeError("unlucky")
        means = pixels.mean((1, 2, 3))
        return {"embedding": np.where(means == 7, np.nan, means)[:, None].astype(np.float32)}


def pixel_chunk(values):
    pixels = np.zeros((8, 2, 2, 3), np.float32)
    items = []
    for row, value in enumerate(values):
        pixels[row] = value
        items.append(Decoded(b"k%d" % row, row, row, 1, 1, ""))
    return PixelChunk(SHARD, 0, True, tuple(items), pixels)


def test_a_failing_batch_is_bisected_to_the_guilty_image():
    model = FakeModel()
    found = infer.infer(pixel_chunk([1, 2, 13, 4, 5, 13]), model)
    assert [(i.position, i.code) for i in found.items if isinstance(i, Failure)] == [
        (2, "model_error"),
        (5, "model_error"),
    ]
    for item, value in zip(found.items, [1, 2, 13, 4, 5, 13], strict=True):
        if isinstance(item, Decoded):
            assert found.outputs["embedding"][item.row] == value
    assert model.calls < 12


def test_a_vector_that_is_not_finite_goes_to_the_ledger():
    found = infer.infer(pixel_chunk([1, 7, 3]), FakeModel())
    assert [getattr(item, "code", None) for item in found.items] == [None, "not_finite", None]


def test_a_model_that_fails_on_every_image_stops_the_job():
    with pytest.raises(infer.ModelFailed, match="unlucky"):
        infer.infer(pixel_chunk([13, 13, 13]), FakeModel())


def test_a_chunk_without_images_does_not_call_the_model():
    model = FakeModel()
    found = infer.infer(PixelChunk(SHARD, 0, True, (bad(0),), None), model)
    assert (found.items, found.outputs, model.calls) == ((bad(0),), {}, 0)


# write


def feature_chunk(position, count, last=False, shard=SHARD):
    items = tuple(Decoded(b"k%d" % (position + i), position + i, i, 1, 1, "") for i in range(count))
    return FeatureChunk(shard, position, last, items, {"embedding": np.ones((4, 2), np.float32)}, {})


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

    monkeypatch.setattr(writer._File, "write", full)
    assert list(step.process(feature_chunk(0, 4))) == []
    with pytest.raises(OSError, match="no space left"):
        list(step.process(feature_chunk(4, 4)))
    list(step.process(feature_chunk(0, 4, shard=replace(SHARD, index=2))))
    with pytest.raises(OSError, match="no space left"):
        list(step.finish_bundle())
    step.teardown()
    assert helpers.contents(tmp_path) == {}


def test_a_shard_is_committed_while_the_next_one_is_written_and_told_once_it_stands(tmp_path, monkeypatch):
    step, second = WriteShards(Layout(str(tmp_path)), {}), replace(SHARD, index=2)
    may_commit = {SHARD.label: threading.Event(), second.label: threading.Event()}
    plain = ShardWriter.commit

    def held(self):
        assert may_commit[self._shard.label].wait(60)
        return plain(self)

    monkeypatch.setattr(ShardWriter, "commit", held)
    step.start_bundle()
    assert list(step.process(feature_chunk(0, 2, last=True))) == []
    for position in (0, 4):  # neither waits for the commit
        assert list(step.process(feature_chunk(position, 4, shard=second))) == []
    assert not list(tmp_path.glob("receipts/*"))
    may_commit[SHARD.label].set()
    told = list(step.process(feature_chunk(8, 4, last=True, shard=second)))  # waits: one commit at a time
    assert told == [SHARD.label]
    assert [path.stem for path in tmp_path.glob("receipts/*")] == told
    may_commit[second.label].set()
    assert [windowed.value for windowed in step.finish_bundle()] == [second.label]
    assert len(list(tmp_path.glob("receipts/*"))) == 2
    step.teardown()


def test_a_commit_that_fails_while_the_next_shard_is_written_fails_the_bundle(tmp_path, monkeypatch):
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
    list(step.process(feature_chunk(0, 4, shard=second)))
    may_fail.set()
    with pytest.raises(OSError, match="no space left"):
        list(step.process(feature_chunk(4, 4, last=True, shard=second)))
    assert not list(tmp_path.glob("receipts/*"))
    monkeypatch.setattr(ShardWriter, "commit", plain)
    step.start_bundle()  # the bundle again
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


def test_the_attempt_that_commits_first_wins(tmp_path):
    layout = Layout(str(tmp_path))
    slow, fast = ShardWriter(layout, SHARD, {}), ShardWriter(layout, SHARD, {})
    slow.append(feature_chunk(0, 2, last=True))
    fast.append(feature_chunk(0, 4, last=True))
    won = fast.commit()
    before = helpers.contents(tmp_path)
    assert slow.commit() == won
    assert helpers.contents(tmp_path) == before
    assert won.features == 4


def test_a_receipt_tells_size_and_checksum_of_its_files(tmp_path):
    import google_crc32c

    writer = ShardWriter(Layout(str(tmp_path)), SHARD, {"precision": "float32"})
    writer.append(feature_chunk(0, 2))
    writer.append(FeatureChunk(SHARD, 2, True, (bad(2),), {}, {}))
    receipt = writer.commit()
    assert receipt == receipts.read_receipt(Layout(str(tmp_path)), SHARD.label)
    assert (receipt.inputs, receipt.features, receipt.failures, receipt.failures_by_code) == (
        3,
        2,
        1,
        {"code": 1},
    )
    for file in receipt.files:
        data = (tmp_path / file.name).read_bytes()
        assert (file.bytes, file.crc32c) == (len(data), f"{google_crc32c.value(data):08x}")
    (line,) = (tmp_path / "failures-00001-of-00003.jsonl").read_text().splitlines()
    assert json.loads(line) == {"key": "k2", "position": 2, "stage": "read", "code": "code", "message": "why"}


def test_copying_a_model_leaves_no_half_file_under_its_name(tmp_path, monkeypatch):
    source = tmp_path / "model"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"a" * 10)
    (source / "variables" / "variables.index").write_bytes(b"b" * 20)
    target = tmp_path / "cache"
    original = copying._blocks

    def broken(stream):
        yield next(original(stream))
        raise OSError("connection lost")

    monkeypatch.setattr(copying, "_blocks", broken)
    with pytest.raises(OSError, match="connection lost"):
        copying.copy_to_local(str(source), str(target))
    assert not [p for p in target.rglob("*") if p.is_file() and not p.name.endswith(".part")]
    monkeypatch.setattr(copying, "_blocks", original)
    copied = Path(copying.copy_to_local(str(source), str(target)))
    assert (copied / "variables" / "variables.index").read_bytes() == b"b" * 20
    os.utime(source / "variables" / "variables.index", (1, 1))
    assert Path(copying.copy_to_local(str(source), str(target))) != copied


def test_the_process_counts_are_safe_under_threads():
    from transforms.counters import Tally

    tally = Tally()
    threads = [
        threading.Thread(target=lambda: [tally.add(features=1) for _ in range(1000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SimpleNamespace(**vars(tally.counts())).features == 8000
