"""SHA-256 digests that identify weights, in hexadecimal. Receipts hold them: if they changed, no output could be resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

_BLOCK_BYTES = 8 << 20  # 8 MiB


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
