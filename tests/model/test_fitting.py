"""A model call that runs out of memory: halved to what fits, kept, logged once, and never blamed on an image."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest
import tensorflow as tf

from bit import load, models
from tests import helpers
from tests.fakes import FakeModel, pixel_chunk
from transforms import counters, infer
from transforms.elements import Failure
from transforms.model.fitting import Fitted, OutOfMemory, is_out_of_memory

NO_ROOM = {
    "tensorflow": tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
    "host": MemoryError("Unable to allocate 2. GiB"),
    "xla": tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
}


class Tight:
    """A model on a device that holds no more than `room` images at once."""

    def __init__(self, model, room: int, error: Exception, log: list | None = None):
        self._model, self._room, self._error = model, room, error
        self.batch_size, self.image_size = model.batch_size, model.image_size
        self.identity, self.device, self.log = model.identity, "", [] if log is None else log

    def __call__(self, pixels):
        self.log.append(len(pixels))
        if len(pixels) > self._room:
            raise self._error
        return self._model(pixels)

    def in_float32(self, pixels):
        return self._model.in_float32(pixels)

    def resized(self, batch_size: int) -> Tight:
        return Tight(self._model.resized(batch_size), self._room, self._error, self.log)


class Sized(FakeModel):
    """A fake network of one batch size."""

    def __init__(self, batch_size: int = 8):
        super().__init__()
        self.batch_size, self.image_size = batch_size, 2

    def __call__(self, pixels):
        assert len(pixels) == self.batch_size
        return super().__call__(pixels)

    def resized(self, batch_size: int) -> Sized:
        return Sized(batch_size)


@pytest.fixture(scope="module")
def tiny():
    model = models.resolve("untrained/tiny")
    return load.load(model, "", image_size=32, batch_size=7)


@pytest.mark.parametrize("kind", NO_ROOM)
def test_the_batch_is_halved_until_it_fits_and_the_size_is_kept_and_said_once(tiny, kind, caplog):
    pixels = np.stack([helpers.picture(seed, 32, 32) for seed in range(7)]).astype(np.float32)
    expected = tiny(pixels)["embedding"]
    tight = Tight(tiny, 2, NO_ROOM[kind])
    model = Fitted(tight)
    with caplog.at_level(logging.WARNING):
        outputs = [model(pixels)["embedding"] for _ in range(3)]
    assert tight.log == [7, 4, 2, 2, 2, 2] + [2] * 8
    (message,) = [record.getMessage() for record in caplog.records]
    assert "batches of 7 images; continuing with 2; start with --batch_size=2" in message
    assert counters.PROCESS.batch_fitted == 2
    for output in outputs:
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_model_that_has_room_is_called_as_it_is(tiny):
    pixels = np.ones((7, 32, 32, 3), np.float32)
    assert np.array_equal(Fitted(tiny)(pixels)["embedding"], tiny(pixels)["embedding"])


def test_the_images_at_fault_are_found_in_smaller_batches_too():
    values = [1, 2, 13, 4, 7, 13, 6, 3]
    model = Fitted(Tight(Sized(), 3, NO_ROOM["tensorflow"]))
    chunk = infer.infer(pixel_chunk(values), model)
    failed = {item.position: item.code for item in chunk.items if isinstance(item, Failure)}
    assert failed == {2: "model_error", 4: "not_finite", 5: "model_error"}
    for item, value in zip(chunk.items, values, strict=True):
        assert item.position in failed or chunk.outputs["embedding"][item.row] == value


def test_a_device_without_room_for_one_image_ends_the_job_and_blames_no_image():
    with pytest.raises(OutOfMemory, match="does not hold one image of 2 pixels per side"):
        infer.infer(pixel_chunk([1]), Fitted(Tight(Sized(), 0, NO_ROOM["tensorflow"])))


def test_several_threads_learn_the_same_size():
    tight = Tight(Sized(), 2, NO_ROOM["tensorflow"])
    model = Fitted(tight)
    barrier = threading.Barrier(6)
    results = []

    def call() -> None:
        barrier.wait()
        results.append(
            infer.infer(pixel_chunk([1, 2, 3, 4, 5, 6, 8, 9]), model).outputs["embedding"].ravel().tolist()
        )

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[1, 2, 3, 4, 5, 6, 8, 9]] * 6
    assert set(tight.log) == {8, 4, 2}


def test_other_errors_are_not_taken_for_want_of_memory():
    for error in (
        RuntimeError("unlucky"),
        tf.errors.InvalidArgumentError(None, None, "shapes"),
        ValueError(),
    ):
        assert not is_out_of_memory(error)


def test_a_job_goes_on_with_smaller_batches_and_says_which_flag_would_avoid_it(tmp_path, monkeypatch, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (11, 3))
    helpers.job(f"--input={pattern}", "--batch_size=8", output=tmp_path / "roomy")
    original = load.load
    monkeypatch.setattr(load, "load", lambda *a, **k: Tight(original(*a, **k), 2, NO_ROOM["tensorflow"]))
    capsys.readouterr()
    report = tmp_path / "report.json"
    helpers.job(f"--input={pattern}", "--batch_size=8", f"--report_file={report}", output=tmp_path / "tight")
    assert "--batch_size=2 would fit from the start" in capsys.readouterr().err
    assert json.loads(report.read_text())["smaller_batch"] == 2
    pairs = zip(helpers.read_all(tmp_path / "tight"), helpers.read_all(tmp_path / "roomy"), strict=True)
    for one, other in pairs:
        assert one["key"] == other["key"]
        np.testing.assert_allclose(
            one["embedding"], other["embedding"], rtol=0, atol=1e-5 * np.abs(other["embedding"]).max()
        )
