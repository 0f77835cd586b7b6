"""Feeds a device that has memory of its own: it computes one batch while it gets the next. No TensorFlow is imported here.

The order of the steps matters, for TensorFlow makes each copy, to a GPU and back, wait for what was launched before it. So
a batch is launched only once the copy of its successor has begun, or if the device would be idle; and a result is
requested as soon as the one before it has arrived:

    copy      | 0 | 1 |   | 2 |     | 3 |
    compute           | 0       | 1       | 2       | 3

Batches wait on the device, which goes from one to the next without the host. The feed does what it was given to its end,
whether or not anybody collects the results: what a failed bundle drops holds nothing up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

import numpy as np

from transforms import counters
from transforms.model.loaded import LoadedModel, Outputs

_ON_DEVICE = 3  # batches: one is computed, one is ready, one is being copied
_SUCCESSOR_SECONDS = 0.005  # how long an idle device waits for the copy of the next batch to begin


class Batch:
    """A batch that was given to a device. The host's pixels are let go of once the device has them."""

    def __init__(self, pixels: np.ndarray, model: LoadedModel):
        self.model = model
        self.given = time.monotonic()
        self.copied = self.launched = 0.0  # on the same clock; 0 before
        self._pixels: np.ndarray | None = pixels
        self._on_device: Any = None
        self._launched: Any = None
        self._outcome: Future[Outputs] = Future()

    def wait(self) -> None:
        """Returns once the device is done with the batch, whether or not it failed."""
        wait_for([self._outcome])

    def outputs(self) -> Outputs:
        """Waits for the model's outputs; raises what the device raised for this batch."""
        return self._outcome.result()

    def pixels(self) -> np.ndarray:
        """float32 (batch_size, side, side, 3): the batch as it was given. Raises what the device raises on the way back."""
        return self.model.back(self._on_device) if self._pixels is None else self._pixels

    def release(self) -> None:
        """Lets go of the batch, on the host and on the device; `pixels` cannot be called any more."""
        self._pixels = self._on_device = None

    def copy(self, begins: threading.Event) -> None:
        """Copies the pixels to the device; `begins` is set right before."""

        def copy() -> None:
            assert self._pixels is not None
            begins.set()
            self._on_device = self.model.put(self._pixels)
            self._pixels = None

        self._attempt(copy)
        self.copied = time.monotonic()

    def launch(self) -> None:
        """Starts the computing."""

        def launch() -> None:
            self._launched = self.model.launch(self._on_device)

        self._attempt(launch)
        self.launched = time.monotonic()

    def fetch(self) -> None:
        """Waits for the outputs and copies them to the host."""
        self._attempt(lambda: self._outcome.set_result(self.model.fetch(self._launched)))
        self._launched = None

    def _attempt(self, step: Callable[[], None]) -> None:
        """Does a step unless an earlier one failed; keeps what it raises for `outputs`."""
        if self._outcome.done():
            return
        try:
            step()
        except Exception as error:
            # The frames of a traceback, and of errors before it, would keep arrays alive.
            error.__cause__ = error.__context__ = None
            self._outcome.set_exception(error.with_traceback(None))


class Feed:
    """Passes batches through one model on one device, in the order in which they are given. Thread-safe."""

    def __init__(self, model: LoadedModel):
        self.model = model
        self._giving, self._launching = threading.Lock(), threading.Lock()
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()  # those that are not done, in order
        self._idle_since = 0.0
        self._copying, self._fetching = ThreadPoolExecutor(1, "copy"), ThreadPoolExecutor(1, "fetch")

    def give(self, pixels: np.ndarray) -> Batch:
        """Starts a batch, float32 (batch_size, side, side, 3). Waits while the batch before it is being copied, or the
        device has two others to compute."""
        with self._giving:
            batch, begins = Batch(pixels, self.model), threading.Event()
            with self._changed:
                self._changed.wait_for(self._has_room)
                before = self._batches[-1] if self._batches else None
                self._batches.append(batch)
            self._copying.submit(self._copy, batch, begins)
            begins.wait()
            if before:
                self._launch(before)
            self._fetching.submit(self._finish, batch)
        return batch

    def _has_room(self) -> bool:
        return not self._batches or (len(self._batches) < _ON_DEVICE and bool(self._batches[-1].copied))

    def _copy(self, batch: Batch, begins: threading.Event) -> None:
        batch.copy(begins)
        self._notify()

    def _launch(self, batch: Batch) -> None:
        with self._launching:
            if not batch.launched:
                batch.launch()
        self._notify()

    def _finish(self, batch: Batch) -> None:
        """Runs on the fetching thread, batch by batch: those before this one are done."""
        with self._changed:
            self._changed.wait_for(lambda: batch.copied)
            self._changed.wait_for(lambda: batch.launched, _SUCCESSOR_SECONDS)
        self._launch(batch)
        batch.fetch()
        with self._changed:
            self._batches.popleft()
            counters.PROCESS.add(**_times(batch, self._idle_since, time.monotonic()))
            self._idle_since = time.monotonic()
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _times(batch: Batch, idle_since: float, done: float) -> dict[str, float]:
    """What the device did since the batch before this one was done: computing, or waiting for what."""
    if not idle_since:
        return {}
    given, copied, launched = (max(at, idle_since) for at in (batch.given, batch.copied, batch.launched))
    return {
        "device_input_seconds": min(given, launched) - idle_since,
        "device_copy_seconds": max(0.0, min(copied, launched) - given),
        "device_host_seconds": max(0.0, launched - max(copied, given)),
        "device_seconds": done - launched,
    }
