"""Figures of an evaluation: equal logits, pictures that failed, the worst mistakes."""

import numpy as np
import pytest

from pipeline.finetune import evaluation
from pipeline.finetune.loading import Pictures


def pictures(keys, size=4):
    """Batches of pictures, the last row of each unused."""
    for start in range(0, len(keys), size):
        some = keys[start : start + size]
        rows = np.arange(len(some))
        pixels = np.full((size + 1, 2, 2, 3), 7.0, np.float32)
        yield Pictures(pixels, rows, rows + start, some, [])


def evaluate(logits, classes, keys=None):
    logits, keys = np.asarray(logits, np.float32), keys or [b"%d" % n for n in range(len(classes))]
    parts = iter(np.array_split(logits, range(4, len(logits), 4)))

    def predict(pixels):
        part = next(parts)
        return None, np.vstack([part, np.full((len(pixels) - len(part), part.shape[1]), np.nan)])

    return evaluation.evaluate(predict, pictures(keys), np.asarray(classes))


def test_of_equal_logits_the_first_class_is_the_best():
    """With a head of zeros all logits are equal: top-5 is the first five classes, not all."""
    found = evaluate(np.zeros((10, 10)), range(10))
    assert (found.top1, found.top5) == (0.1, 0.5)
    found = evaluate([[1, 2, 2, 2, 2, 2, 2]] * 7, range(7))
    assert (found.top1, found.top5) == pytest.approx((1 / 7, 5 / 7))  # classes 1 to 5
    assert found.pairs == {(true, 1): 1 for true in range(7)}


@pytest.mark.parametrize("order", [1, -1])
def test_of_equally_wrong_pictures_the_first_keys_are_shown(order):
    keys = [b"%03d" % n for n in range(40)][::order]
    logits = np.tile([[2.0, 1.0]], (40, 1))
    logits[keys.index(b"017")] = [5.0, 1.0]
    found = evaluate(logits, [1] * 40, keys)
    shown = [mistake.key for mistake in found.mistakes]
    assert shown == [b"017", *(b"%03d" % n for n in range(24) if n != 17)]
    assert found.mistakes[0].loss == pytest.approx(4 + np.log1p(np.exp(-4)))
    assert (found.mistakes[0].true, found.mistakes[0].taken_for) == (1, 0)
    assert (found.mistakes[0].pixels == 7).all()
