"""A process that decodes one picture after another, so that a decoder that crashes or hangs harms nothing else.

`isolated` starts it and communicates over standard input and output. A request is the length of a picture, then its
bytes; a reply is one byte for its kind, then width and height or the length of a text, then the pixels or the text.
Nothing is pickled: a reply may come from a process whose memory is corrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import struct
import sys

import numpy as np

from transforms.errors import ItemError
from transforms.imaging import preprocess

REQUEST, REPLY = struct.Struct(">Q"), struct.Struct(">cII")
READY, PIXELS, REFUSED, NO_MEMORY = b"R", b"P", b"E", b"M"


def main(settings: str) -> None:
    """Serves requests until its input ends. `settings` is a JSON object: preprocessing, timeout_seconds, lock_fd."""
    options = json.loads(settings)
    preprocessing = preprocess.Preprocessing(**options["preprocessing"])
    seconds = options["timeout_seconds"]
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # output of a dying decoder would help nobody; its signal is reported
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the job; this process ends with it
    preprocess.one_large_at_a_time = _Turn(options["lock_fd"], seconds)
    pixels = np.empty((preprocessing.image_size, preprocessing.image_size, 3), np.float32)
    _send(replies, READY)
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        (size,) = REQUEST.unpack(head)
        data = requests.read(size)
        # SIGALRM's default action ends the process even in an endless loop of a library.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            width, height = preprocess.decode(data, preprocessing, pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(replies, PIXELS, width, height, pixels.data)
        except ItemError as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            text = json.dumps([error.code, str(error)]).encode()
            _send(replies, REFUSED, len(text), 0, text)
        except MemoryError:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(replies, NO_MEMORY)


def _send(replies, kind: bytes, first: int = 0, second: int = 0, body: bytes | memoryview = b"") -> None:
    replies.write(REPLY.pack(kind, first, second))
    replies.write(body)
    replies.flush()


class _Turn(contextlib.AbstractContextManager):
    """Lets only one decoding process at a time decode a large picture; waiting does not count towards the timeout.

    A POSIX lock: the system releases it when a process dies.
    """

    def __init__(self, lock_fd: int, seconds: float):
        self._lock_fd, self._seconds = lock_fd, seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)


if __name__ == "__main__":
    main(sys.argv[1])
