"""The steps by themselves: chunks, lists, decoding ahead, bisecting."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import helpers
from tests.fakes import SHARD, FakeModel, bad, good, pixel_chunk
from transforms import infer
from transforms.decode import CHUNKS_AHEAD, DecodeImages, DecodeSettings
from transforms.elements import (
    ChunkCoder,
    Decoded,
    EncodedChunk,
    Failure,
    FeatureChunk,
    PixelChunk,
    Shard,
)
from transforms.imaging.preprocess import Preprocessing
from transforms.read import ReadShards, chunks
from transforms.sources.base import ReadSettings
from transforms.sources.tfrecord import RecordFile
from transforms.storage import copying
from transforms.storage.errors import StorageFailed

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
