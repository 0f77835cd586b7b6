"""A process that decodes picture after picture, so that a decoder that crashes or hangs takes nothing else with it.

`isolated` starts it and speaks with it over standard input and output. A question is the length of a picture,
then its bytes; an answer is one byte for its kind, width and height or the length of a text, then pixels or the text.
Nothing is pickled: an answer may come from a process whose memory is spoilt.
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

QUESTION, ANSWER = struct.Struct(">Q"), struct.Struct(">cII")
READY, PIXELS, REFUSED, NO_MEMORY = b"R", b"P", b"E", b"M"


def main(settings: str) -> None:
    """Answers until its input ends. `settings` is a JSON object: preprocessing, timeout_seconds, lock_fd."""
    asked = json.loads(settings)
    preprocessing = preprocess.Preprocessing(**asked["preprocessing"])
    seconds = asked["timeout_seconds"]
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # what a dying decoder says helps nobody: the signal tells
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the job, whose end ends this process
    preprocess.one_large_at_a_time = _Turn(asked["lock_fd"], seconds)
    pixels = np.empty((preprocessing.image_size, preprocessing.image_size, 3), np.float32)
    _send(answers, READY)
    while len(head := questions.read(QUESTION.size)) == QUESTION.size:
        (size,) = QUESTION.unpack(head)
        data = questions.read(size)
        # The default action of SIGALRM ends a process also in the middle of a library's endless loop.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            width, height = preprocess.decode(data, preprocessing, pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, PIXELS, width, height, pixels.data)
        except ItemError as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            text = json.dumps([error.code, str(error)]).encode()
            _send(answers, REFUSED, len(text), 0, text)
        except MemoryError:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, NO_MEMORY)


def _send(answers, kind: bytes, first: int = 0, second: int = 0, body: bytes | memoryview = b"") -> None:
    answers.write(ANSWER.pack(kind, first, second))
    answers.write(body)
    answers.flush()


class _Turn(contextlib.AbstractContextManager):
    """Lets one of all such processes at a time decode a large picture; waiting does not count as decoding.

    A lock of POSIX: the system takes it from a process that dies.
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
