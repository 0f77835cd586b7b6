"""Files and folders, as models are, from a store to this machine; and what tells whether they changed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

from transforms.storage.door import join, match, open_binary, stored_checksum


def checksum(source: str) -> str:
    """SHA-256, in hexadecimal, over the names and checksums that a store gives for a file or all files of a folder.

    Raises FileNotFoundError where there is none.
    """
    files = match(source) or match(join(source.rstrip("/"), "**"))
    if not files:
        raise FileNotFoundError(f"nothing there; check the path and the permissions of {source}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path[len(source) :]}\0{stored_checksum(file.path)}\0".encode())
    return digest.hexdigest()


def copy_to_local(source: str, folder: str) -> str:
    """Copies a file, or everything below a folder, from a store to below the local `folder`; returns the local path.

    Files land under their final name only when whole, so an interrupted copy is taken up again. The path
    changes with the sizes and times of the files, so that a replaced source is copied anew.
    """
    files = match(source) or match(join(source.rstrip("/"), "**"))
    if not files:
        raise FileNotFoundError(f"nothing at {source}")
    root = source.rstrip("/")
    told = "".join(f"{file.path}\0{file.size_in_bytes}\0{file.last_updated_in_seconds}\n" for file in files)
    folder = os.path.join(folder, hashlib.sha256(told.encode()).hexdigest()[:16])
    for metadata in files:
        relative = metadata.path[len(root) :].lstrip("/") or os.path.basename(root)
        target = os.path.join(folder, relative)
        if os.path.exists(target):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = f"{target}.{uuid.uuid4().hex}.part"
        with open_binary(metadata.path) as stream, open(partial, "wb") as out:
            for block in _blocks(stream):
                out.write(block)
        os.replace(partial, target)
    return os.path.join(folder, os.path.basename(root)) if files[0].path == root else folder


def _blocks(stream: Any, size: int = 16 << 20) -> Iterator[bytes]:
    while block := stream.read(size):
        yield block
