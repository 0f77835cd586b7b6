"""A model whose batch shrinks if the device's memory cannot hold it. No TensorFlow is imported here."""

from __future__ import annotations

import logging
import threading

import numpy as np

from transforms import counters
from transforms.model.feed import Batch, Feed
from transforms.model.loaded import LoadedModel, Outputs

# In the messages of errors that libraries below TensorFlow raise.
_SIGNS = ("RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY")


class OutOfMemory(RuntimeError):
    """The device's memory cannot hold a single image, which is not the image's fault."""


class ModelFailed(RuntimeError):
    """The model fails for every image, so no image is the cause."""


class Fitted:
    """Calls a model; after it runs out of memory, calls it with half the batch from then on.

    The size that fits is kept for the process and logged once. It is a second compiled shape of the same weights, and its
    vectors differ from those of the full batch in their last bits. A device with memory of its own, as long as that holds
    full batches, takes them ahead by `give` and `finish`. Thread-safe.
    """

    def __init__(self, model: LoadedModel):
        self.batch_size = model.batch_size
        self.identity = model.identity
        self._fitting = model
        self._feed = Feed(model) if model.device else None
        self._logged_size = model.batch_size
        self._lock = threading.Lock()

    def give(self, pixels: np.ndarray) -> Batch | None:
        """Starts a batch on a device with memory of its own; `finish` returns its outputs.

        None if the batch must be called instead: on a CPU, and where the device holds smaller batches only.
        """
        feed = self._feed
        return feed.give(pixels) if feed and self._fitting is feed.model else None

    def finish(self, batch: Batch) -> Outputs:
        """Waits for the outputs of a batch, as `__call__` returns them. Raises OutOfMemory, or what the device raised."""
        try:
            return batch.outputs()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"[:500]
        self._halve(batch.model, reason)
        return self(batch.pixels())

    def __call__(self, pixels: np.ndarray) -> Outputs:
        """The model's outputs for a batch: float32 (batch_size, side, side, 3) -> (batch_size, d) each.

        Raises OutOfMemory if a batch of one image does not fit.
        """
        while True:
            model = self._fitting
            try:
                outputs = _in_parts(pixels, model)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}"[:500]
            else:
                self._log_size(model.batch_size)
                return outputs
            self._halve(model, reason)  # here, outside the handler, the failed call's arrays are freed

    def in_float32(self, pixels: np.ndarray) -> dict[str, np.ndarray] | None:
        """See `LoadedModel.in_float32`."""
        return self._fitting.in_float32(pixels)

    def _halve(self, model: LoadedModel, reason: str) -> None:
        with self._lock:
            if self._fitting is not model:  # another thread has halved it
                return
            if model.batch_size == 1:
                raise OutOfMemory(
                    f"the device's memory does not hold one image of {model.image_size} pixels per side ({reason}): "
                    "use a smaller --image_size, or free memory that other processes use"
                )
            self._fitting = model.resized((model.batch_size + 1) // 2)

    def _log_size(self, size: int) -> None:
        with self._lock:
            if size >= self._logged_size:
                return
            self._logged_size = size
        counters.PROCESS.batch_fitted = size
        logging.getLogger(__name__).warning(
            "the device ran out of memory with batches of %d images; continuing with %d; start with --batch_size=%d "
            "to avoid this",
            self.batch_size,
            size,
            size,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, a library below it, or Python ran out of memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ResourceExhaustedError", "MemoryError"}) or any(
        sign in str(error) for sign in _SIGNS
    )


def _in_parts(pixels: np.ndarray, model: LoadedModel) -> Outputs:
    """The outputs for a batch of any size, by calls with the model's batch size; the last one is padded."""
    count, size = len(pixels), model.batch_size
    if count == size:
        return model(pixels)
    parts = []
    for start in range(0, count, size):
        part = np.zeros((size, *pixels.shape[1:]), pixels.dtype)
        part[: count - start] = pixels[start : start + size]
        parts.append(model(part))
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
