"""SIGINT and SIGTERM while a job runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A signal asked the run to stop."""


class Signals:
    """SIGINT and SIGTERM, collected instead of raised in the middle of something."""

    _watched = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received: list[int] = []
        self._raising = False

    def __enter__(self) -> Signals:
        self._before = {number: signal.getsignal(number) for number in self._watched}
        self.arm()
        return self

    def __exit__(self, *_) -> None:
        if self._before and _on_main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def arm(self) -> None:
        """Takes the signals, also back from a library that took them meanwhile."""
        if _on_main_thread():
            for number in self._watched:
                signal.signal(number, self._take)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within it a signal raises Stopped: submitting may wait for a host that never answers."""
        self._raising = True
        try:
            yield
        except Exception:
            if not self.received:
                raise
            raise self.stopped() from None
        finally:
            self._raising = False

    def stopped(self) -> Stopped:
        return Stopped(signal.Signals(self.received[0]).name)

    def _take(self, number: int, _) -> None:
        self.received.append(number)
        if self._raising:
            raise self.stopped()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
