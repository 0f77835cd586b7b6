"""Turns on oneDNN, whose convolutions sum alike for every image of a batch; without TensorFlow, which reads it when imported."""

from __future__ import annotations

import os
import platform
import sys

# In TensorFlow's builds for other machines, such as macOS on ARM, it is not.
IS_THERE = platform.machine() in ("x86_64", "AMD64") or (
    sys.platform == "linux" and platform.machine() == "aarch64"
)


def turn_on() -> None:
    """Where it is there, unless the user has decided.

    TensorFlow does so itself for x86 processors with AVX-512 only. On others it takes Eigen's kernels, which sum the last rows
    of a batch in another order: a vector would depend on its place, in the last bits."""
    if IS_THERE:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
