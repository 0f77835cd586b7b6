"""A device with memory of its own, in place of a GPU: it computes on a thread, in the order in which it is asked to."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

PATIENCE_SECONDS = 60


class Remote:
    """A model behind such a device. `log` holds what happened, such as 'copy 0', with the numbers of the batches.

    Args:
      model: computes the outputs.
      fails: called with the step ('copy', 'launch' or 'fetch') and the pixels; may raise.
      until: called with the step and the number of the batch: an event that the device waits for within the step, or None.
    """

    device = "stand-in"

    def __init__(
        self,
        model,
        fails: Callable[[str, np.ndarray], None] = lambda step, pixels: None,
        until: Callable[[str, int], threading.Event | None] = lambda step, number: None,
        log: list[str] | None = None,
    ):
        self._model, self._fails, self._until = model, fails, until
        self.batch_size, self.image_size = model.batch_size, model.image_size
        self.identity = model.identity
        self.log: list[str] = [] if log is None else log
        self.happened: dict[str, threading.Event] = {}
        self.most_on_host = 0
        self._hosts: list[weakref.ref[np.ndarray]] = []
        self._count = 0
        self._unit = ThreadPoolExecutor(1, "unit")

    def event(self, what: str) -> threading.Event:
        """Set once `what` is in the log."""
        return self.happened.setdefault(what, threading.Event())

    def _note(self, step: str, number: int) -> None:
        self.log.append(f"{step} {number}")
        self.event(f"{step} {number}").set()
        if step != "computed":
            self._wait(step, number)

    def _wait(self, step: str, number: int) -> None:
        if event := self._until(step, number):
            assert event.wait(PATIENCE_SECONDS), f"{step} {number} waited in vain"

    def __call__(self, pixels):
        self.log.append(f"call of {len(pixels)}")
        for step in ("copy", "launch", "fetch"):
            self._fails(step, pixels)
        return self._model(pixels)

    def resized(self, batch_size: int) -> Remote:
        return Remote(self._model.resized(batch_size), self._fails, self._until, self.log)

    def put(self, pixels: np.ndarray) -> tuple[int, np.ndarray]:
        self._hosts = [ref for ref in self._hosts if ref() is not None] + [weakref.ref(pixels)]
        self.most_on_host = max(self.most_on_host, len(self._hosts))
        number, self._count = self._count, self._count + 1
        self._note("copy", number)
        self._fails("copy", pixels)
        return number, pixels.copy()

    def launch(self, on_device: tuple[int, np.ndarray]) -> tuple[int, Future]:
        number, pixels = on_device
        self._note("launch", number)
        self._fails("launch", pixels)
        return number, self._unit.submit(self._compute, number, pixels)

    def _compute(self, number: int, pixels: np.ndarray):
        self._note("compute", number)
        self._fails("fetch", pixels)
        outputs = self._model(pixels)
        self._wait("computed", number)
        self._note("computed", number)
        return outputs

    def fetch(self, launched: tuple[int, Future]):
        return launched[1].result()

    def back(self, on_device: tuple[int, np.ndarray]) -> np.ndarray:
        return on_device[1]
