"""Reading and writing complete files in one operation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from transforms.storage import retrying
from transforms.storage.errors import Fault
from transforms.storage.sink import Sink
from transforms.storage.stores import fault_of, is_local, store_of
from transforms.storage.watching import Beat, Silent, watched
from transforms.storage.writing import send

_PARALLEL_REQUESTS = 32
T = TypeVar("T")


def read_bytes(path: str) -> bytes:
    """The bytes of a small file. Raises FileNotFoundError."""
    data = read_if_there(path)
    if data is None:
        raise FileNotFoundError(f"no file at {path}")
    return data


def read_if_there(path: str) -> bytes | None:
    """The bytes of a small file; None if there is none."""
    return retrying.call("reading", path, lambda: _read(path))


def _read(path: str) -> bytes | None:
    into = Sink()
    try:
        store_of(path).read(path, into)
    except Exception as error:
        fault = fault_of(path, error)
        if fault is None or fault.code != "not_found":
            raise
        return None
    return into.data()


def read_capped(path: str, max_bytes: int, seconds: float, silence_seconds: float) -> bytes:
    """The bytes of a file, in one try, for callers with limits and retries of their own.

    The time limits do not apply to local disks, where a watched thread would cost more than the read.

    Raises:
      Fault: the file is larger than `max_bytes`, or storage failed. Other errors are raised unchanged.
    """
    store, into = store_of(path), Sink(max_bytes, "file" if is_local(path) else "object")
    try:
        if is_local(path):
            store.read(path, into)
        else:
            watched(lambda: store.read(path, into), into.beat, silence_seconds, seconds)
    except Silent:
        into.abandoned = True
        raise Fault("timeout", "the store was silent too long, or time ran out", transient=True) from None
    except Exception as error:
        if fault := fault_of(path, error):
            raise fault from None
        if isinstance(error, ValueError):
            raise Fault("bad_uri", "not a name that a file or object can have there") from None
        raise
    return into.data()


def read_many(paths: Sequence[str]) -> list[bytes | None]:
    """The bytes of many small files of one store, read in parallel, on a local disk in a row; None for each that is missing."""
    if paths and is_local(paths[0]):
        # What fails is read again one by one: with retries, and a message that names the file.
        with contextlib.suppress(Exception):
            return _read_at_once(paths)
    return in_parallel(read_if_there, paths)


def _read_at_once(paths: Sequence[str]) -> list[bytes | None]:
    """The bytes of files on a local disk in one watched operation, which for each of them would take longer than reading it."""
    beat = Beat()

    def read(path: str) -> bytes | None:
        beat()
        return _read(path)

    return watched(lambda: [read(path) for path in paths], beat, retrying.LIMITS.seconds)


def in_parallel(work: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """`work` for each of many files of one store; one after the other on a local disk."""
    if not paths or is_local(paths[0]):
        return [work(path) for path in paths]
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        return list(pool.map(work, paths))


def create_only(path: str, data: bytes) -> bool:
    """Writes a small file if there is none of this name; returns whether it did. The file appears complete or not at all.

    Of several callers at most one succeeds: by a precondition on gs:// and s3://, by a hard link on local disks. Disks
    without hard links and other stores cannot guarantee that; there the name is checked just before. If an answer is
    lost, this may return False for the caller's own file.
    """
    return retrying.call("creating", path, lambda: store_of(path).create_only(path, data))


def write_atomic(path: str, data: bytes) -> None:
    """Writes a small file, replacing an older one; readers never see an incomplete file."""
    send(path, io.BytesIO(data))


def write_if_other(path: str, data: bytes) -> None:
    """The same, where the file is not there or holds something else."""
    if read_if_there(path) != data:
        write_atomic(path, data)
