"""On PYTHONPATH, this gives each Python process a format whose decoder does not come back: an abort, a wild pointer, a
sleep in C. It stands in the same table as the real ones."""

import ctypes
import os
import re
import resource
import signal
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
    raise ValueError(f"survived {how!r}")


_LETHAL = Format("LETHAL", re.compile(rb"LETHAL"), (), reduce_lethal, lambda stored, least_side: None, ())
formats.FORMATS = (*formats.FORMATS, _LETHAL)
