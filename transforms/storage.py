"""Files by path or URI, local or on an object store, through Beam's FileSystems; and the atomic steps of a commit."""

from __future__ import annotations

import gzip
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from apache_beam.io.filesystem import BeamIOError, CompressedFile, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms import object_stores
from transforms.object_stores import explain

__all__ = ["explain"]

GZIP_MAGIC = b"\x1f\x8b"
T = TypeVar("T")


def configure(options: PipelineOptions, paths: Iterable[str]) -> None:
    """Gives Beam's file systems their options before there is a pipeline, and settles the credentials for `paths`."""
    FileSystems.set_options(options)
    if any(FileSystems.get_scheme(path) == "gs" for path in paths):
        object_stores.settle_google_credentials(options)


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) in (None, "file")


def local(path: str) -> str:
    return path[len("file://") :] if path.startswith("file://") else path


def join(folder: str, *parts: str) -> str:
    return FileSystems.join(folder, *parts)


def match(pattern: str) -> list[FileMetadata]:
    """The files (no folders) that `pattern` matches, sorted by path; empty where there are none.

    A bucket that does not exist is a BeamIOError, not an empty one.
    """
    try:
        found = FileSystems.match([pattern])[0].metadata_list
    except BeamIOError as error:
        if FileSystems.get_scheme(pattern) != "gs" and _means_missing(error):
            return []
        raise
    store = None if found else object_stores.store_of(pattern)
    if isinstance(store, object_stores.S3Store) and not store.has_bucket(pattern):  # Beam lists it as empty
        raise BeamIOError("Match operation failed", {pattern: 404})
    files = [file for file in found if not (is_local(file.path) and os.path.isdir(local(file.path)))]
    return sorted(files, key=lambda file: file.path)


def _means_missing(error: BeamIOError) -> bool:
    causes = (error.exception_details or {}).values()
    return any(
        isinstance(cause, FileNotFoundError) or 404 in (cause, getattr(cause, "code", None))
        for cause in causes
    )


def exists(path: str) -> bool:
    store = object_stores.store_of(path)
    return store.exists(path) if store else FileSystems.exists(path)


def open_input(path: str, start: int = 0):
    """Opens a file for reading at offset `start` of its decompressed bytes.

    Compression goes by the suffix, and gzip also by its first bytes: sharded names often hide the suffix.
    """
    stream: Any
    compression = CompressionTypes.detect_compression_type(path)
    if compression not in (CompressionTypes.UNCOMPRESSED, CompressionTypes.GZIP):
        stream = FileSystems.open(path)
    else:
        stream = open_binary(path)
        zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        if zipped:  # Beam's own reader takes a file that was cut short for one that has ended
            stream = _Gzip(fileobj=stream)
    if start:
        stream.seek(start)
    return stream


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


def open_binary(path: str):
    """Opens a file for reading its bytes as they are."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """A small file as a whole."""
    store = object_stores.store_of(path)
    if store is None:
        with open_binary(path) as stream:
            return stream.read()
    data = store.read(path)
    if data is None:
        raise FileNotFoundError(f"nothing at {path}")
    return data


def read_if_there(path: str) -> bytes | None:
    """A small file's bytes; None if there is none."""
    store = object_stores.store_of(path)
    if store:
        return store.read(path)
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
    except BeamIOError as error:
        if _means_missing(error):
            return None
        raise


def read_many(paths: Sequence[str]) -> list[bytes | None]:
    """What `read_if_there` gives for each of many small files of one store, read side by side."""
    store = object_stores.store_of(paths[0]) if paths else None
    return _side_by_side(store.read if store else read_if_there, paths)  # a disk may be behind a network, too


def _side_by_side(call: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    with ThreadPoolExecutor(object_stores.CONNECTIONS) as pool:
        return list(pool.map(call, paths))


def create(path: str):
    """Opens `path` for writing its bytes as they are; folders above it are made. End it by close_durably or discard."""
    store = object_stores.store_of(path)
    if store:
        return object_stores.Upload(store, path)
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def close_durably(stream: Any, path: str) -> None:
    """Closes a stream of `create`, its bytes forced to the disk; what an object store has taken is durable."""
    if is_local(path):
        stream.flush()
        os.fsync(stream.fileno())
    stream.close()


def discard(stream: Any, path: str) -> None:
    """Drops the file that a stream of `create` was to become, also if it was closed already."""
    if isinstance(stream, object_stores.Upload):
        stream.discard()
    else:
        stream.close()
    delete([path])


def place(source: str, target: str) -> bool:
    """Gives a durable file its final name, over an older file; False if there is no `source`.

    `target` never holds a part of a file. A local `source` is moved; on a store it stays.
    """
    if is_local(source):
        source, target = local(source), local(target)
        try:
            os.replace(source, target)
        except FileNotFoundError:
            return False
        _make_names_durable(os.path.dirname(target))
        return True
    store = object_stores.store_of(source)
    if store:
        return store.copy(source, target)
    try:
        FileSystems.copy([source], [target])
    except BeamIOError as error:
        if _means_missing(error):
            return False
        raise
    return True


def create_only(path: str, data: bytes) -> bool:
    """Writes a small file if there is none of this name; whether it did. It appears as a whole or not at all.

    Of several callers at most one succeeds: by a precondition on gs:// and s3://, by a hard link on local disks. Disks
    without hard links and other stores cannot promise that; there the name is looked up just before.
    """
    store = object_stores.store_of(path)
    if store:
        return store.create_only(path, data)
    if not is_local(path):
        if exists(path):
            return False
        write_atomic(path, data)
        return True
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, local(path))
    except FileExistsError:
        return False
    except OSError:
        if os.path.exists(local(path)):
            return False
        os.replace(temporary, local(path))
    else:
        return True
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
        _make_names_durable(os.path.dirname(local(path)))
    return True


def write_atomic(path: str, data: bytes) -> None:
    """Writes a whole small file so that no reader ever sees a part of it, over an older one."""
    if not is_local(path):
        stream = create(path)
        stream.write(data)
        stream.close()  # an object appears when its upload is finished
        return
    while True:
        temporary = _write_temporary(path, data)
        try:
            os.replace(temporary, local(path))
            break
        except FileNotFoundError:  # another run that ended has swept the folder
            if os.path.exists(temporary):
                raise
    _make_names_durable(os.path.dirname(local(path)))


def _write_temporary(path: str, data: bytes) -> str:
    temporary = f"{local(path)}.{uuid.uuid4().hex}.tmp"
    os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def _make_names_durable(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(paths: list[str]) -> None:
    """Deletes files of one store; one that is gone already is no error."""
    if not paths:
        return
    store = object_stores.store_of(paths[0])
    if store:
        _side_by_side(store.delete, paths)
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


def checksum(source: str) -> str:
    """SHA-256, in hexadecimal, over the names and checksums that a store gives for a file or all files of a folder.

    Raises FileNotFoundError where there is none.
    """
    found = match(source) or match(join(source.rstrip("/"), "**"))
    if not found:
        raise FileNotFoundError(f"nothing there; check the path and the permissions of {source}")
    digest = hashlib.sha256()
    for file in found:
        digest.update(f"{file.path[len(source) :]}\0{FileSystems.checksum(file.path)}\0".encode())
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
