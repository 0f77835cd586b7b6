"""Copies files and folders, such as models, from a store to this machine, and detects whether they have changed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms.storage.door import (
    close_durably,
    create,
    discard,
    escape,
    join,
    match,
    open_binary,
    stored_checksum,
)


def checksum(source: str) -> str:
    """SHA-256, in hexadecimal, of the names and stored checksums of a file or of all files below a folder.

    Raises FileNotFoundError if there are none.
    """
    files = _files(source)
    if not files:
        raise FileNotFoundError(f"no such file or folder; check the path and the permissions of {source}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path[len(source) :]}\0{stored_checksum(file.path)}\0".encode())
    return digest.hexdigest()


def copy_to_local(source: str, folder: str) -> str:
    """Copies a file, or everything below a folder, into a subfolder of the local `folder`; returns the local path.

    A file gets its final name only once it is complete, so an interrupted copy is continued. The path depends on the
    files' sizes and times, so a source that has changed is copied again. Raises FileNotFoundError if there is none.
    """
    files = _files(source)
    if not files:
        raise FileNotFoundError(f"no file or folder at {source}")
    root = source.rstrip("/")
    versions = "".join(
        f"{file.path}\0{file.size_in_bytes}\0{file.last_updated_in_seconds}\n" for file in files
    )
    folder = os.path.join(folder, hashlib.sha256(versions.encode()).hexdigest()[:16])
    for metadata in files:
        relative = metadata.path[len(root) :].lstrip("/") or os.path.basename(root)
        target = os.path.join(folder, relative)
        if os.path.exists(target):
            continue
        partial = f"{target}.{uuid.uuid4().hex}.part"
        out = create(partial)
        try:
            with open_binary(metadata.path) as stream:
                for block in _blocks(stream):
                    out.write(block)
            close_durably(out, partial)
        except BaseException:
            discard(out, partial)
            raise
        os.replace(partial, target)
    return os.path.join(folder, os.path.basename(root)) if files[0].path == root else folder


def _files(source: str) -> list[FileMetadata]:
    path = escape(source)
    return match(path) or match(join(path.rstrip("/"), "**"))


def _blocks(stream: Any, size: int = 16 << 20) -> Iterator[bytes]:
    while block := stream.read(size):
        yield block
