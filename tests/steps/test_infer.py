"""Chunks through a model: bisection, values that are not finite, a model that always fails."""

import numpy as np
import pytest

from tests.fakes import SHARD, FakeModel, bad, pixel_chunk
from transforms import counters, infer
from transforms.elements import Decoded, Failure, PixelChunk
from transforms.model import overflow


def test_a_failing_batch_is_bisected_to_the_guilty_image():
    model = FakeModel()
    chunk = infer.infer(pixel_chunk([1, 2, 13, 4, 5, 13]), model)
    assert [(i.position, i.code) for i in chunk.items if isinstance(i, Failure)] == [
        (2, "model_error"),
        (5, "model_error"),
    ]
    for item, value in zip(chunk.items, [1, 2, 13, 4, 5, 13], strict=True):
        if isinstance(item, Decoded):
            assert chunk.outputs["embedding"][item.row] == value
    assert model.calls < 12


def test_a_vector_that_is_not_finite_goes_to_the_ledger():
    chunk = infer.infer(pixel_chunk([1, 7, 3]), FakeModel())
    assert [getattr(item, "code", None) for item in chunk.items] == [None, "not_finite", None]


class Overflowing(FakeModel):
    """In a reduced precision that holds no mean above 100; float32 holds all but 7, which no precision does."""

    def __init__(self, error=None):
        super().__init__()
        self.error, self.again = error, []

    def __call__(self, pixels):
        vectors = super().__call__(pixels)["embedding"]
        return {
            "embedding": np.where(vectors > 100, np.inf, vectors),
            "class": np.zeros(len(pixels), np.int64),
        }

    def in_float32(self, pixels):
        self.again.append(len(pixels))
        if self.error:
            raise self.error
        return {**FakeModel()(pixels), "class": np.full(len(pixels), 5)}


def test_what_overflows_is_computed_again_in_float32_counted_and_said_once(caplog):
    overflow._say_once.cache_clear()
    before = counters.PROCESS.counts().overflowed
    model = Overflowing()
    for _ in range(2):
        chunk = infer.infer(pixel_chunk([1, 200, 7, 3, 300]), model)
        assert [getattr(item, "code", None) for item in chunk.items] == [None, None, "not_finite", None, None]
        right = [1, 200, np.nan, 3, 300]
        np.testing.assert_array_equal(chunk.outputs["embedding"][:5, 0], right)
        assert chunk.outputs["class"][:5].tolist() == [0, 5, 5, 0, 5]
    assert model.again == [3, 3]
    assert counters.PROCESS.counts().overflowed - before == 4
    assert caplog.text.count("computed again in float32") == 1


def test_where_float32_has_no_room_only_what_overflowed_is_lost():
    chunk = infer.infer(pixel_chunk([1, 200, 3]), Overflowing(MemoryError("no room")))
    assert [getattr(item, "code", None) for item in chunk.items] == [None, "not_finite", None]
    assert "float32 cannot be tried: MemoryError: no room" in chunk.items[1].message


def test_a_model_that_fails_on_every_image_stops_the_job():
    with pytest.raises(infer.ModelFailed, match="unlucky"):
        infer.infer(pixel_chunk([13, 13, 13]), FakeModel())


def test_a_chunk_without_images_does_not_call_the_model():
    model = FakeModel()
    chunk = infer.infer(PixelChunk(SHARD, 0, True, (bad(0),), None), model)
    assert (chunk.items, chunk.outputs, model.calls) == ((bad(0),), {}, 0)
