"""Files by path or URI, local or on an object store, through Beam's FileSystems; and the atomic commit."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressedFile, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

GZIP_MAGIC = b"\x1f\x8b"


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) in (None, "file")


def local(path: str) -> str:
    return path[len("file://") :] if path.startswith("file://") else path


def join(folder: str, *parts: str) -> str:
    return FileSystems.join(folder, *parts)


def match(pattern: str) -> list[FileMetadata]:
    """The files (no folders) that `pattern` matches, sorted by path; empty where there are none."""
    try:
        found = FileSystems.match([pattern])[0].metadata_list
    except BeamIOError as error:
        if _means_missing(error):
            return []
        raise
    files = [file for file in found if not (is_local(file.path) and os.path.isdir(local(file.path)))]
    return sorted(files, key=lambda file: file.path)


def _means_missing(error: BeamIOError) -> bool:
    causes = (error.exception_details or {}).values()
    return any(
        isinstance(cause, FileNotFoundError) or getattr(cause, "code", None) == 404 for cause in causes
    )


def exists(path: str) -> bool:
    return FileSystems.exists(path)


def open_input(path: str, start: int = 0):
    """Opens a file for reading at offset `start` of its decompressed bytes.

    Compression goes by the suffix, and gzip also by its first bytes: sharded names often hide the suffix.
    """
    if CompressionTypes.detect_compression_type(path) == CompressionTypes.UNCOMPRESSED:
        with open_binary(path) as stream:
            zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        compression = CompressionTypes.GZIP if zipped else CompressionTypes.UNCOMPRESSED
    else:
        compression = CompressionTypes.AUTO
    stream = FileSystems.open(path, compression_type=compression)
    if start:
        stream.seek(start)
    return stream


def is_compressed(stream) -> bool:
    """Whether offsets in a stream of `open_input` are not offsets in the file."""
    return isinstance(stream, CompressedFile)


def open_binary(path: str):
    """Opens a file for reading its bytes as they are."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    with open_binary(path) as stream:
        return stream.read()


def create(path: str):
    """Opens `path` for writing its bytes as they are; folders above it are made."""
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def replace(source: str, target: str) -> None:
    """Renames `source` to `target`, over an older `target`. Atomic on local disks; on stores the copy is."""
    if is_local(source):
        source, target = local(source), local(target)
        with open(source, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(source, target)
    else:
        FileSystems.rename([source], [target])


def write_atomic(path: str, data: bytes) -> None:
    """Writes a whole small file so that no reader ever sees a part of it."""
    if not is_local(path):
        with create(path) as stream:  # an object appears when its upload is finished
            stream.write(data)
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with create(temporary) as stream:
        stream.write(data)
    replace(temporary, path)


def delete(paths: list[str]) -> None:
    """Deletes files; one that is gone already is no error."""
    if not paths:
        return
    try:
        FileSystems.delete(paths)
    except BeamIOError:
        left = [path for path in paths if FileSystems.exists(path)]
        if left:
            raise


def remove_folder_if_empty(folder: str) -> None:
    """Object stores have no folders; a local one goes when nothing is in it."""
    if is_local(folder):
        try:
            os.rmdir(local(folder))
        except OSError:
            return


def copy_to_local(source: str, folder: str) -> str:
    """Copies a file, or everything below a folder, from a store to the local `folder`; returns the local path.

    Files land under their final name only when whole, so an interrupted copy is taken up again.
    """
    files = match(source) or match(join(source.rstrip("/"), "**"))
    if not files:
        raise FileNotFoundError(f"nothing at {source}")
    root = source.rstrip("/")
    for metadata in files:
        relative = metadata.path[len(root) :].lstrip("/") or os.path.basename(root)
        target = os.path.join(folder, relative)
        if os.path.exists(target) and os.path.getsize(target) == metadata.size_in_bytes:
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
