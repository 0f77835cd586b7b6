"""The time limit of an image, and attempts to fetch it until then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from transforms.errors import ItemError
from transforms.fetching.settings import FetchSettings
from transforms.storage.retrying import Limits, repeat

T = TypeVar("T")

_LONGEST_BACKOFF_SECONDS = 16.0


class TransientError(ItemError):
    """A transient failure. `retry_after` is the pause that the server asked for, in seconds."""

    def __init__(self, code: str, message: str, http_status: int | None = None, retry_after: float = 0.0):
        super().__init__(code, message, http_status)
        self.retry_after = retry_after


class Deadline:
    """The end of an image's time limit, `seconds` from now."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """The remaining seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises ItemError 'timeout' when no time is left."""
        if not self.left():
            raise ItemError("timeout", "the image's time ran out (--timeout)")


def with_retries(
    attempt: Callable[[], T], settings: FetchSettings, deadline: Deadline, pause: Callable[[float], None]
) -> T:
    """Calls `attempt` until it returns, raises an error that is not transient, or attempts or time run out.

    Args:
      pause: how to wait for so many seconds.

    Raises ItemError with the code of the last TransientError and the number of attempts."""
    limits = Limits(
        settings.timeout_seconds, settings.backoff_seconds, _LONGEST_BACKOFF_SECONDS, settings.retries + 1
    )
    return repeat(
        attempt, limits, least_pause=_least_pause, left=deadline.left, give_up=_give_up, sleep=pause
    )


def _least_pause(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, TransientError) else None


def _give_up(error: Exception, attempts: int) -> None:
    if isinstance(error, TransientError):
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        raise ItemError(error.code, f"{error} ({tries})", error.http_status) from None
