"""Measures the CPU time in which threads hold the interpreter's lock; needs a C compiler and a shared libpython."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("lock_held.c")


def start_again_measured(module: str) -> None:
    """Runs `python -m MODULE` again with the measuring library, if it can be built and is not there yet."""
    if "LD_PRELOAD" in os.environ or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        os.environ.pop("LD_PRELOAD", None)  # only this process is to be measured
        return
    library = str(Path(tempfile.mkdtemp()) / "lock_held.so")
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, str(_SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return
    os.environ["LD_PRELOAD"] = library
    os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


@functools.cache
def _function():
    try:
        function = ctypes.CDLL(None).held_nanoseconds
    except AttributeError:
        return None
    function.restype = ctypes.c_int64
    return function


def held_seconds() -> float | None:
    """By all threads together since the process began; None if it is not measured."""
    function = _function()
    return None if function is None else function() / 1e9
