"""What the graph needs from a loaded network; `bit.load` returns one. No TensorFlow is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Outputs = dict[str, np.ndarray]  # by name: (batch_size, d) each


class LoadedModel(Protocol):
    """A network on its device, compiled for one shape of batch."""

    @property
    def batch_size(self) -> int:
        """Images per call."""

    @property
    def image_size(self) -> int:
        """Pixels per side."""

    @property
    def device(self) -> str:
        """The name of a device with memory of its own, such as 'NVIDIA H200'; '' for the CPU."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Recorded in receipts: which weights, by which route, and the self-test's error."""

    def __call__(self, pixels: np.ndarray) -> Outputs:
        """float32 (batch_size, image_size, image_size, 3), RGB in [0, 255] -> each output (batch_size, d) by name.

        Called by `Fitted`, from one thread at a time or several.
        """

    def in_float32(self, pixels: np.ndarray) -> dict[str, np.ndarray] | None:
        """Any number of pictures by the same model in float32; None if it is not in a reduced precision.

        Called for images whose outputs are not finite: slow, as they are hardly any.
        """

    def resized(self, batch_size: int) -> LoadedModel:
        """The same weights for another batch size: `Fitted` continues with it if the device ran out of memory."""

    # `Feed` calls the steps of `__call__` one by one, each on a thread of its own, where `device` has a name.

    def put(self, pixels: np.ndarray) -> Any:
        """Copies a batch to the device and returns it there. Called for one batch at a time."""

    def launch(self, on_device: Any) -> Any:
        """Starts computing on what `put` returned, and returns at once what `fetch` takes."""

    def fetch(self, launched: Any) -> Outputs:
        """Waits for the outputs; called once for each batch, in the order of launching."""

    def back(self, on_device: Any) -> np.ndarray:
        """The pixels that `put` copied, for a batch that has failed."""
