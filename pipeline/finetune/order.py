"""Which examples each update sees, and in which order they are read: functions of the seed, the epoch and the step only.

An epoch passes over all examples once, in ceil(n / batch) updates, of which the last may be short. Fewer examples than a batch
are drawn with replacement, a batch for each update. So do the authors (`bit_pytorch/train.py`, 91-103) with one micro-batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from bit.hyperrule import draws

_ORDER, _AUGMENT, MIXUP = 1, 2, 3  # what numbers are drawn for
_OPEN_SHARDS = 8


@dataclass(frozen=True)
class Order:
    """The order of training examples that lie at `positions` of `shards`, int (n,) each, sorted by both.

    Up to `window` examples are held at a time: with more of them, an example is seen at most `window` places after it is read.
    """

    shards: np.ndarray
    positions: np.ndarray
    batch: int
    seed: int
    window: int

    @property
    def repeats(self) -> bool:
        """Whether examples are drawn with replacement."""
        return len(self.shards) < self.batch

    @property
    def updates_per_epoch(self) -> int:
        """Updates in which each example is seen once."""
        return -(-len(self.shards) // self.batch)

    def epoch_of(self, step: int) -> int:
        """The epoch of an update; where examples are drawn with replacement, each update is one."""
        return step // self.updates_per_epoch

    def update(self, step: int) -> np.ndarray:
        """The examples of an update, int (m,) with m <= batch."""
        if self.repeats:
            return draws(self.seed, _ORDER, step).randint(0, len(self.shards), self.batch)
        epoch, index = divmod(step, self.updates_per_epoch)
        return self.epoch(epoch)[1][index * self.batch : (index + 1) * self.batch]

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All examples in the order in which they are read, and in that in which they are seen; int (n,) each."""
        return _epoch(self, epoch)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@functools.lru_cache(maxsize=2)
def _epoch(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    draw = draws(order.seed, _ORDER, epoch)
    count = len(order.shards)
    # Several shards are open at once: a shard may hold a single class.
    place = draw.permutation(int(order.shards.max(initial=0)) + 1)[order.shards]
    starts = np.searchsorted(order.shards, order.shards)
    read = np.lexsort((place, np.arange(count) - starts, place // _OPEN_SHARDS))
    if order.repeats:
        return read, read
    if count <= order.window:
        return read, draw.permutation(count)
    return read, read[np.argsort(np.arange(count) + draw.random_sample(count) * order.window, kind="stable")]


def crops_and_flips(
    seed: int, step: int, count: int, resize: int, crop: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each picture of an update the crop's upper left corner, int (count, 2), and whether it is mirrored, bool (count,)."""
    draw = draws(seed, _AUGMENT, step)
    return draw.randint(0, resize - crop + 1, (count, 2)), draw.randint(0, 2, count).astype(bool)
