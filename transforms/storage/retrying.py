"""The one retry loop, and the operations on the job's own files that go through it.

An operation must be safe to repeat, also if it succeeded and only the answer was lost.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from transforms.storage.errors import Changed, StorageFailed, advice, cause_of, describe
from transforms.storage.stores import fault_of
from transforms.storage.watching import Beat, Silent, watched

T = TypeVar("T")


class Limits(NamedTuple):
    """How long and how often an operation is tried."""

    seconds: float = 300.0  # without progress, because of errors or silence
    first_pause_seconds: float = 0.5  # doubles with each further pause
    longest_pause_seconds: float = 30.0
    tries: float = math.inf


LIMITS = Limits()  # for the job's own files
AFTER_A_FAILURE_SECONDS = 5.0  # for what only tidies up or tells
_BEFORE_THE_START_SECONDS = 30.0  # a user is waiting, and a host name is easily mistyped


def repeat(
    attempt: Callable[[], T],
    limits: Limits,
    *,
    least_pause: Callable[[Exception], float | None],
    left: Callable[[], float],
    give_up: Callable[[Exception, int], None],
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """The value of `attempt`, called until it succeeds, fails for good, or tries or time run out.

    Args:
      least_pause: the least number of seconds to wait after an error; None if the error is final.
      left: the seconds left in which a further attempt may begin.
      give_up: called with the last error and the number of attempts; may raise a better error in its place.
      sleep: how to wait for so many seconds.
    """
    pause = limits.first_pause_seconds
    for tries in itertools.count(1):
        try:
            return attempt()
        except Exception as error:
            least = least_pause(error)
            # Jitter, so that workers and threads that were refused together do not retry together.
            wait = max(least or 0.0, pause * random.uniform(0.5, 1.0))
            if least is None or tries >= limits.tries or wait >= left():
                give_up(error, tries)
                raise
        sleep(wait)
        pause = min(2 * pause, limits.longest_pause_seconds)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def hurried(seconds: float | None = None) -> Iterator[None]:
    """A context in which operations are tried for at most 30 s: before the start of a job, a user is waiting."""
    global LIMITS
    before = LIMITS
    LIMITS = before._replace(seconds=min(before.seconds, seconds or _BEFORE_THE_START_SECONDS))
    try:
        yield
    finally:
        LIMITS = before


def call(
    what: str,
    path: str,
    action: Callable[[], T],
    beat: Beat | None = None,
    tries: float = math.inf,
    seconds: float = math.inf,
) -> T:
    """The value of `action`, an operation on the store of `path`, with retries.

    Args:
      what: names the operation in messages, for example "reading".
      path: for messages, and to choose the store that explains errors.
      action: safe to repeat.
      beat: called by a long action whenever it makes progress.
      tries: the largest number of tries.
      seconds: the longest time without progress, if it is less than usual.

    Raises:
      StorageFailed: for errors of storage. Other errors are raised unchanged.
    """
    limits = LIMITS._replace(tries=tries, seconds=min(LIMITS.seconds, seconds))
    progress = beat or Beat()
    began, progressing = time.monotonic(), 0.0

    def attempt() -> T:
        nonlocal progressing
        attempted = time.monotonic()
        try:
            return watched(action, progress, limits.seconds)
        finally:
            progressing += max(0.0, progress.last - attempted)

    def least_pause(error: Exception) -> float | None:
        fault = fault_of(path, error)
        return 0.0 if fault and fault.transient else None

    def give_up(error: Exception, tries: int) -> None:
        if isinstance(error, Silent):
            raise StorageFailed(
                f"{what} {path} failed: nothing came back for {limits.seconds:g} s; "
                "check whether the storage responds, then run the same command again: it continues where it stopped",
                path,
                None,
                is_transient=True,
            ) from None
        if fault_of(path, error):
            raise failed(what, path, error, tries) from error

    def left() -> float:
        return limits.seconds - (time.monotonic() - began - progressing)

    return repeat(attempt, limits, least_pause=least_pause, left=left, give_up=give_up)


def failed(what: str, path: str, error: Exception, tries: int = 1) -> StorageFailed:
    """The error for an operation on `path` that failed for good."""
    fault, cause, count = fault_of(path, error), cause_of(error), f" ({tries} tries)" if tries > 1 else ""
    text = f"{what} {path} failed{count}: {describe(cause)}{advice(cause, fault) if fault else ''}"
    may_pass = isinstance(cause, Changed) or bool(fault and fault.transient)
    return StorageFailed(text, path, error, may_pass)


def once(what: str, path: str, action: Callable[[], T], seconds: float = math.inf) -> T:
    """The value of `action`, tried only once: for operations that must not or need not be retried."""
    return call(what, path, action, tries=1, seconds=seconds)
