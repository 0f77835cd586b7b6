"""Patience: the one loop that tries again, and how the job's own files are read and written through it.

An operation must be safe to repeat, also after it succeeded and only its answer was lost.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from transforms.storage.errors import StorageFailed, advice, cause_of, said
from transforms.storage.stores import fault_of
from transforms.storage.watching import Beat, Silent, watched

T = TypeVar("T")


class Limits(NamedTuple):
    """How long and how often something is tried."""

    seconds: float = 300.0  # without progress, be it by errors or by silence
    first_pause_seconds: float = 0.5  # doubles with each further one
    longest_pause_seconds: float = 30.0
    tries: float = math.inf


LIMITS = Limits()  # for the job's own files
_BEFORE_THE_START_SECONDS = 30.0  # somebody waits for the answer, and a name of a host is easily mistyped


def repeat(
    attempt: Callable[[], T],
    limits: Limits,
    *,
    least_pause: Callable[[Exception], float | None],
    left: Callable[[], float],
    give_up: Callable[[Exception, int], None],
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """The value of `attempt`, tried until it succeeds, fails for good, or tries or time run out.

    Args:
      least_pause: for how many seconds to wait at least after an error; None if the error is final.
      left: seconds in which a further attempt may begin.
      give_up: gets the last error and the number of attempts, and may raise an error that says more in its place.
      sleep: how to wait.
    """
    pause = limits.first_pause_seconds
    for tries in itertools.count(1):
        try:
            return attempt()
        except Exception as error:
            least = least_pause(error)
            # Jitter, so that workers and threads that were refused together do not come back together.
            wait = max(least or 0.0, pause * random.uniform(0.5, 1.0))
            if least is None or tries >= limits.tries or wait >= left():
                give_up(error, tries)
                raise
        sleep(wait)
        pause = min(2 * pause, limits.longest_pause_seconds)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Within it, patience is short: nothing is lost yet."""
    global LIMITS
    before = LIMITS
    LIMITS = before._replace(seconds=min(before.seconds, _BEFORE_THE_START_SECONDS))
    try:
        yield
    finally:
        LIMITS = before


def call(
    what: str, path: str, action: Callable[[], T], beat: Beat | None = None, tries: float = math.inf
) -> T:
    """The value of `action`, an operation of the store of `path`.

    Args:
      what: the operation in a message, as in "reading".
      path: what it is done to.
      action: safe to repeat.
      beat: called by an action that can take long, whenever it makes progress.
      tries: at most so many.

    Raises:
      StorageFailed: for errors of storage. Other errors come as they are.
    """
    limits, progress = LIMITS._replace(tries=tries), beat or Beat()
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
                "see whether the storage is alive, then run the same command again: it goes on where it stopped",
                path,
                None,
            ) from None
        if fault := fault_of(path, error):
            cause, again = cause_of(error), f" ({tries} tries)" if tries > 1 else ""
            text = f"{what} {path} failed{again}: {said(cause)}{advice(cause, fault)}"
            raise StorageFailed(text, path, error) from error

    def left() -> float:
        return limits.seconds - (time.monotonic() - began - progressing)

    return repeat(attempt, limits, least_pause=least_pause, left=left, give_up=give_up)


def once(what: str, path: str, action: Callable[[], T]) -> T:
    """The value of `action`, tried only once, for what must not or need not be tried again."""
    return call(what, path, action, tries=1)
