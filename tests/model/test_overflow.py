"""transforms.model.overflow: which rows are computed again, what replaces them, and what is said."""

import logging

import numpy as np
import pytest

from transforms import counters
from transforms.model import overflow

PIXELS = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((1, 2, 2, 3), np.float32)


class Doubling:
    """In float32 gives twice the pixel's value, or infinity for those in `beyond`; `exact`: has a float32 network at all."""

    def __init__(self, beyond=(), exact=True, error=None):
        self.beyond, self.exact, self.error = beyond, exact, error
        self.asked = []

    def in_float32(self, pixels):
        if self.error:
            raise self.error
        if not self.exact:
            return None
        values = pixels[:, 0, 0, 0]
        self.asked.append(values.tolist())
        doubled = 2 * values[:, None]
        embedding = np.where(np.isin(values[:, None], self.beyond), np.float32(np.inf), doubled)
        return {"embedding": embedding, "top_k/class": doubled.astype(np.int64)}


@pytest.fixture(autouse=True)
def _said_nothing_yet():
    overflow._say_once.cache_clear()
    yield
    overflow._say_once.cache_clear()


@pytest.fixture
def count():
    before = counters.PROCESS.counts().overflowed
    return lambda: counters.PROCESS.counts().overflowed - before


def outputs(*values):
    column = np.array(values, np.float32)[:, None]
    return {"embedding": column, "top_k/class": np.full(column.shape, -1, np.int64)}


def test_finite_outputs_are_passed_on_as_they_are(count):
    model, got = Doubling(), outputs(1, 2, 3, 4)
    same, refused = overflow.checked(got, lambda: PIXELS, range(4), model)
    assert same is got
    assert (refused, model.asked, count()) == ({}, [], 0)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_only_rows_that_overflowed_are_computed_again_and_replaced(bad, count, caplog):
    model, got = Doubling(), outputs(10, bad, 30, bad)
    with caplog.at_level(logging.WARNING):
        replaced, refused = overflow.checked(got, lambda: PIXELS, range(4), model)
        overflow.checked(got, lambda: PIXELS, range(4), model)
    assert refused == {}
    assert replaced["embedding"][:, 0].tolist() == [10, 2, 30, 6]
    assert replaced["top_k/class"][:, 0].tolist() == [-1, 2, -1, 6]  # the other outputs of these rows, too
    assert np.array_equal(got["embedding"][:, 0], [10, bad, 30, bad], equal_nan=True)
    assert model.asked == [[1, 3], [1, 3]]
    assert count() == 4
    (message,) = [record.getMessage() for record in caplog.records]
    assert "computed again in float32" in message
    assert "--precision=bfloat16" in message


def test_rows_without_an_image_are_left_alone(count):
    model, got = Doubling(), outputs(10, np.nan, np.nan, 40)
    replaced, refused = overflow.checked(got, lambda: PIXELS, [0, 2], model)
    assert model.asked == [[2]]
    assert np.array_equal(replaced["embedding"][:, 0], [10, np.nan, 4, 40], equal_nan=True)
    assert (refused, count()) == ({}, 1)


def test_what_float32_cannot_compute_either_is_refused(count, caplog):
    replaced, refused = overflow.checked(
        outputs(1, np.inf, np.nan, 4), lambda: PIXELS, range(4), Doubling([1])
    )
    assert refused == {1: ("not_finite", "output 'embedding' is not finite")}
    assert replaced["embedding"][2, 0] == 4
    assert count() == 1
    caplog.clear()
    overflow._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        _, refused = overflow.checked(outputs(1, np.inf, 3, 4), lambda: PIXELS, range(4), Doubling([1]))
    assert list(refused) == [1]
    assert not caplog.records  # nothing was gained, so there is nothing to say


def test_a_model_in_float32_has_no_second_attempt(count):
    got = outputs(1, np.inf, 3, 4)
    same, refused = overflow.checked(got, lambda: PIXELS, range(4), Doubling(exact=False))
    assert same is got
    assert refused == {1: ("not_finite", "output 'embedding' is not finite")}
    assert count() == 0


def test_a_second_network_that_fails_costs_only_what_overflowed(count):
    got = outputs(1, np.inf, 3, 4)
    same, refused = overflow.checked(got, lambda: PIXELS, range(4), Doubling(error=MemoryError("1.5 GB")))
    assert same is got
    assert refused == {
        1: (
            "not_finite",
            "output 'embedding' is not finite, and float32 cannot be tried: MemoryError: 1.5 GB",
        )
    }
    assert count() == 0
