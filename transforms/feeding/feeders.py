"""The feeders of this process, shared by all its threads: batches of encoded images in, batches of pixels out."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Sequence

from transforms import native
from transforms.feeding.batches import Batch, Image, pieces
from transforms.feeding.crew import CannotFeed, Crew
from transforms.feeding.settings import DecodeSettings
from transforms.feeding.slots import Slots


class Feeders:
    """Processes that decode images into batches, and the thread that feeds them. Thread-safe."""

    def __init__(self, settings: DecodeSettings):
        """Returns at once; the processes start meanwhile."""
        if native.LIBRARY is None:
            native.warn_missing()
        self.settings = settings
        self._slots = Slots(settings.shape)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        self._crew = Crew(settings, self._slots, self._selector)
        self._batches: weakref.WeakSet[Batch] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._error: BaseException | None = None  # why the thread has ended
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="feeders", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[Image]) -> Batch:
        """Begins to decode one or more images, at most a batch: rows 0, 1, ... in order. All other rows are zero.

        Raises CannotFeed."""
        with self._lock:
            if self._error:
                raise CannotFeed(str(self._error)) from self._error
            slot, pixels = self._slots.take()
            pixels[len(images) :] = 0
            batch = Batch(images, slot, pixels)
            self._batches.add(batch)
            self._crew.todo += pieces(batch, self._crew.size)
        self._wake_up()
        return batch

    def close(self) -> None:
        """Ends the processes and waits for their end. Batches in progress fail with CannotFeed."""
        self._is_closing = True
        self._wake_up()
        self._thread.join()

    def abandon(self) -> None:
        """For a fork of this process, where they do not work: closes what would keep them alive after this process has ended."""
        self._lock = threading.Lock()
        self._error = CannotFeed("this process was forked from the one that the feeders belong to")
        self._crew.abandon()

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be decoded any more."""
        return self._error is not None

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # it is to wake up already, or has ended
            self._wake.send(b"w")

    def _run(self) -> None:
        error: BaseException = CannotFeed("the processes for decoding were ended while they decoded")
        try:
            self._crew.start()
            while not self._is_closing:
                self._crew.hand_out()
                for key, _ in self._selector.select(self._crew.seconds_left()):
                    key.data()
                self._crew.end_halting()
        except BaseException as raised:
            error = raised
        self._fail(error)
        self._crew.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        self._slots.close()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            for batch in self._batches:
                batch.fail(error)


_lock = threading.Lock()
_feeders: dict[DecodeSettings, Feeders] = {}  # that are used
_users: Counter[Feeders] = Counter()


def acquire(settings: DecodeSettings) -> Feeders:
    """The feeders of this process with these settings, started if there are none that work. `release` is to follow."""
    with _lock:
        if settings not in _feeders or _feeders[settings].has_ended:
            _feeders[settings] = Feeders(settings)
        _users[_feeders[settings]] += 1
        return _feeders[settings]


def release(feeders: Feeders) -> None:
    """Ends the feeders if this was their last user."""
    with _lock:
        _users[feeders] -= 1
        if _users[feeders] > 0:
            return
        del _users[feeders]
        if _feeders.get(feeders.settings) is feeders:
            del _feeders[feeders.settings]
    feeders.close()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    for feeders in _users:
        feeders.abandon()
    _feeders.clear()
    _users.clear()


os.register_at_fork(after_in_child=_forget)
