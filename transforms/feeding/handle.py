"""One feeder, seen from the process with the model."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Sequence

from transforms.feeding import messages
from transforms.feeding.batches import Image, Piece
from transforms.feeding.messages import INBOX_START, NOTE, Garbled, Reply
from transforms.feeding.slots import memory_file

_KEPT_BYTES = 16 << 20  # of memory in an inbox, for its next piece
_RECEIVED_BYTES = (
    1 << 14
)  # at once: most replies are smaller, and the system takes its time to provide more memory


class Handle:
    """A feeder's connection, its inboxes, and the pieces it was given, of which it works on the first.

    Attributes:
      theirs: the feeder's end of the connection.
      is_garbled: it has sent what no working feeder sends. Its connection is shut down, at which it ends.
      halting_since: when it began the reply of which the end has not come yet, by time.monotonic; None if there is none.
    """

    def __init__(self):
        self.connection, self.theirs = socket.socketpair()
        self.inboxes = memory_file("inbox"), memory_file("inbox")
        self.pieces: deque[Piece] = deque()
        self.is_garbled = False
        self.halting_since: float | None = None
        self._given = self._done = 0
        self._sizes = [0, 0]  # of what is in the inboxes, in bytes
        self._received = bytearray()

    def give(self, piece: Piece) -> None:
        """Gives it one more piece; it must not have two, as there are two inboxes."""
        self.pieces.append(piece)
        self._given += 1
        inbox = self._given % 2
        self._sizes[inbox] = _write(self.inboxes[inbox], piece.images)
        request = messages.request(self._given, piece.batch.slot, inbox, piece.rows, piece.images)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died, as will be noticed
            self.connection.sendall(request)

    def replies(self) -> list[tuple[Piece, Reply]] | None:
        """What it has completed since the last call; None if it has sent nothing since.

        Raises EOFError if there is no more to come."""
        try:
            data = b"" if self.is_garbled else self.connection.recv(_RECEIVED_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._received += data
        completed: list[tuple[Piece, Reply]] = []
        try:
            while self.pieces:
                reply = messages.take_reply(self._received, self._done + 1, self.pieces[0].images)
                if not reply:
                    if self._received and self.halting_since is None:
                        self.halting_since = time.monotonic()
                    return completed
                self.halting_since = None
                completed.append((self.pieces.popleft(), reply))
                self._done += 1
                self._shrink(self._done % 2)
            if self._received:
                raise Garbled
        except Garbled:
            self.give_up()
        return completed

    def give_up(self) -> None:
        """Takes nothing more from it: what it sent, or that it sent no more, no working feeder does."""
        self.is_garbled, self.halting_since = True, None
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def suspects(self) -> Sequence[int]:
        """Rows of its first piece, one of which has ended it if an image has: the one begun last; after garbage, all."""
        note = os.pread(self.inboxes[0], NOTE.size, 0)
        if len(note) < NOTE.size or not self.pieces:
            return ()
        (number, index), rows = NOTE.unpack(note), self.pieces[0].rows
        if self.is_garbled:
            return rows
        return (rows[min(index, len(rows) - 1)],) if number == self._done + 1 else ()

    def _shrink(self, inbox: int) -> None:
        """Gives back the memory that a large piece has taken."""
        if self._sizes[inbox] > _KEPT_BYTES:
            os.ftruncate(self.inboxes[inbox], INBOX_START)

    def close(self) -> None:
        """Closes the connection, at which the feeder ends, and the inboxes."""
        self.connection.close()
        for inbox in self.inboxes:
            os.close(inbox)


def _write(inbox: int, images: Sequence[Image]) -> int:
    """Puts the images one after the other into an inbox; returns how many bytes they are."""
    data = [image.data for image in images]
    size = sum(map(len, data))
    count = os.pwritev(inbox, data, INBOX_START)
    while count < size:  # the system may write less
        rest = memoryview(b"".join(data))[count:]
        count += os.pwrite(inbox, rest, INBOX_START + count)
    return size
