"""Files by path or URI, local or on any store: reading and writing with retries, and the atomic steps of a commit.

Each kind of store is a class with the same methods, called here through `transforms.storage.retrying`: transient errors
are retried, others raise StorageFailed, which says what failed, where and why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath

from apache_beam.io.filesystem import FileMetadata
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import retrying
from transforms.storage.compression import head, is_compressed  # noqa: F401
from transforms.storage.disk import is_temporary, local  # noqa: F401
from transforms.storage.globs import escape  # noqa: F401
from transforms.storage.opening import (  # noqa: F401
    block_bytes,
    check_compression,
    check_is_plain,
    open_binary,
    open_input,
    open_unbuffered,
    read_head,
)
from transforms.storage.packing import check_name as check_compression_by_name  # noqa: F401
from transforms.storage.settings import StoreSettings, adopt, of_launcher, without_secrets  # noqa: F401
from transforms.storage.settings import use as configure  # noqa: F401
from transforms.storage.stores import is_local, store_of
from transforms.storage.watching import Beat
from transforms.storage.whole import (  # noqa: F401
    create_only,
    in_parallel,
    read_bytes,
    read_capped,
    read_if_there,
    read_many,
    write_atomic,
    write_if_other,
)
from transforms.storage.writing import close_durably, create, discard  # noqa: F401


def connect(path: str) -> None:
    """Creates this process's client for the store of `path`, if there is none yet. Can take seconds."""
    store_of(path).connect()


def endpoint(path: str, options: PipelineOptions) -> str:
    """The URL of the store of `path`; '' if it is not known or needs no network."""
    return store_of(path).endpoint(options)


def explain(path: str, error: BaseException) -> str:
    """One sentence on why an operation on `path` failed, and what to do about it."""
    return store_of(path).explain(path, error)


def leaves_temporaries(folder: str) -> bool:
    """Whether a killed run can leave temporary small files beside their target in this folder."""
    return not store_of(folder).atomic_uploads


def join(folder: str, *parts: str) -> str:
    """A path below a folder, with '/' on every store."""
    return posixpath.join(folder, *parts)


def match(pattern: str) -> list[FileMetadata]:
    """The files (no folders) that `pattern` matches, sorted by path; empty if there are none.

    A page that failed is asked for again, not the pages before it. Raises StorageFailed if a glob's bucket does not exist.
    """
    files: list[FileMetadata] = []
    page, beat = "", Beat()
    while True:
        ask = functools.partial(store_of(pattern).match, pattern, page, beat)
        more, page = retrying.call("listing", pattern, ask, beat)
        files += more
        if not page:
            return sorted(files, key=lambda file: file.path)


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return retrying.call("looking for", path, lambda: store_of(path).exists(path))


def stored_checksum(path: str) -> str:
    """The store's own checksum of a file; on disks, its size."""
    return retrying.call("asking for the checksum of", path, lambda: store_of(path).checksum(path))


def place(source: str, target: str) -> bool:
    """Gives a durable file its final name, replacing an older file; False if there is no `source`.

    `target` is never incomplete. On object stores `source` is copied and remains; elsewhere it is moved.
    """
    return retrying.call("renaming to", target, lambda: store_of(target).place(source, target))


def delete(paths: list[str]) -> None:
    """Deletes files of one store; missing files are not an error."""
    in_parallel(lambda path: retrying.call("deleting", path, lambda: store_of(path).delete(path)), paths)


def remove_folder_if_empty(folder: str) -> None:
    """Deletes a local folder if it is empty; object stores have no folders."""
    if is_local(folder):
        with contextlib.suppress(OSError):
            os.rmdir(local(folder))
