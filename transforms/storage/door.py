"""Files by path or URI, local or on any store: what the job does with them, patiently, and the atomic steps of a commit.

Each kind of store is a class with the same methods, here used through `transforms.storage.retrying`: what may pass is tried
again, and what does not raises StorageFailed, which says what, where and why.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from apache_beam.io.filesystem import CompressedFile, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import disk, object_stores, retrying, uploads
from transforms.storage.disk import local
from transforms.storage.errors import StorageFailed
from transforms.storage.names import CONNECTIONS
from transforms.storage.object_stores import explain
from transforms.storage.other import OTHER
from transforms.storage.reading import Reader
from transforms.storage.store import Store

__all__ = ["explain", "local"]

GZIP_MAGIC = b"\x1f\x8b"
_DISK_BLOCK_BYTES = 1 << 20
_STORE_BLOCK_BYTES = 8 << 20  # a request each
T = TypeVar("T")

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")


def configure(options: PipelineOptions, paths: Iterable[str]) -> None:
    """Gives Beam's file systems their options before there is a pipeline, and settles the credentials for `paths`."""
    FileSystems.set_options(options)
    if any(FileSystems.get_scheme(path) == "gs" for path in paths):
        object_stores.settle_google_credentials(options)


def _store(path: str) -> Store:
    if is_local(path):
        return disk.DISK
    return object_stores.store_of(path) or OTHER


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) in (None, "file")


def leaves_temporaries(folder: str) -> bool:
    """Whether a killed run can leave half-written small files beside their place."""
    return is_local(folder) or object_stores.store_of(folder) is None


def is_temporary(path: str) -> bool:
    """Whether a file's name is one that small files have before they are renamed."""
    return bool(_TEMPORARY.search(path))


def join(folder: str, *parts: str) -> str:
    return FileSystems.join(folder, *parts)


def match(pattern: str) -> list[FileMetadata]:
    """The files (no folders) that `pattern` matches, sorted by path; empty where there are none.

    A bucket that does not exist is a BeamIOError, not an empty one.
    """
    found = retrying.call("listing", pattern, lambda: _store(pattern).match(pattern))
    return sorted(found, key=lambda file: file.path)


def exists(path: str) -> bool:
    return retrying.call("looking for", path, lambda: _store(path).exists(path))


def open_input(path: str, start: int = 0, watch: Callable[[Reader], io.RawIOBase] | None = None):
    """Opens a file for reading at offset `start` of its decompressed bytes.

    Compression goes by the suffix, and gzip also by its first bytes: sharded names often hide the suffix. `watch` may
    put itself between the file's own bytes and their decompression.
    """
    stream: Any
    compression = CompressionTypes.detect_compression_type(path)
    reader = open_unbuffered(path)
    stream = io.BufferedReader(watch(reader) if watch else reader)
    if compression not in (CompressionTypes.UNCOMPRESSED, CompressionTypes.GZIP):
        stream = CompressedFile(stream, compression)
    else:
        zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        if zipped:  # Beam's own reader takes a file that was cut short for one that has ended
            stream = _Gzip(fileobj=stream)
    if start:
        stream.seek(start)
    return stream


def open_unbuffered(path: str) -> Reader:
    """Opens a file for reading its bytes as they are, for who puts a buffer above it."""
    return Reader(path, lambda: _store(path).open(path), block_bytes(path))


def block_bytes(path: str) -> int:
    """How much of a file is read at once."""
    return _DISK_BLOCK_BYTES if is_local(path) else _STORE_BLOCK_BYTES


class _Gzip(gzip.GzipFile):
    """Closes the file below it, too."""

    def close(self) -> None:
        below: Any = self.fileobj
        super().close()
        if below:
            below.close()


def is_compressed(stream) -> bool:
    """Whether offsets in a stream of `open_input` are not offsets in the file."""
    return isinstance(stream, (CompressedFile, gzip.GzipFile))


def open_binary(path: str) -> io.BufferedReader:
    """Opens a file for reading its bytes as they are."""
    return io.BufferedReader(open_unbuffered(path))


def read_bytes(path: str) -> bytes:
    """A small file as a whole."""
    data = read_if_there(path)
    if data is None:
        raise FileNotFoundError(f"nothing at {path}")
    return data


def read_if_there(path: str) -> bytes | None:
    """A small file's bytes; None if there is none."""
    return retrying.call("reading", path, lambda: _store(path).read(path))


def read_many(paths: Sequence[str]) -> list[bytes | None]:
    """What `read_if_there` gives for each of many small files of one store, read side by side."""
    return _side_by_side(read_if_there, paths)


def _side_by_side(work: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    if not paths or is_local(paths[0]):
        return [work(path) for path in paths]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(work, paths))


def create(path: str):
    """Opens `path` for writing its bytes as they are; folders above it are made. End it by close_durably or discard."""
    return disk.writer(path) if is_local(path) else uploads.Upload(_store(path), path)


def close_durably(stream: Any, path: str) -> None:
    """Closes a stream of `create`, its bytes forced to the disk; what an object store has taken is durable."""
    if is_local(path):
        stream.flush()
        retrying.once("writing", path, stream.raw.make_durable)
    stream.close()


def discard(stream: Any, path: str) -> None:
    """Drops the file that a stream of `create` was to become, as far as that goes: a sweep takes what is left."""
    if isinstance(stream, uploads.Upload):
        stream.discard()
    else:
        stream.raw.close()  # what it still holds is not wanted
    with contextlib.suppress(StorageFailed):
        retrying.once("deleting", path, lambda: _store(path).delete(path))


def place(source: str, target: str) -> bool:
    """Gives a durable file its final name, over an older file; False if there is no `source`.

    `target` never holds a part of a file. A `source` on an object store stays, others are moved.
    """
    return retrying.call("renaming to", target, lambda: _store(target).place(source, target))


def create_only(path: str, data: bytes) -> bool:
    """Writes a small file if there is none of this name; whether it did. It appears as a whole or not at all.

    Of several callers at most one succeeds: by a precondition on gs:// and s3://, by a hard link on local disks. Disks
    without hard links and other stores cannot promise that; there the name is looked up just before. After
    an answer that was lost it may say False of a file that is the caller's own.
    """
    return retrying.call("creating", path, lambda: _store(path).create_only(path, data))


def write_atomic(path: str, data: bytes) -> None:
    """Writes a whole small file so that no reader ever sees a part of it, over an older one."""
    uploads.send(_store(path), path, io.BytesIO(data))


def delete(paths: list[str]) -> None:
    """Deletes files of one store; one that is gone already is no error."""
    _side_by_side(_delete, paths)


def _delete(path: str) -> None:
    retrying.call("deleting", path, lambda: _store(path).delete(path))


def remove_folder_if_empty(folder: str) -> None:
    """Object stores have no folders; a local one goes when nothing is in it."""
    if is_local(folder):
        try:
            os.rmdir(local(folder))
        except OSError:
            return
