"""Loads the compiled inner loops of `_resize.c` and `_eighth.c`, where they were built.

setup.py builds them with the package, scripts/venv.sh in a checkout. They need a C compiler then, and nothing of Python:
they are called through ctypes, which lets go of Python's lock. Without them everything works and gives the
same bits, slower.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path

_VERSION = 3  # of the functions and their arguments: an older build is not taken


class Axis(ctypes.Structure):
    """`axis` of _resize.c; the arrays behind the pointers must outlive it."""

    _fields_ = (
        ("lower", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("inside", ctypes.c_ssize_t),
    )


class Picture(ctypes.Structure):
    """`picture` of _eighth.c."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_ssize_t),
        *((name, ctypes.c_int32) for name in ("width", "height", "components", "across", "down", "restart")),
        ("dc", (ctypes.c_uint8 * 272) * 3),
        ("ac", (ctypes.c_uint8 * 272) * 3),
        ("quantization", (ctypes.c_uint16 * 64) * 3),
    )

    def hold(self, data: bytes, start: int) -> None:
        """Points to data[start:], and keeps it alive."""
        self._data = data
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        self.data, self.size = (address or 0) + start, len(data) - start


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
    library.decode_eighth.argtypes = (ctypes.POINTER(Picture), pointer, pointer)
    return library


_why = ""
LIBRARY = load(Path(__file__).parent)


@functools.cache
def tell_of_absence() -> None:
    """Logs, once a process, why images take longer than they need."""
    logging.getLogger(__name__).warning(
        "the native code %s, so images are resized by NumPy, and large JPEGs scaled by libjpeg alone: the same vectors, slower. "
        "With a C compiler (Debian, Ubuntu: apt install gcc libc6-dev) install the package again, or in a checkout run "
        "`python setup.py build_ext --inplace --force`.",
        _why,
    )
