"""A device with memory of its own is fed ahead: the order of the steps, and batches that fail on the way."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from bit import load
from tests import helpers
from tests.fakes import SHARD, FakeModel, pixel_chunk
from tests.model.remote import PATIENCE_SECONDS, Remote
from transforms import counters, infer
from transforms.coders import ChunkCoder
from transforms.elements import Failure
from transforms.model import feed
from transforms.model.feed import Feed
from transforms.model.fitting import Fitted

NO_ROOM = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


class Means(FakeModel):
    """The fake network, with a batch size."""

    def __init__(self, batch_size: int = 8):
        super().__init__()
        self.batch_size, self.image_size = batch_size, 2

    def resized(self, batch_size: int) -> Means:
        return Means(batch_size)


def unlucky(at: str):
    """Fails at one step for batches that hold a 13."""

    def fails(step, pixels):
        if step == at and (pixels == 13).any():
            raise RuntimeError("unlucky")

    return fails


def too_large(at: str, room: int):
    """Has room for so many images only."""

    def fails(step, pixels):
        if step == at and len(pixels) > room:
            raise NO_ROOM

    return fails


class Harmless(Means):
    """Fails for no value."""

    def __call__(self, pixels):
        return {"embedding": pixels.mean((1, 2, 3))[:, None]}

    def resized(self, batch_size: int) -> Harmless:
        return Harmless(batch_size)


def batch_of(value: float) -> np.ndarray:
    return np.full((8, 2, 2, 3), value, np.float32)


def test_the_next_copy_begins_before_the_present_batch_ends():
    last = 5
    remote, all_given = Remote(Harmless()), threading.Event()

    def until(step, number):
        # A copy ends only once the batch two before it is computed; a batch ends only once the next copy has begun.
        if step == "copy":
            return all_given if not number else remote.event(f"compute {number - 2}") if number >= 2 else None
        return remote.event(f"copy {number + 1}") if step == "computed" and number < last else None

    remote._until = until
    fed = Feed(remote)
    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(lambda: [fed.give(batch_of(number)) for number in range(last + 1)])
        while len(fed._batches) < 2:  # the second one has been given before the first one is copied
            assert not giving.done() or giving.result()
        all_given.set()
        outputs = [batch.outputs()["embedding"][0, 0] for batch in giving.result(PATIENCE_SECONDS)]
    assert outputs == list(range(last + 1))
    at = remote.log.index
    for number in range(last):
        assert at(f"copy {number + 1}") < at(f"computed {number}")
        assert at(f"computed {number}") < at(f"compute {number + 1}")
    assert at("copy 1") < at("launch 0")


def test_a_batch_is_launched_once_the_copy_of_the_next_one_has_begun():
    """Although the device is idle: the next one has been given, and its copy would wait for this batch otherwise."""
    may_end, may_begin = threading.Event(), threading.Event()
    remote = Remote(
        Harmless(),
        until=lambda step, number: {"copy 0": may_end, "copy 1": may_begin}.get(f"{step} {number}"),
    )
    fed = Feed(remote)
    batches = [fed.give(batch_of(0)), fed.give(batch_of(1))]
    may_end.set()
    assert remote.event("launch 0").wait(PATIENCE_SECONDS)
    assert remote.log[:3] == ["copy 0", "copy 1", "launch 0"]
    may_begin.set()
    assert [batch.outputs()["embedding"][0, 0] for batch in batches] == [0, 1]


def test_a_batch_is_ready_on_the_device_while_another_is_computed_and_a_fifth_one_waits():
    may_end = threading.Event()
    remote = Remote(
        Harmless(), until=lambda step, number: may_end if (step, number) == ("compute", 0) else None
    )
    fed = Feed(remote)
    batches = [fed.give(batch_of(number)) for number in range(4)]
    assert remote.event("launch 1").wait(PATIENCE_SECONDS)
    assert not {"computed 0", "launch 2"} & set(remote.log)
    with ThreadPoolExecutor(1) as pool:
        fifth = pool.submit(fed.give, batch_of(4))
        assert not fifth.done()
        may_end.set()
        batches.append(fifth.result(PATIENCE_SECONDS))
    assert [batch.outputs()["embedding"][0, 0] for batch in batches] == [0, 1, 2, 3, 4]


def test_the_last_batch_needs_no_successor():
    batch = Feed(Remote(Harmless())).give(batch_of(3))
    assert batch.outputs()["embedding"].tolist() == [[3.0]] * 8


@pytest.mark.parametrize("at", ["copy", "launch", "fetch"])
def test_what_fails_in_flight_is_bisected_while_the_next_batch_is_under_way(at):
    remote = Remote(Harmless(), unlucky(at))
    model = Fitted(remote)
    values = ([1, 2, 3], [4, 13, 5, 6, 13], [8, 9], [10])
    chunks = [infer.start(pixel_chunk(some), model) for some in values]
    assert all(chunk.pending for chunk in chunks)
    for some, chunk in zip(values, chunks, strict=True):
        done = chunk.resolved()
        failed = {item.position: (item.stage, item.code) for item in done.items if isinstance(item, Failure)}
        assert failed == {k: ("infer", "model_error") for k, value in enumerate(some) if value == 13}
        for item, value in zip(done.items, some, strict=True):
            assert item.position in failed or done.outputs["embedding"][item.row] == value


@pytest.mark.parametrize("at", ["copy", "launch", "fetch"])
def test_out_of_memory_in_flight_halves_the_batch(at):
    remote = Remote(Harmless(), too_large(at, 3))
    model = Fitted(remote)
    chunks = [infer.start(pixel_chunk([1 + k, 2 + k, 3 + k, 4 + k]), model) for k in range(3)]
    outputs = [chunk.resolved().outputs["embedding"][:4, 0].tolist() for chunk in chunks]
    assert outputs == [[1 + k, 2 + k, 3 + k, 4 + k] for k in range(3)]
    assert not infer.start(pixel_chunk([1]), model).pending  # from here on in parts, one after the other
    calls = [line for line in remote.log if line.startswith("call")]
    assert calls == ["call of 4", *["call of 2"] * 16]


def test_values_that_are_not_finite_go_to_the_ledger():
    chunk = infer.start(pixel_chunk([1, 7, 3]), Fitted(Remote(Means()))).resolved()
    assert [getattr(item, "code", None) for item in chunk.items] == [None, "not_finite", None]


def test_a_model_that_fails_on_every_image_stops_the_job():
    chunk = infer.start(pixel_chunk([13, 13, 13]), Fitted(Remote(Harmless(), unlucky("fetch"))))
    with pytest.raises(infer.ModelFailed, match="unlucky"):
        chunk.resolved()


def test_a_device_that_is_lost_blames_no_image():
    def lost(step, pixels):
        raise RuntimeError("the device is lost")

    chunk = infer.start(pixel_chunk([1]), Fitted(Remote(Harmless(), lost)))
    with pytest.raises(infer.ModelFailed, match="the device is lost"):
        chunk.resolved()


def test_no_more_than_two_batches_of_pixels_are_kept_and_none_after_the_end():
    for fails in (lambda step, pixels: None, unlucky("copy"), unlucky("fetch")):
        remote = Remote(Harmless(), fails)
        model = Fitted(remote)
        for value in (1, 2, 3, 13, 5, 6, 7, 8):
            chunk = infer.start(pixel_chunk([value, value + 1]), model)
            chunk.resolved()
        assert remote.most_on_host <= 2
        del chunk
        gc.disable()  # counting references must be enough
        try:
            assert [ref() for ref in remote._hosts if ref() is not None] == []
        finally:
            gc.enable()


def test_what_a_failed_bundle_drops_holds_nothing_up():
    model = Fitted(Remote(Harmless(), unlucky("fetch")))
    for value in range(10, 16):
        infer.start(pixel_chunk([value]), model)
    assert infer.start(pixel_chunk([3]), model).resolved().outputs["embedding"][0, 0] == 3


def test_several_threads_share_a_device():
    model = Fitted(Remote(Harmless(), unlucky("launch")))
    barrier = threading.Barrier(4)

    def work(first: int) -> list[float]:
        barrier.wait()
        chunks = [infer.start(pixel_chunk([first + k, 13]), model) for k in range(8)]
        return [float(chunk.resolved().outputs["embedding"][0, 0]) for chunk in chunks]

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(work, (100, 200, 300, 400)))
    assert got == [[first + k for k in range(8)] for first in (100, 200, 300, 400)]


def test_the_coder_waits_for_what_is_pending():
    chunk = infer.start(pixel_chunk([1, 2]), Fitted(Remote(Harmless())))
    coder = ChunkCoder()
    assert coder.estimate_size(chunk) == 512
    back = coder.decode(coder.encode(chunk))
    assert (back.shard, back.pending) == (SHARD, None)
    assert back.outputs["embedding"][:2].tolist() == [[1], [2]]


def test_the_times_of_a_device_add_up():
    """What it did between two batches: computing, or waiting for the next one, for its copy, and for the host."""
    batch = feed.Batch(batch_of(1), Remote(Harmless()))
    batch.given, batch.copied, batch.launched = 12.0, 15.0, 16.0
    names = ("device_input_seconds", "device_copy_seconds", "device_host_seconds", "device_seconds")

    def times(idle_since, done):
        seconds = feed._times(batch, idle_since, done)
        return tuple(seconds[name] for name in names)

    assert times(10.0, 20.0) == (2.0, 3.0, 1.0, 4.0)
    assert times(13.0, 20.0) == (0.0, 2.0, 1.0, 4.0)
    assert times(15.5, 20.0) == (0.0, 0.0, 0.5, 4.0)
    assert times(18.0, 20.0) == (0.0, 0.0, 0.0, 2.0)  # it was ready when the one before it was done
    assert feed._times(batch, 0.0, 20.0) == {}  # the first one


@pytest.mark.parametrize("flags", [(), ("--direct_num_workers=2",)], ids=["one worker", "two workers"])
def test_a_job_on_such_a_device_writes_the_same_bytes(tmp_path, monkeypatch, flags):
    """Several shards; batches that fail as a whole, and one image for which the model fails alone."""
    pattern = helpers.write_shards(tmp_path / "in", (11, 3, 1, 8))
    flags = (f"--input={pattern}", "--batch_size=4", *flags)
    original = load.load
    guilty: list[float] = []

    def fails(step, pixels):
        if step == "fetch" and guilty and np.isin(pixels.sum((1, 2, 3)), guilty).any():
            raise RuntimeError("unlucky")

    class Direct(Remote):
        """The same model, called batch by batch as on a CPU."""

        device = ""

    models: list[Remote] = []

    def loading(*arguments, kind, **more):
        models.append(kind(original(*arguments, **more), fails))
        return models[-1]

    for name, kind in (("direct", Direct), ("remote", Remote)):
        monkeypatch.setattr(load, "load", partial(loading, kind=kind))
        helpers.job(*flags, output=tmp_path / f"{name}-good")
        guilty.append(float(sums(tmp_path / "in", 5)))
        before = counters.PROCESS.counts()
        helpers.job(*flags, output=tmp_path / f"{name}-bad")
        assert (counters.PROCESS.counts().device_seconds > before.device_seconds) is (name == "remote")
        guilty.clear()
    assert len(models) == 4
    workers = 2 if flags[-1].startswith("--direct") else 1
    assert all(model.most_on_host <= 2 * workers for model in models)
    for state in ("good", "bad"):
        assert helpers.contents(tmp_path / f"direct-{state}") == helpers.contents(
            tmp_path / f"remote-{state}"
        )
    assert [line["code"] for line in helpers.read_ledger(tmp_path / "remote-bad")] == ["model_error"]


def sums(folder, position: int) -> np.float32:
    """The sum of the pixels of an image of the first shard, as the model sees them."""
    from transforms.imaging import preprocess

    pixels = np.zeros((helpers.SIDE, helpers.SIDE, 3), np.float32)
    preprocess.decode(helpers.encoded(position), preprocess.Preprocessing(image_size=helpers.SIDE), pixels)
    return pixels[np.newaxis].sum((1, 2, 3))[0]
