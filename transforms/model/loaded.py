"""What the graph needs from a loaded network; `bit.load` returns one. No TensorFlow is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class LoadedModel(Protocol):
    """A network on its device, compiled for one shape of batch."""

    @property
    def batch_size(self) -> int:
        """Images per call."""

    @property
    def image_size(self) -> int:
        """Pixels per side."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Recorded in receipts: which weights, by which route, and the self-test's error."""

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (batch_size, image_size, image_size, 3), RGB in [0, 255] -> each output (batch_size, d) by name.

        Called by `Fitted`, from one thread at a time or several.
        """

    def in_float32(self, pixels: np.ndarray) -> dict[str, np.ndarray] | None:
        """Any number of pictures by the same model in float32; None if it is not in a reduced precision.

        Called for images whose outputs are not finite: slow, as they are hardly any.
        """

    def resized(self, batch_size: int) -> LoadedModel:
        """The same weights for another batch size: `Fitted` continues with it if the device ran out of memory."""
