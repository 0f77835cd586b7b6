"""Short runs trace the same graphs again and again, which takes two thirds of their time: here they share them."""

import weakref
from collections import defaultdict

import numpy as np
import pytest

from bit.training import FORM, Trainer
from bit.weights import HEAD_BIAS, HEAD_KERNEL, Untrained


@pytest.fixture(autouse=True, scope="session")
def traced_graphs_are_kept():
    """A Trainer that starts untrained takes variables and functions over from one of its kind that is gone."""
    make = Trainer.__init__
    free: dict[object, list[Trainer]] = defaultdict(list)

    def begin(trainer, weights, classes, settings, form=FORM):
        if not isinstance(weights, Untrained) or settings.train != "all":
            make(trainer, weights, classes, settings, form)
            return
        key = weights, classes, settings, form
        if free[key]:
            kept = free[key].pop()
            for name, variable in kept._trained.items():
                is_head = name in (HEAD_KERNEL, HEAD_BIAS)
                variable.assign(np.zeros(variable.shape) if is_head else weights.array(name))
            for variable in (*kept._gradients.values(), *kept._momentum.values()):
                variable.assign(np.zeros(variable.shape))
        else:
            kept = object.__new__(Trainer)
            make(kept, weights, classes, settings, form)
        vars(trainer).update(vars(kept))
        weakref.finalize(trainer, free[key].append, kept)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "__init__", begin)
        yield
