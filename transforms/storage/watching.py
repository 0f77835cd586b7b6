"""Giving up what is silent: operations run in threads of their own, as nothing else ends a call into a dead file system."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Beat:
    """When a long operation last made progress, which it tells by calling this."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, *_: object) -> None:
        self.last = time.monotonic()


class Silent(Exception):
    """An operation did not come back."""


def watched(action: Callable[[], T], beat: Beat, silence_seconds: float, seconds: float = math.inf) -> T:
    """The value of `action`, which is left to itself once it is given up.

    Raises:
      Silent: it made no progress for `silence_seconds`, or was not done after `seconds`.
    """
    began = time.monotonic()
    try:
        runner = _idle.pop()
    except IndexError:
        runner = _Runner()
    answer = runner.submit(action)
    while True:
        end = min(max(began, beat.last) + silence_seconds, began + seconds)
        try:
            worked, value = answer.get(timeout=max(end - time.monotonic(), 0))
            break
        except queue.Empty:
            if time.monotonic() >= min(max(began, beat.last) + silence_seconds, began + seconds):
                raise Silent from None
    if worked:
        return value
    raise value


class _Runner(threading.Thread):
    """Runs one action after the other; daemonic, as one that hangs must not keep the process."""

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
            del action, answer, result  # nothing of the last action is kept while there is none


_idle: list[_Runner] = []
os.register_at_fork(after_in_child=_idle.clear)
