"""Loads the compiled inner loop of `_resize.c`, where it was built.

setup.py builds it with the package, scripts/venv.sh in a checkout. That takes a C compiler and nothing of Python: the
library is called through ctypes, which releases Python's lock. Without it everything works and gives the same
bits, slower.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path

_VERSION = 3  # of `resize` and its arguments: a build of another version is not used


class Axis(ctypes.Structure):
    """`axis` of _resize.c; the arrays behind the pointers must outlive it."""

    _fields_ = (
        ("lower", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("inside", ctypes.c_ssize_t),
    )


def load(folder: Path) -> ctypes.CDLL | None:
    """The library in a folder; None, with the reason kept for `tell_of_absence`, where there is none that can be used."""
    global _why
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.exists():
            break
    else:
        _why = "was not built for this Python"
        return None
    try:
        library = ctypes.CDLL(str(path))
        version = ctypes.c_int.in_dll(library, "version").value
    except (OSError, ValueError) as error:  # cut short, of another machine, or another library
        _why = f"cannot be loaded ({error})"
        return None
    if version != _VERSION:
        _why = f"is of another version ({path})"
        return None
    pointer, size, axis = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.POINTER(Axis)
    library.resize.argtypes = (pointer, size, size, size, axis, axis, pointer)
    return library


_why = ""
LIBRARY = load(Path(__file__).parent)


@functools.cache
def tell_of_absence() -> None:
    """Logs, once a process, why images take longer than they need."""
    logging.getLogger(__name__).warning(
        "the native code %s, so images are resized by NumPy: the same vectors, slower. "
        "With a C compiler (Debian, Ubuntu: apt install gcc libc6-dev) install the package again, or in a checkout run "
        "`python setup.py build_ext --inplace --force`.",
        _why,
    )
