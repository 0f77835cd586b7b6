"""Limits per host: few images at once, and pauses when it asks for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transforms import counters
from transforms.errors import ItemError
from transforms.fetching.deadline import Deadline

_LONGEST_PAUSE_SECONDS = 300.0
_KEPT_HOSTS = 1024


@dataclass
class _Host:
    slots: threading.Semaphore
    users: int = 0
    resume_at: float = field(default=0.0)  # time.monotonic()


class Turn:
    """Permission to send requests to one host."""

    def __init__(self, name: str, host: _Host, closed: threading.Event):
        self._name = name
        self._host = host
        self._closed = closed

    def wait(self, deadline: Deadline) -> None:
        """Waits until the host's pause is over.

        If the pause outlasts the image's time, this still waits for the deadline: failing at once would fail all of the
        host's images within moments.

        Raises:
          ItemError: 'host_busy' when the image's time ends first.
        """
        while (left := self._host.resume_at - time.monotonic()) > 0:
            if not deadline.left():
                raise ItemError("host_busy", f"{self._name} asked for a pause that outlasts --timeout")
            wait_or_stop(min(left, deadline.left()), self._closed)

    def pause(self, seconds: float) -> None:
        """Starts a pause for all images of the host, of 300 s at most."""
        until = time.monotonic() + min(seconds, _LONGEST_PAUSE_SECONDS)
        self._host.resume_at = max(self._host.resume_at, until)


class HostGate:
    """Grants turns, `per_host` at once per host. Thread-safe; remembers only hosts in use or paused."""

    def __init__(self, per_host: int, closed: threading.Event):
        self._per_host = per_host
        self._closed = closed
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    @contextmanager
    def turn(self, name: str, deadline: Deadline | None) -> Iterator[Turn]:
        """A turn at the host.

        Without a deadline it waits as long as necessary: that is bounded by the deadlines of the images before it, and an
        image must not fail because it waited in our own queue.

        Raises:
          ItemError: 'timeout' when the deadline comes first.
        """
        host = self._enter(name)
        began = time.monotonic()
        try:
            while not host.slots.acquire(timeout=1.0 if deadline is None else min(1.0, deadline.left())):
                wait_or_stop(0, self._closed)
                if deadline is not None:
                    deadline.check()
            counters.PROCESS.add(queue_seconds=time.monotonic() - began)
            try:
                yield Turn(name, host, self._closed)
            finally:
                host.slots.release()
        finally:
            self._leave(name, host)

    def _enter(self, name: str) -> _Host:
        with self._lock:
            if len(self._hosts) >= _KEPT_HOSTS:
                now = time.monotonic()
                self._hosts = {n: h for n, h in self._hosts.items() if h.users or h.resume_at > now}
            host = self._hosts.setdefault(name, _Host(threading.Semaphore(self._per_host)))
            host.users += 1
            return host

    def _leave(self, name: str, host: _Host) -> None:
        with self._lock:
            host.users -= 1
            if not host.users and host.resume_at <= time.monotonic():
                del self._hosts[name]


def wait_or_stop(seconds: float, closed: threading.Event) -> None:
    """Sleeps; raises RuntimeError once the fetcher is closed, as that is not the image's fault."""
    if closed.wait(seconds):
        raise RuntimeError("the fetcher was closed while an image was being fetched")
