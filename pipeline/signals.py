"""Handles SIGINT, SIGTERM and SIGHUP while a job runs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


class Stopped(Exception):
    """A signal stopped the run; the text is its name."""

    images = 0  # that the run had done


class Signals:
    """Collects SIGINT, SIGTERM and SIGHUP in `received`, in place of an exception at an arbitrary point.

    Not those that whoever started this process has it ignore, as `nohup` does, and shells for what runs in the background."""

    _watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.received: list[int] = []
        self._raising = False

    def __enter__(self) -> Signals:
        before = {number: signal.getsignal(number) for number in self._watched}
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        self.arm()
        return self

    def __exit__(self, *_) -> None:
        if self._before and _on_main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def arm(self) -> None:
        """Installs the handlers, again after a library has installed its own."""
        if _on_main_thread():
            for number in self._before:
                signal.signal(number, self._handle)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """A context in which a signal raises Stopped: submitting may wait for a host that never answers."""
        self._raising = True
        try:
            yield
        except Exception:
            if not self.received:
                raise
            raise self.stopped() from None
        finally:
            self._raising = False

    def wait(self, seconds: float) -> None:
        """Returns after some time, or at once when a signal comes."""
        deadline = time.monotonic() + seconds
        while not self.received and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))

    def during(self, work: Callable[[], T]) -> T:
        """The value of `work`, which runs in a thread; a signal abandons it, whatever it waits for, and raises Stopped."""
        outcome: dict[str, Any] = {}

        def run() -> None:
            try:
                outcome["value"] = work()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            self.check()
            thread.join(_POLL_SECONDS)
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def check(self) -> None:
        """Raises Stopped if a signal has been received."""
        if self.received:
            raise self.stopped()

    def stopped(self) -> Stopped:
        """The exception for the first signal received; its text is the signal's name."""
        return Stopped(signal.Signals(self.received[0]).name)

    def _handle(self, number: int, _) -> None:
        self.received.append(number)
        if self._raising:
            raise self.stopped()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
