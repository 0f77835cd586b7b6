"""The feeders that there are: starts them, hands out pieces, collects results, and replaces those that die.

An image that kills a feeder is tried again alone by a new one, as an earlier image may have damaged the memory of the first, or
the job was paused for longer than an image may take; if it kills that feeder, too, it fails. The other images of its piece are
decoded again, so nothing else is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence

from transforms import counters
from transforms.feeding import deaths, feeder, forker, messages
from transforms.feeding.batches import Piece
from transforms.feeding.forking import CannotStart, Forking
from transforms.feeding.handle import Handle
from transforms.feeding.settings import DecodeSettings
from transforms.feeding.slots import Slots

# So many more than there are feeders have ended one after the other, with no image decoded: then no image is the cause.
_DEATHS = 10
_SAID = 10  # lethal images that are named in the log; the ledger has all
_log = logging.getLogger(__name__)


class CannotFeed(RuntimeError):
    """Images cannot be decoded, and no image is the cause."""


class Crew:
    """Feeders and their work; for one thread, which calls the functions that the selector has for what is ready.

    Attributes:
      todo: pieces that no feeder has yet. Other threads may add to it.
      size: how many feeders there are to be.
    """

    def __init__(self, settings: DecodeSettings, slots: Slots, selector: selectors.BaseSelector):
        self.todo: deque[Piece] = deque()
        self._settings, self._slots, self._selector = settings, slots, selector
        self.size = settings.processes_here
        self._numbers = itertools.count()
        self._handles: dict[int, Handle] = {}
        self._forking: Forking | None = None
        self._on_threads = False
        self._deaths = 0  # of feeders since the last reply, with no image in hand
        self._lethal = 0

    def start(self) -> None:
        """Makes it possible to start feeders: as processes, or as threads where processes do not start."""
        try:
            while self._forking is None:
                try:
                    self._forking = Forking(self._slots, self._settings)
                except EOFError:
                    self._died(None)
        except CannotStart as error:
            self._on_threads = True
            _log.warning(
                "processes for decoding do not start (%s), so images are decoded on threads of this process: one that "
                "crashes or hangs a decoder then costs the process, not only itself",
                error,
            )
        else:
            self._selector.register(self._forking.control, selectors.EVENT_READ, self._on_exit)

    def hand_out(self) -> None:
        """Gives pieces to feeders until each has one to work on and one in reserve."""
        while self.todo:
            if len(self._handles) < self.size:
                self._add()
            # The newest of those with the least to do: a suspect's piece is the first in line after a death.
            handle = min(reversed(self._handles.values()), key=lambda handle: len(handle.pieces))
            if len(handle.pieces) == 2:
                return
            handle.give(self.todo.popleft())

    def seconds_left(self) -> float | None:
        """Until a reply that has begun must be complete; None if there is none."""
        begun = [h.halting_since for h in self._handles.values() if h.halting_since is not None]
        return max(0.0, min(begun) + self._settings.timeout_seconds - time.monotonic()) if begun else None

    def end_halting(self) -> None:
        """Ends the feeders that have begun a reply and not completed it in time."""
        for number, handle in self._handles.items():
            began = handle.halting_since
            if began is not None and time.monotonic() > began + self._settings.timeout_seconds:
                handle.give_up()
                if self._forking:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        self._forking.kill(number)

    def close(self) -> None:
        """Ends all feeders and lets go of batches; returns once the processes are gone."""
        self.abandon()
        self._handles.clear()
        self.todo.clear()
        if self._forking:
            self._forking.close()

    def abandon(self) -> None:
        """Closes this process's ends of the connections, and nothing else: a fork of it must not keep them open."""
        for handle in self._handles.values():
            handle.close()
        if self._forking:
            self._forking.control.close()

    def _add(self) -> None:
        if not self._on_threads and self._forking is None:
            self.start()
        try:
            number, handle = next(self._numbers), Handle()
        except OSError as error:  # too many open files
            self._settle_for_fewer(error)
            return
        self._handles[number] = handle
        self._selector.register(
            handle.connection, selectors.EVENT_READ, lambda: self._on_sent(number, handle)
        )
        if self._forking:
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # it has ended, as the selector will say
                self._forking.fork(number, [handle.theirs.fileno(), *handle.inboxes])
            handle.theirs.close()
        else:
            # Open as long as the thread runs.
            file, *inboxes = map(os.dup, [self._slots.file, *handle.inboxes])
            arguments = handle.theirs, inboxes, file, self._slots.slot_bytes, self._settings
            threading.Thread(target=_serve, args=arguments, name="decode", daemon=True).start()

    def _on_sent(self, number: int, handle: Handle) -> None:
        if number not in self._handles:  # buried since the selector saw it
            return
        try:
            self._collect(handle)
        except EOFError:  # how a process ended is reported by the one that forked it
            self._selector.unregister(handle.connection)
            if self._on_threads:
                self._bury(number, None)
                self._died(None)

    def _collect(self, handle: Handle) -> bool:
        """Takes what a feeder has completed; False if it has sent nothing since. Raises EOFError if no more is to come."""
        replies = handle.replies()
        for piece, reply in replies or ():
            self._deaths = 0
            _put(piece, reply)
        return replies is not None

    def _on_exit(self) -> None:
        assert self._forking
        try:
            for number, status in self._forking.ended():
                if not self._bury(number, status):
                    self._died(status)
        except EOFError:  # all feeders end with it, and no image is the cause
            self._selector.unregister(self._forking.control)
            self._forking.close()
            self._forking = None
            for number in list(self._handles):
                self._bury(number, None)
            self._died(None)

    def _bury(self, number: int, status: int | None) -> bool:
        """Has others do what a feeder that ended was to do; returns whether an image may be the cause of its end.

        `status`: see `forker.EXIT`; None if it is not known."""
        handle = self._handles.pop(number)
        with contextlib.suppress(EOFError):
            while self._collect(handle):
                pass
        with contextlib.suppress(KeyError):
            self._selector.unregister(handle.connection)
        if handle.halting_since is not None and deaths.is_timeout(status):
            handle.is_garbled = True  # it hung while it answered, for whichever of its images
        if status == forker.NOT_FORKED and self._handles:
            self._settle_for_fewer(deaths.how(status))
        suspects = [] if status is None else deaths.suspects(handle)
        self.todo.extendleft(reversed(handle.pieces))
        handle.close()
        for piece in suspects:
            self._suspect(piece, status or 0, handle.is_garbled)
        return bool(suspects)

    def _settle_for_fewer(self, why: object) -> None:
        if not self._handles:
            raise CannotFeed(f"no process for decoding can be started: {why}")
        self.size = len(self._handles)
        _log.warning("no more than %d processes for decoding can be started here: %s", self.size, why)

    def _died(self, status: int | None) -> None:
        """Counts a process that ended. Raises CannotFeed after too many."""
        self._deaths += 1
        limit = _DEATHS + self.size  # as one event may end all of them
        if self._deaths > limit:
            raise CannotFeed(
                f"{limit} processes for decoding ended one after the other, none after it decoded an image "
                f"(the last one: {deaths.how(status)}): look for what ends processes on this machine, such as a memory limit"
            )

    def _suspect(self, piece: Piece, status: int, is_garbled: bool) -> None:
        """Fails an image that has killed a feeder, or has it tried again: before others, by a feeder that is new."""
        if piece.deaths < (2 if is_garbled else deaths.tries(status)):
            self.todo.appendleft(piece)
            return
        failure = deaths.failure(piece, status, is_garbled, self._settings.timeout_seconds)
        self._lethal += 1
        if self._lethal <= _SAID:
            key = failure.key.decode("utf-8", "backslashreplace")
            _log.warning("%s: %s: %s", key, failure.code, failure.message)
        piece.batch.pixels[piece.rows] = 0
        piece.batch.put(piece.rows, [failure])


def _serve(
    connection: socket.socket, inboxes: Sequence[int], file: int, slot_bytes: int, settings: DecodeSettings
) -> None:
    """A feeder on a thread, which no time limit can end. Closes its descriptors."""
    pixels = feeder.pixels_in(file, settings.shape, slot_bytes)
    try:
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            feeder.serve(connection, inboxes, pixels, settings.preprocessing, lambda begins: None)
    finally:
        for descriptor in (file, *inboxes):
            os.close(descriptor)


def _put(piece: Piece, reply: messages.Reply) -> None:
    try:
        piece.batch.put(piece.rows, list(map(messages.result, piece.images, piece.rows, reply.outcomes)))
    except (MemoryError, RuntimeError) as error:
        piece.batch.fail(error)
    areas = [(outcome.width * outcome.height, outcome.scalable) for outcome in reply.outcomes]
    pixels, scalable = sum(area for area, _ in areas), sum(area for area, is_scalable in areas if is_scalable)
    counters.PROCESS.add(decode_seconds=reply.seconds, pixels=pixels, scalable_pixels=scalable)
