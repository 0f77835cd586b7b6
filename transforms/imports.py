"""Imports without a search for garbage. Imports nothing heavy itself."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports: no garbage is looked for within it, and what was made is never looked through again.

    Of Beam and TensorFlow 440,000 objects stay. Passes over them took a fifth of a start, and would come back whenever
    the job's own objects call for one. What is garbage stays too, about 5 MB.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:  # else there is only what its owners may let go
            gc.freeze()
        if was_enabled:
            gc.enable()
