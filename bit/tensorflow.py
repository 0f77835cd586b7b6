"""TensorFlow without Keras, which it imports with itself: a third of the time, for what no module here uses.

Keras in turn imports scikit-learn and SciPy where they are installed. `tf.keras` is there for those who ask for it later.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

_KERAS = "keras"


class _Postponed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds Keras, and refuses to load it, as if something that it needs was missing; TensorFlow goes on without."""

    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        found = importlib.machinery.PathFinder.find_spec(name, path) if name == _KERAS else None
        return found and importlib.machinery.ModuleSpec(name, self, origin=found.origin)

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError("not while TensorFlow is imported", name=_KERAS)


_postponed = _Postponed()
sys.meta_path.insert(0, _postponed)
_collects = gc.isenabled()
gc.disable()  # a tenth of the time: imports make hundreds of thousands of objects, and no garbage
try:
    import tensorflow as tf
finally:
    sys.meta_path.remove(_postponed)
    if _collects:
        gc.enable()

__all__ = ["tf"]
