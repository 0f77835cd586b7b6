"""Evaluation of a network on labelled pictures, with the pixels that the job sees: one resize, no crop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.finetune.loading import Pictures

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_MISTAKES = 24


class Mistake(NamedTuple):
    """A picture whose class the network gets wrong; the larger `loss`, the surer it is. `key` is that of its record."""

    loss: float
    key: bytes
    true: int
    taken_for: int
    pixels: np.ndarray  # uint8 (side, side, 3)


class Evaluation(NamedTuple):
    """`pairs` counts (true class, predicted class); `pictures` is their number; the worst of the mistakes come first."""

    pictures: int
    loss: float
    top1: float
    top5: float
    pairs: Counter[tuple[int, int]]
    mistakes: list[Mistake]


def evaluate(predict: Predict, pictures: Iterator[Pictures], classes: np.ndarray) -> Evaluation:
    """Runs all `pictures`, of which `classes` has the classes by example.

    Of equal logits the first class counts as the best, as in the job's top_k. Top-5 counts all classes where there are fewer
    than five.
    """
    count, losses, top1, top5 = 0, 0.0, 0, 0
    pairs: Counter[tuple[int, int]] = Counter()
    worst: list[Mistake] = []
    for pixels, rows, examples, keys, _ in pictures:
        if not len(rows):
            continue
        logits = predict(pixels)[1][rows].astype(np.float64)
        true = classes[examples]
        largest = logits.max(1, keepdims=True)
        own = logits[np.arange(len(rows)), true]
        each = largest[:, 0] + np.log(np.exp(logits - largest).sum(1)) - own
        predicted = logits.argmax(1)
        is_first = np.arange(logits.shape[1]) < true[:, None]
        # Also those that are not a number.
        better = (~(logits <= own[:, None]) | (is_first & (logits == own[:, None]))).sum(1)
        count, losses = count + len(rows), losses + float(each.sum())
        top1, top5 = top1 + int((predicted == true).sum()), top5 + int((better < 5).sum())
        pairs.update(zip(true.tolist(), predicted.tolist(), strict=True))
        for index in np.flatnonzero(predicted != true):
            loss = float(each[index])
            if len(worst) < _MISTAKES or _order(loss, keys[index]) < _order(worst[-1].loss, worst[-1].key):
                picture = np.rint(pixels[rows[index]]).astype(np.uint8)
                worst.append(Mistake(loss, keys[index], int(true[index]), int(predicted[index]), picture))
                worst.sort(key=lambda mistake: _order(mistake.loss, mistake.key))
                del worst[_MISTAKES:]
    share = 1 / max(1, count)
    return Evaluation(count, losses * share, top1 * share, top5 * share, pairs, worst)


def _order(loss: float, key: bytes) -> tuple[float, bytes]:
    return -loss, key
