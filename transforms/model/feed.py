"""Feeds a device that has memory of its own: it computes one batch while it gets the next. No TensorFlow is imported here.

The order of the steps matters, for TensorFlow makes each copy, to a GPU and back, wait for what was launched before it. So
a batch is launched only once the copy of its successor has begun, unless there is none and the device would be idle; and a
result is requested as soon as the one before it has arrived:

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

_NOT_COPIED = 2  # batches at most: one is being copied, and the next one follows at once
_NOT_DONE = 4  # batches at most: one is computed, and one is ready on the device


class Batch:
    """A batch that was given to a device. The host's pixels are let go of once the device has them."""

    def __init__(self, pixels: np.ndarray, model: LoadedModel):
        self.model = model
        self.given = time.monotonic()
        self.copying = self.copied = self.launched = 0.0  # on the same clock; 0 before
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

    def copy(self) -> None:
        """Copies the pixels to the device."""

        def copy() -> None:
            assert self._pixels is not None
            self._on_device = self.model.put(self._pixels)
            self._pixels = None

        self._attempt(copy)

    def launch(self) -> None:
        """Starts the computing."""

        def launch() -> None:
            self._launched = self.model.launch(self._on_device)

        self._attempt(launch)

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
    """Passes batches through one model on one device, in the order in which they are given. Thread-safe.

    Each step has a thread of its own, and takes the batches in order.
    """

    def __init__(self, model: LoadedModel):
        self.model = model
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()  # those that are not done
        self._idle_since = 0.0
        self._steps = tuple(
            (ThreadPoolExecutor(1, name), step)
            for name, step in (("copy", Feed._copy), ("launch", Feed._launch), ("fetch", Feed._fetch))
        )

    def give(self, pixels: np.ndarray) -> Batch:
        """Starts a batch, float32 (batch_size, side, side, 3). Waits while two others have not been copied to the device."""
        batch = Batch(pixels, self.model)
        with self._changed:
            self._changed.wait_for(self._has_room)
            self._batches.append(batch)
            for thread, step in self._steps:
                thread.submit(step, self, batch)
            self._changed.notify_all()
        return batch

    def _has_room(self) -> bool:
        waiting = sum(not batch.copied for batch in self._batches)
        return waiting < _NOT_COPIED and len(self._batches) < _NOT_DONE

    def _copy(self, batch: Batch) -> None:
        with self._changed:
            batch.copying = time.monotonic()
            self._changed.notify_all()
        # Whoever was woken runs once this thread is within TensorFlow, after the copy has got its place in the order.
        batch.copy()
        with self._changed:
            batch.copied = time.monotonic()
            self._changed.notify_all()

    def _launch(self, batch: Batch) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_due(batch))
            began = time.monotonic()
        batch.launch()
        with self._changed:
            batch.launched = began  # the device computes from the first operation that it is given
            self._changed.notify_all()

    def _is_due(self, batch: Batch) -> bool:
        before = self._batches.index(batch)
        if not batch.copied or before > 1:  # one ready batch is enough
            return False
        if before + 1 < len(self._batches):
            return bool(self._batches[before + 1].copying)
        return not before  # the device is idle

    def _fetch(self, batch: Batch) -> None:
        with self._changed:
            self._changed.wait_for(lambda: batch.launched)
        batch.fetch()
        with self._changed:
            self._batches.popleft()
            done = time.monotonic()
            counters.PROCESS.add(**_times(batch, self._idle_since, done))
            self._idle_since = done
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
