"""Gives up operations that hang: they run in separate threads, as a call into a dead file system cannot be ended."""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Beat:
    """The time at which a long operation last made progress; the operation calls this object."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, *_: object) -> None:
        self.last = time.monotonic()


class Silent(Exception):
    """An operation did not return in time."""


class Begun(Generic[T]):
    """An action that has begun in a thread of its own; one whose value nobody takes ends there."""

    def __init__(self, action: Callable[[], T]):
        try:
            runner = _idle.pop()
        except IndexError:
            runner = _Runner()
        self._answer = runner.submit(action)

    def value(self, seconds: float | None = None) -> T:
        """Its value, or what it raised; for one caller. Raises queue.Empty if it does not come in time."""
        succeeded, value = self._answer.get(timeout=seconds)
        if succeeded:
            return value
        raise value


def watched(action: Callable[[], T], beat: Beat, silence_seconds: float, seconds: float = math.inf) -> T:
    """The value of `action`; an action that is given up goes on in its thread.

    Raises:
      Silent: it made no progress for `silence_seconds`, or had not returned after `seconds`; or the interpreter is being
        finalized, when no thread runs any more.
    """
    if sys.is_finalizing():
        raise Silent
    began = time.monotonic()
    begun = Begun(action)
    while True:
        end = min(max(began, beat.last) + silence_seconds, began + seconds)
        try:
            return begun.value(max(end - time.monotonic(), 0))
        except queue.Empty:
            if time.monotonic() >= min(max(began, beat.last) + silence_seconds, began + seconds):
                raise Silent from None


class _Runner(threading.Thread):
    """Runs one action after the other; a daemon, as a hanging action must not keep the process alive."""

    def __init__(self) -> None:
        super().__init__(name="storage", daemon=True)
        self._work: queue.SimpleQueue = queue.SimpleQueue()
        self.start()

    def submit(self, action: Callable[[], Any]) -> queue.SimpleQueue:
        answer: queue.SimpleQueue = queue.SimpleQueue()
        self._work.put((action, answer))
        return answer

    def run(self) -> None:
        while True:
            action, answer = self._work.get()
            try:
                result = True, action()
            except BaseException as error:
                result = False, error
            _idle.append(self)
            answer.put(result)
            del action, answer, result  # an idle thread must not keep the last action's objects alive


_idle: list[_Runner] = []
os.register_at_fork(after_in_child=_idle.clear)
