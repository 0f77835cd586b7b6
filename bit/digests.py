"""SHA-256 digests that identify weights, in hexadecimal. Receipts hold them: if they changed, no output could be resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK_BYTES = 8 << 20  # 8 MiB


class OfArrays:
    """Of the raw float32 arrays of a network by their official names: the same wherever, and in whatever file, they came from.

    Arrays are added in any order, from any thread.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, name: str, value: np.ndarray) -> None:
        """Adds one array: its name, shape and numbers, row by row in little-endian float32."""
        raw = np.ascontiguousarray(value, "<f4")
        self._digests[name] = f"{name}\0{raw.shape}\0{hashlib.sha256(raw.data).hexdigest()}\n"

    def hexdigest(self, head: bool) -> str:
        """Of what was added; without the head's arrays unless `head`."""
        names = sorted(name for name in self._digests if head or not name.startswith("head/"))
        return hashlib.sha256("".join(self._digests[name] for name in names).encode()).hexdigest()


def of_file(path: str) -> str:
    """Of a file's bytes, as `sha256sum` prints it: a checkpoint's identity, before and after it is loaded."""
    digest = hashlib.sha256()
    _add(digest, path)
    return digest.hexdigest()


def of_folder(path: str) -> str:
    """Of the names and contents of all files below a folder: a model's identity before it is loaded."""
    digest = hashlib.sha256()
    for name in _names(path):
        digest.update(f"{name}\0{of_file(os.path.join(path, name))}\0".encode())
    return digest.hexdigest()


def of_saved_model(path: str) -> str:
    """Of the graph and the variables alone: what a loaded SavedModel computes with, wherever it came from.

    TF-Hub, exports and caches put different files beside them.
    """
    digest = hashlib.sha256()
    for name in _names(path):
        if name.startswith(("saved_model.pb", "variables/")):
            file = os.path.join(path, name)
            digest.update(f"{name}\n{os.path.getsize(file)}\n".encode())
            _add(digest, file)
    return digest.hexdigest()


def _names(path: str) -> Iterator[str]:
    """The files below a folder, relative to it: a folder's own files by name, then those of its folders by name."""
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            yield os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")


def _add(digest: Any, path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
