"""DecodeImages: decoding ahead, in order, in processes; images that cannot be decoded, and what is no image's fault."""

import gc
import time
import weakref

import numpy as np
import pytest

from tests import helpers
from tests.fakes import SHARD, bad, good
from transforms.decode import CHUNKS_AHEAD, DecodeImages, submit
from transforms.elements import Decoded, EncodedChunk, Failure
from transforms.feeding import feeders
from transforms.feeding.settings import DecodeSettings
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing

SIDE = 8
SETTINGS = DecodeSettings(Preprocessing(image_size=SIDE), batch_size=3, processes=2)


@pytest.fixture
def step():
    made = DecodeImages(SETTINGS)
    made.setup()
    made.start_bundle()
    yield made
    made.teardown()
    assert SETTINGS not in feeders._feeders


def expected(data: bytes) -> np.ndarray:
    out = np.empty((SIDE, SIDE, 3), np.float32)
    preprocess.decode(data, SETTINGS.preprocessing, out)
    return out


def two_images(position: int, is_last: bool = False) -> EncodedChunk:
    """With a failure between them."""
    items = good(position, helpers.encoded(position)), bad(position + 1), good(position + 2, b"no image")
    return EncodedChunk(SHARD, position, is_last, items)


def the_rest(step) -> list:
    return [windowed.value for windowed in step.finish_bundle()]


def test_decoding_runs_ahead_within_bounds_and_keeps_the_order(step):
    sent = [two_images(3 * i, i == 4) for i in range(5)]
    emitted, pending = [], []
    for chunk in sent:
        emitted += step.process(chunk)
        pending.append(len(step._pending))
    assert (len(emitted), pending) == (5 - CHUNKS_AHEAD, [1, 2, 2, 2, 2])
    emitted += the_rest(step)
    assert [chunk.position for chunk in emitted] == [0, 3, 6, 9, 12]
    assert [chunk.is_last for chunk in emitted] == [False] * 4 + [True]
    for chunk in emitted:
        first, second, third = chunk.items
        assert chunk.shard == SHARD
        assert (first.key, first.position, first.row) == (b"k%d" % chunk.position, chunk.position, 0)
        assert second == bad(chunk.position + 1)
        assert (third.position, third.stage, third.code) == (chunk.position + 2, "decode", "not_image")
        assert (chunk.pixels.shape, chunk.pixels.dtype) == ((3, SIDE, SIDE, 3), np.float32)
        np.testing.assert_array_equal(chunk.pixels[0], expected(helpers.encoded(chunk.position)))
        assert not chunk.pixels[1:].any()


def test_an_undecodable_image_leaves_a_zero_row(step):
    items = (good(0, helpers.encoded(0)), good(1, b"no image"), good(2, helpers.encoded(2)))
    assert not list(step.process(EncodedChunk(SHARD, 0, True, items)))
    (chunk,) = the_rest(step)
    first, second, third = chunk.items
    assert (first.row, third.row) == (0, 2)
    assert isinstance(second, Failure)
    assert not chunk.pixels[1].any()
    np.testing.assert_array_equal(chunk.pixels[2], expected(helpers.encoded(2)))


def test_a_chunk_without_a_decoded_image_has_no_pixels(step):
    no_image = EncodedChunk(SHARD, 3, False, (good(3, b"no image"),))
    for chunk in (EncodedChunk(SHARD, 0, False, ()), EncodedChunk(SHARD, 0, False, (bad(0),)), no_image):
        assert not list(step.process(chunk))
        (result,) = the_rest(step)
        assert result.pixels is None
        assert [item.position for item in result.items] == [item.position for item in chunk.items]


def test_what_a_failed_bundle_left_is_dropped_and_its_memory_used_again(step):
    for _ in range(10):
        list(step.process(two_images(0)))
        list(step.process(two_images(3)))
        batches = [weakref.ref(pending.batch) for pending in step._pending]
        step.start_bundle()
        deadline = time.monotonic() + 60
        while any(batch() for batch in batches):  # feeders may still work on them
            assert time.monotonic() < deadline
            time.sleep(0.01)
            gc.collect()
    list(step.process(two_images(6, True)))
    assert [chunk.position for chunk in the_rest(step)] == [6]
    assert len(step._feeders._slots) == 2


def test_what_is_no_images_fault_fails_the_bundle_and_not_the_next_one(monkeypatch, decoding_here, step):
    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "can_scale", None)
        list(step.process(two_images(0)))
        with pytest.raises(RuntimeError, match=r"decoding k0 failed, not for its content: (?s:.*)TypeError"):
            the_rest(step)
    step.start_bundle()
    list(step.process(two_images(3)))
    assert isinstance(the_rest(step)[0].items[0], Decoded)


def test_instances_of_a_process_share_the_feeders(step):
    other = DecodeImages(SETTINGS)
    other.setup()
    assert other._feeders is step._feeders
    other.teardown()
    chunk = submit(two_images(0), step._feeders).result()
    assert isinstance(chunk.items[0], Decoded)
