"""The BiT-HyperRule: how long, how fast and at which size to fine-tune, from the number and size of the pictures.

Source: google-research/big_transfer @140de6e, `bit_hyperrule.py` and `bit_pytorch/train.py`; arXiv 1912.11370, section 3.3.
Where the authors' versions differ, this is the PyTorch one. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BASE_RATE = 0.003  # for batches of BATCH_SIZE; the authors' code never scales it
BATCH_SIZE = 512
MOMENTUM = 0.9
_SMALL_AREA = 96 * 96  # pixels; a picture of this area is a large one
_MIXUP_FROM = 20_000  # pictures


@dataclass(frozen=True)
class Schedule:
    """Steps of a run: the rate rises to `warm_up`, is divided by ten after each of `decays`, and ends before `end`."""

    warm_up: int
    decays: tuple[int, ...]
    end: int

    def rate(self, step: int, base: float = BASE_RATE) -> float | None:
        """The learning rate of the update `step`, counted from 0; None once training is over.

        The rate of step 0 is 0, and that of a step in `decays` is still the one before the decay (`bit_hyperrule.py`, 49-63).
        """
        if step >= self.end:
            return None
        if step < self.warm_up:
            return base * step / self.warm_up
        rate = base
        for decay in self.decays:
            if decay < step:
                rate /= 10  # again and again, as the authors do: the last digit differs from one division
        return rate

    def scaled_to(self, end: int) -> Schedule:
        """The same shape with `end` updates."""
        share = end / self.end
        return Schedule(
            round(self.warm_up * share), tuple(round(decay * share) for decay in self.decays), end
        )


def schedule(examples: int) -> Schedule:
    """The schedule for so many training examples (`bit_hyperrule.py`, 40-46)."""
    if examples < 20_000:
        return Schedule(100, (200, 300, 400), 500)
    if examples < 500_000:
        return Schedule(500, (3000, 6000, 9000), 10_000)
    return Schedule(500, (6000, 12_000, 18_000), 20_000)


def mixup_alpha(examples: int) -> float:
    """The parameter of MixUp's Beta distribution for so many training examples; 0: no MixUp (`bit_hyperrule.py`, 36-37)."""
    return 0.1 if examples >= _MIXUP_FROM else 0.0


@dataclass(frozen=True)
class Resolution:
    """Sides in pixels: pictures are resized to `resize` squared, and trained on in crops of `crop` squared.

    Evaluation resizes to `crop` directly.
    """

    resize: int
    crop: int


def resolution(area: float) -> Resolution:
    """The resolution for pictures of this (median) area in pixels, before any resizing (`bit_hyperrule.py`, 15-18)."""
    return Resolution(160, 128) if area < _SMALL_AREA else Resolution(512, 480)


def draws(seed: int, *what: int) -> np.random.RandomState:
    """Random numbers that depend on these integers only. NumPy keeps the stream of RandomState frozen."""
    return np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32, *what])


@dataclass(frozen=True)
class Mixup:
    """Mixes each example with a partner: x = coefficient x + (1 - coefficient) x[partner], and the losses alike.

    Zhang et al. 2018, mixup, arXiv:1710.09412. `partners`: int (n,), rows within the update; a row's partner is in the same
    micro-batch.
    """

    coefficient: float
    partners: np.ndarray


def mixup(
    draw: np.random.RandomState, alpha: float, present: np.ndarray, micro_batches: Sequence[slice]
) -> Mixup | None:
    """Draws the MixUp of one update; None if `alpha` is 0.

    One coefficient for the whole update, then one permutation for each micro-batch (`bit_pytorch/train.py`, 145-155, 209).
    Rows that are not `present`, bool (n,), are partners of themselves only.
    """
    if alpha == 0:
        return None
    coefficient = float(draw.beta(alpha, alpha))
    partners = np.arange(len(present))
    for rows in micro_batches:
        here = np.flatnonzero(present[rows]) + rows.start
        partners[here] = here[draw.permutation(len(here))]
    return Mixup(coefficient, partners)
