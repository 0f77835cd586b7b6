"""Files by path or URI, local or on any store: what the job does with them, patiently, and the atomic steps of a commit.

Each kind of store is a class with the same methods, here used through `transforms.storage.retrying`: what is transient is
tried again, and what is not raises StorageFailed, which says what, where and why.
"""

from __future__ import annotations

import os
import posixpath

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import retrying
from transforms.storage.disk import is_temporary, local  # noqa: F401
from transforms.storage.opening import (  # noqa: F401
    block_bytes,
    is_compressed,
    open_binary,
    open_input,
    open_unbuffered,
    read_head,
)
from transforms.storage.stores import is_local, store_of
from transforms.storage.whole import (  # noqa: F401
    create_only,
    read_bytes,
    read_capped,
    read_if_there,
    read_many,
    side_by_side,
    write_atomic,
)
from transforms.storage.writing import close_durably, create, discard  # noqa: F401


def configure(options: PipelineOptions) -> None:
    """Gives the stores, and Beam's file systems, their options before there is a pipeline."""
    FileSystems.set_options(options)


def connect(path: str) -> None:
    """Makes this process's client for the store of `path`, where there is none yet. Can take long."""
    store_of(path).connect()


def endpoint(path: str, options: PipelineOptions) -> str:
    """The URL that the store of `path` is reached at; '' where it cannot be told, or needs no network."""
    return store_of(path).endpoint(options)


def explain(path: str, error: BaseException) -> str:
    """One sentence on why a store did not do what was asked with `path`, and what to do about it."""
    return store_of(path).explain(path, error)


def leaves_temporaries(folder: str) -> bool:
    """Whether a killed run can leave half-written small files beside their place."""
    return not store_of(folder).whole_uploads


def join(folder: str, *parts: str) -> str:
    return posixpath.join(folder, *parts)


def match(pattern: str) -> list[FileMetadata]:
    """The files (no folders) that `pattern` matches, sorted by path; empty where there are none.

    A bucket that does not exist is a BeamIOError, not an empty one.
    """
    files = retrying.call("listing", pattern, lambda: store_of(pattern).match(pattern))
    return sorted(files, key=lambda file: file.path)


def exists(path: str) -> bool:
    return retrying.call("looking for", path, lambda: store_of(path).exists(path))


def stored_checksum(path: str) -> str:
    """What the store of a file keeps to tell contents apart; on disks, the size."""
    return retrying.call("asking for the checksum of", path, lambda: store_of(path).checksum(path))


def place(source: str, target: str) -> bool:
    """Gives a durable file its final name, over an older file; False if there is no `source`.

    `target` never holds a part of a file. A `source` on an object store stays, others are moved.
    """
    return retrying.call("renaming to", target, lambda: store_of(target).place(source, target))


def delete(paths: list[str]) -> None:
    """Deletes files of one store; one that is gone already is no error."""
    side_by_side(_delete, paths)


def _delete(path: str) -> None:
    retrying.call("deleting", path, lambda: store_of(path).delete(path))


def remove_folder_if_empty(folder: str) -> None:
    """Object stores have no folders; a local one goes when nothing is in it."""
    if is_local(folder):
        try:
            os.rmdir(local(folder))
        except OSError:
            return
