"""Short runs of training trace the same graphs again and again, which takes two thirds of their time: here they share them."""

from __future__ import annotations

import functools
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bit.training import FORM, Trainer
from bit.weights import HEAD_BIAS, HEAD_KERNEL, Untrained


@contextmanager
def kept() -> Iterator[None]:
    """A Trainer that starts untrained takes variables and functions over from one of its kind that is gone."""
    make = Trainer.__init__
    free: dict[object, list[Trainer]] = defaultdict(list)

    @functools.wraps(make)
    def begin(trainer, weights, classes, settings, form=FORM):
        if not isinstance(weights, Untrained) or settings.train != "all":
            make(trainer, weights, classes, settings, form)
            return
        key = weights, classes, settings, form
        if free[key]:
            one = free[key].pop()
            for name, variable in one._trained.items():
                is_head = name in (HEAD_KERNEL, HEAD_BIAS)
                variable.assign(np.zeros(variable.shape) if is_head else weights.array(name))
            for variable in (*one._gradients.values(), *one._momentum.values()):
                variable.assign(np.zeros(variable.shape))
        else:
            one = object.__new__(Trainer)
            make(one, weights, classes, settings, form)
        vars(trainer).update(vars(one))
        weakref.finalize(trainer, free[key].append, one)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "__init__", begin)
        yield
