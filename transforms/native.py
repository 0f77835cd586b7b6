"""Loads the compiled inner loops (`_resize.c`, `_frames.c`), if they were built.

setup.py builds them with the package, scripts/venv.sh in a checkout. Building needs a C compiler but no Python headers: the
library is called through ctypes, which releases the GIL. Without it Python and NumPy give the same bytes, more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path

_VERSION = 5  # of the functions and their arguments: a build of another version is not used


class Axis(ctypes.Structure):
    """`axis` of _resize.c; the arrays behind the pointers must outlive it."""

    _fields_ = (
        ("lower", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("inside", ctypes.c_ssize_t),
    )


class Vectors(ctypes.Structure):
    """`vectors` of _frames.c; the array behind the pointer must outlive it."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_ssize_t))


def load(folder: Path) -> ctypes.CDLL | None:
    """The library in a folder; None if there is no usable one, with the reason kept for `warn_missing`."""
    global _problem
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.exists():
            break
    else:
        _problem = "was not built for this Python"
        return None
    try:
        library = ctypes.CDLL(str(path))
        version = ctypes.c_int.in_dll(library, "version").value
    except (OSError, ValueError) as error:  # truncated, for another architecture, or another library
        _problem = f"cannot be loaded ({error})"
        return None
    if version != _VERSION:
        _problem = f"is of another version ({path})"
        return None
    pointer, size, axis = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.POINTER(Axis)
    library.resize.argtypes = (pointer, size, size, size, axis, axis, pointer)
    if hasattr(library, "frames"):
        library.crc32c.argtypes = (ctypes.c_uint32, pointer, size)
        library.crc32c.restype = ctypes.c_uint32
        library.frames.argtypes = (pointer, pointer, pointer, size, ctypes.POINTER(Vectors), size, pointer)
        library.frames.restype = None
        library.headers.argtypes = (pointer, size, ctypes.c_uint64, pointer, size)
        library.headers.restype = size
    return library


def has_crc() -> bool:
    """Whether the library has the functions of _frames.c, which need an instruction of the processor."""
    return hasattr(LIBRARY, "frames")


_problem = ""
LIBRARY = load(Path(__file__).parent)


@functools.cache
def warn_missing() -> None:
    """Logs why the job is slower than it could be, once per process."""
    logging.getLogger(__name__).warning(
        "the native code %s, so NumPy resizes the images and Python frames the records: the bytes are the same, but it is "
        "slower. With a C compiler (Debian, Ubuntu: apt install gcc libc6-dev) reinstall the package, or in a checkout run "
        "`python setup.py build_ext --inplace --force`.",
        _problem,
    )
