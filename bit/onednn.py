"""Turns on oneDNN, whose convolutions sum alike for every image of a batch; without TensorFlow, which reads it when imported."""

from __future__ import annotations

import os
import platform

IS_THERE = platform.machine() in ("x86_64", "AMD64")


def turn_on() -> None:
    """On x86, unless the user has decided.

    TensorFlow does so itself for processors with AVX-512 only. On others it takes Eigen's kernels, which sum the last rows of
    a batch in another order: a vector would depend on its place, in the last bits."""
    if IS_THERE:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
