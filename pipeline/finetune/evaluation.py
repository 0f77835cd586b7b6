"""Evaluation of a network on labelled pictures, with the pixels that the job sees: one resize, no crop."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_MISTAKES = 24


class Mistake(NamedTuple):
    """A picture whose class the network gets wrong; the larger `loss`, the surer it is."""

    loss: float
    example: int
    true: int
    taken_for: int
    pixels: np.ndarray  # uint8 (side, side, 3)


class Evaluation(NamedTuple):
    """`pairs` counts (true class, predicted class); `pictures` is their number."""

    pictures: int
    loss: float
    top1: float
    top5: float
    pairs: Counter[tuple[int, int]]
    mistakes: list[Mistake]


def evaluate(
    predict: Predict,
    pictures: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: np.ndarray,
    stopped: Callable[[], Any],
) -> Evaluation | None:
    """Runs all `pictures` (see `loading.decoded`), of which `classes` has the classes; None once `stopped()`.

    Top-5 counts all classes where there are fewer than five.
    """
    count, losses, top1, top5 = 0, 0.0, 0, 0
    pairs: Counter[tuple[int, int]] = Counter()
    worst: list[tuple[float, int, Mistake]] = []
    for pixels, rows, examples in pictures:
        if stopped():
            return None
        if not len(rows):
            continue
        logits = predict(pixels)[1][rows].astype(np.float64)
        true = classes[examples]
        largest = logits.max(1, keepdims=True)
        own = logits[np.arange(len(rows)), true]
        each = largest[:, 0] + np.log(np.exp(logits - largest).sum(1)) - own
        predicted = logits.argmax(1)
        better = (~(logits <= own[:, None])).sum(1)  # also those that are not a number
        count, losses = count + len(rows), losses + float(each.sum())
        top1, top5 = top1 + int((predicted == true).sum()), top5 + int((better < 5).sum())
        pairs.update(zip(true.tolist(), predicted.tolist(), strict=True))
        for index in np.flatnonzero(predicted != true):
            entry = (float(each[index]), -int(examples[index]))
            if len(worst) < _MISTAKES or entry > worst[0][:2]:
                picture = np.rint(pixels[rows[index]]).astype(np.uint8)
                mistake = Mistake(
                    entry[0], int(examples[index]), int(true[index]), int(predicted[index]), picture
                )
                (heapq.heappush if len(worst) < _MISTAKES else heapq.heapreplace)(worst, (*entry, mistake))
    mistakes = [mistake for *_, mistake in sorted(worst, key=lambda entry: entry[:2], reverse=True)]
    share = 1 / max(1, count)
    return Evaluation(count, losses * share, top1 * share, top5 * share, pairs, mistakes)
