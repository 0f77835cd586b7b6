"""Patience with storage: an error that may pass is tried again, a silence is given up, and the end names what and where.

An operation must be safe to repeat, also after it succeeded and only its answer was lost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from transforms.storage.errors import StorageFailed, advice, cause_of, is_of_storage, is_transient, said

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How long an operation may go without progress, be it by errors or by silence; and the pauses between tries."""

    seconds: float = 300.0
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0


LIMITS = Limits()
_BEFORE_THE_START_SECONDS = 30.0  # somebody waits for the answer, and a name of a host is easily mistyped


class Beat:
    """When a long operation last got on, in seconds of time.monotonic()."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, *_: object) -> None:
        self.last = time.monotonic()


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Within it, patience is short: nothing is lost yet."""
    global LIMITS
    before = LIMITS
    LIMITS = Limits(
        min(before.seconds, _BEFORE_THE_START_SECONDS),
        before.first_pause_seconds,
        before.longest_pause_seconds,
    )
    try:
        yield
    finally:
        LIMITS = before


def call(
    what: str, path: str, action: Callable[[], T], beat: Beat | None = None, tries: int | None = None
) -> T:
    """The value of `action`, tried until it succeeds, fails for good, or has got nowhere for too long.

    Args:
      what: the operation in a message, as in "reading".
      path: what it is done to.
      action: safe to repeat. It runs in a thread that is left to itself when it falls silent.
      beat: called by an action that can take long, whenever it gets on.
      tries: at most so many; None for as many as there is time for.

    Raises:
      StorageFailed: for errors of storage. Other errors come as they are.
    """
    limits, began, pause, tried = LIMITS, time.monotonic(), LIMITS.first_pause_seconds, 0
    while True:
        tried += 1
        try:
            return _watched(action, beat or Beat(), limits.seconds)
        except _Silent:
            raise StorageFailed(
                f"{what} {path} failed: nothing came back for {limits.seconds:g} s; "
                "see whether the storage is alive, then run the same command again: it goes on where it stopped",
                path,
                None,
            ) from None
        except Exception as error:
            cause = cause_of(error)
            if not is_of_storage(cause):
                raise
            since = max(began, beat.last if beat else began)
            given_up = tried == tries or time.monotonic() - since + pause > limits.seconds
            if not is_transient(cause) or given_up:
                again = f" ({tried} tries)" if tried > 1 else ""
                text = f"{what} {path} failed{again}: {said(cause)}{advice(cause)}"
                raise StorageFailed(text, path, error) from error
        time.sleep(pause * random.uniform(0.5, 1.0))  # jitter, so that many workers do not come back together
        pause = min(2 * pause, limits.longest_pause_seconds)


def once(what: str, path: str, action: Callable[[], T]) -> T:
    """The value of `action`, tried only once, for what must not or need not be tried again."""
    return call(what, path, action, tries=1)


class _Silent(Exception):
    """An operation did not come back."""


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


def _watched(action: Callable[[], T], beat: Beat, seconds: float) -> T:
    """The value of `action`; _Silent when it has not got on for `seconds`."""
    beat()
    try:
        runner = _idle.pop()
    except IndexError:
        runner = _Runner()
    answer = runner.submit(action)
    while True:
        left = beat.last + seconds - time.monotonic()
        try:
            worked, value = answer.get(timeout=max(left, 0))
            break
        except queue.Empty:
            if time.monotonic() - beat.last >= seconds:
                raise _Silent from None
    if worked:
        return value
    raise value
