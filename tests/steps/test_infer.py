"""Chunks through a model: bisection, values that are not finite, a model that always fails."""

import pytest

from tests.fakes import SHARD, FakeModel, bad, pixel_chunk
from transforms import infer
from transforms.elements import Decoded, Failure, PixelChunk


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


def test_a_model_that_fails_on_every_image_stops_the_job():
    with pytest.raises(infer.ModelFailed, match="unlucky"):
        infer.infer(pixel_chunk([13, 13, 13]), FakeModel())


def test_a_chunk_without_images_does_not_call_the_model():
    model = FakeModel()
    chunk = infer.infer(PixelChunk(SHARD, 0, True, (bad(0),), None), model)
    assert (chunk.items, chunk.outputs, model.calls) == ((bad(0),), {}, 0)
