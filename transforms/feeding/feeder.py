"""A feeder: a process that decodes the images of one piece after the other into shared memory. No Beam, no TensorFlow.

One process without threads, `main`, imports what decoding needs and then forks each feeder, which takes a few milliseconds.
The process with the model is its parent; when that ends, for whatever reason, its sockets close, and all of these end.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import mmap
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from transforms.elements import Fields
from transforms.errors import ItemError
from transforms.feeding import messages
from transforms.feeding.messages import HEAD, ITEM, NOTE, Outcome
from transforms.imaging import preprocess
from transforms.imaging.preprocess import Preprocessing
from transforms.records import images

READY = b"R"
ORDER = struct.Struct("<Q")  # the number of a feeder to be forked
EXIT = struct.Struct("<Qi")  # the number of a feeder that ended, and how, as os.waitpid reports it
NOT_FORKED = -1
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def serve(
    connection: socket.socket,
    inboxes: Sequence[int],
    pixels_of: Callable[[int], np.ndarray],
    preprocessing: Preprocessing,
    limit: Callable[[bool], None],
) -> None:
    """Decodes the pieces that are requested, until the connection is closed.

    Args:
      inboxes: descriptors of the files with the encoded images.
      pixels_of: number of a slot -> its batch, float32 (batch_size, side, side, 3); a row that fails is set to zero.
      limit: called with True when the time for an image begins, with False when the last one's ends.
    """
    while head := _received(connection, HEAD.size):
        number, slot, inbox, count, fields_bytes = HEAD.unpack(head)
        began = time.monotonic()
        table = _received(connection, count * ITEM.size)
        fields = messages.fields_of(_received(connection, fields_bytes))
        pixels = pixels_of(slot)
        outcomes = []
        for index, (row, offset, size, is_record, crc) in enumerate(ITEM.iter_unpack(table)):
            os.pwrite(inboxes[0], NOTE.pack(number, index), 0)
            limit(True)
            read = functools.partial(os.pread, inboxes[inbox], size, offset)
            outcomes.append(_decode(read, fields if is_record else None, crc, preprocessing, pixels[row]))
        reply = messages.reply(number, outcomes, time.monotonic() - began)
        limit(False)
        connection.sendall(reply)


def _decode(
    read: Callable[[], bytes],
    fields: Fields | None,
    crc: bytes,
    preprocessing: Preprocessing,
    out: np.ndarray,
) -> Outcome:
    """Decodes the image that `read` returns, or the image in that record if there are fields."""
    key, passed = None, b""
    try:
        data = read()
        if fields:
            data, key, passed = images.find(data, crc if any(crc) else b"", fields)
        width, height = preprocess.decode(data, preprocessing, out)
        scalable = preprocess.can_scale(data, width, height, preprocessing.image_size)
        digest = hashlib.sha256(data).digest()
        texts = key or b"", passed, b""
        return Outcome(messages.DECODED, key is not None, scalable, width, height, digest, texts)
    except images.Unusable as error:
        key, status, what = error.key, messages.UNUSABLE, (error.code, str(error))
    except ItemError as error:
        status, what = messages.NOT_DECODED, (error.code, str(error))
    except MemoryError:
        status, what = messages.NO_MEMORY, ("", "")
    except Exception:
        status, what = messages.BROKEN, ("", traceback.format_exc()[-messages.MESSAGE_BYTES // 4 :])
    out[:] = 0
    code, message = (text.encode("utf-8", "backslashreplace") for text in what)
    return Outcome(status, key is not None, texts=(key or b"", code, message))


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes; b"" if the connection is closed before."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            return b""
        data += part
    return data


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


def pixels_in(file: int, shape: tuple[int, ...], slot_bytes: int) -> Callable[[int], np.ndarray]:
    """Number of a slot in a file of shared memory -> its batch."""
    batches: dict[int, np.ndarray] = {}

    def batch(slot: int) -> np.ndarray:
        if slot not in batches:
            memory = mmap.mmap(file, slot_bytes, offset=slot * slot_bytes)
            batches[slot] = np.frombuffer(memory, np.float32, int(np.prod(shape))).reshape(shape)
        return batches[slot]

    return batch


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
    for number in (signal.SIGINT, signal.SIGTERM):  # these are for the job, which ends its feeders itself
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
    """Carries out the next order; False if there will be none."""
    order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 8)
    if not order:
        return False
    (number,) = ORDER.unpack(order)
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
        serve(
            socket.socket(fileno=connection),
            inboxes,
            pixels_in(options["pixels"], tuple(options["shape"]), options["slot_bytes"]),
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
