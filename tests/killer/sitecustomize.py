"""On PYTHONPATH, this gives each Python process a format whose decoder does not come back: an abort, a wild pointer, a
sleep in C; or after which the process answers with garbage. It stands in the same table as the real ones."""

import ctypes
import os
import re
import resource
import signal
import socket
import time

from transforms.imaging import formats
from transforms.imaging.base import Format

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # to dump the whole of TensorFlow takes a minute


def reduce_lethal(data: bytes):
    how = data[6:].decode()
    if how == "abort":
        os.abort()
    if how == "wild pointer":
        ctypes.string_at(1)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleep in C":
        ctypes.CDLL(None).sleep(100_000)
    if how == "nap":  # longer than the tests' time limit, but it ends
        time.sleep(3)
    if how.startswith("garble"):
        garble(*how.split(":")[1:])
    raise ValueError(f"survived {how!r}")


def garble(how: str, once: str = "") -> None:
    """Has this process answer with garbage from now on; if a path is given, only the first one that comes here."""
    from transforms.feeding import messages

    if once:
        try:
            open(once, "x").close()
        except FileExistsError:
            return
    original = messages.reply

    def half_of_it(connection, data):
        connection.send(data[: len(data) // 2])
        os._exit(3)

    def silent(connection, data):
        connection.send(data[: len(data) // 2])
        if how == "half, then a hang":
            ctypes.CDLL(None).sleep(100_000)
        if how == "half, then no time limit":
            signal.setitimer(signal.ITIMER_REAL, 0)
            ctypes.CDLL(None).sleep(100_000)

    def garbled(number, outcomes, seconds):
        if how.startswith("half, then"):
            socket.socket.sendall = silent
            return original(number, outcomes, seconds)
        if how == "half":
            socket.socket.sendall = half_of_it
            return original(number, outcomes, seconds)
        if how == "number":
            return original(number + 1, outcomes, seconds)
        if how == "count":
            return original(number, outcomes * 2, seconds)
        if how == "status":
            return original(number, [outcome._replace(status=9) for outcome in outcomes], seconds)
        if how == "lengths":
            return messages.REPLY.pack(number, len(outcomes), 1 << 60, seconds) + b"garbage"
        if how == "twice":
            return 2 * original(number, outcomes, seconds)
        return os.urandom(1000)

    messages.reply = garbled


_LETHAL = Format("LETHAL", re.compile(rb"LETHAL"), (), reduce_lethal, lambda stored, least_side: None, ())
formats.FORMATS = (*formats.FORMATS, _LETHAL)
