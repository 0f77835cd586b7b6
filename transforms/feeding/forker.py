"""The process that forks feeders. No Beam, no TensorFlow.

It has no threads, imports what decoding needs once, and then forks each feeder in a few milliseconds. The process with the model
is its parent; when that ends, for whatever reason, its sockets close, and all of these end.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Sequence

from transforms.feeding import feeder
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing

READY = b"R"
ORDER = struct.Struct(
    "<Q"
)  # the number of a feeder: to be forked if descriptors come with it, else to be killed
EXIT = struct.Struct("<Qi")  # the number of a feeder that ended, and how, as os.waitpid reports it
NOT_FORKED = -1
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class _Turn(contextlib.AbstractContextManager):
    """Lets only one feeder of a worker at a time decode a large image; waiting does not count towards the time limit.

    A POSIX lock: the system releases it when a process dies.
    """

    def __init__(self, lock: int, seconds: float):
        self._lock, self._seconds = lock, seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN)


def main(settings: str) -> None:
    """Forks feeders as ordered, and reports how they end, until the ordering socket is closed; then ends them all.

    `settings` is a JSON object: `control`, `pixels` and `lock` are descriptors; `shape` and `slot_bytes` are those of
    the slots; also `preprocessing` and `timeout_seconds`.
    """
    options = json.loads(settings)
    control = socket.socket(fileno=options["control"])
    nowhere = os.open(os.devnull, os.O_RDWR)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a parent ignores or blocks is inherited.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # These are for the job, which ends its feeders itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake, waken = socket.socketpair()
    waken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(waken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    control.send(READY)
    for descriptor in (0, 1, 2):  # the output of a dying decoder would help nobody; how it died is reported
        os.dup2(nowhere, descriptor)
    feeders: dict[int, int] = {}  # number by process
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                for ready, _ in selector.select():
                    if ready.fileobj is wake:
                        with contextlib.suppress(BlockingIOError):
                            wake.recv(4096)
                        _report(control, feeders)
                    elif not _fork(options, control, feeders):
                        return
    except BrokenPipeError:  # the process with the model is gone
        return
    finally:
        for process in feeders:
            os.kill(process, signal.SIGKILL)
        for process in feeders:
            os.waitpid(process, 0)


def _fork(options: dict, control: socket.socket, feeders: dict[int, int]) -> bool:
    """Carries out the next order; False if there will be none. Who is in `feeders` has not been waited for."""
    order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 8)
    if not order:
        return False
    (number,) = ORDER.unpack(order)
    if not descriptors:
        for process in [process for process, its_number in feeders.items() if its_number == number]:
            os.kill(process, signal.SIGKILL)
        return True
    try:
        process = os.fork()
    except OSError:
        control.send(EXIT.pack(number, NOT_FORKED))
    else:
        if not process:
            _become_feeder(options, descriptors)
        feeders[process] = number
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _become_feeder(options: dict, descriptors: Sequence[int]) -> None:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(options["control"])
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        seconds = options["timeout_seconds"]
        preprocess.one_large_at_a_time = _Turn(options["lock"], seconds)
        connection, *inboxes = descriptors
        feeder.serve(
            socket.socket(fileno=connection),
            inboxes,
            feeder.pixels_in(options["pixels"], tuple(options["shape"]), options["slot_bytes"]),
            Preprocessing(**options["preprocessing"]),
            # SIGALRM's default action ends the process even in an endless loop of a library.
            lambda begins: signal.setitimer(signal.ITIMER_REAL, seconds if begins else 0) and None,
        )
        status = 0
    finally:
        os._exit(status)


def _report(control: socket.socket, feeders: dict[int, int]) -> None:
    """Reports the feeders that have ended."""
    while feeders:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        control.send(EXIT.pack(feeders.pop(process), status))
