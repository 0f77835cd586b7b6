"""Files read and written as a whole, at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from transforms.storage import retrying
from transforms.storage.errors import Fault
from transforms.storage.sink import Sink
from transforms.storage.stores import fault_of, is_local, store_of
from transforms.storage.watching import Silent, watched
from transforms.storage.writing import send

_SIDE_BY_SIDE = 32  # requests at once
T = TypeVar("T")


def read_bytes(path: str) -> bytes:
    """A small file as a whole."""
    data = read_if_there(path)
    if data is None:
        raise FileNotFoundError(f"nothing at {path}")
    return data


def read_if_there(path: str) -> bytes | None:
    """A small file's bytes; None if there is none."""

    def read() -> bytes | None:
        into = Sink()
        try:
            store_of(path).read(path, into)
        except Exception as error:
            fault = fault_of(path, error)
            if fault is None or fault.code != "not_found":
                raise
            return None
        return into.data()

    return retrying.call("reading", path, read)


def read_capped(path: str, max_bytes: int, seconds: float, silence_seconds: float) -> bytes:
    """A whole file, in one try, for callers with limits and retries of their own.

    Both limits of time do not bind local disks, where a thread to watch would cost more than the read.

    Raises:
      Fault: the file is larger than `max_bytes`, or there are errors of storage. Other errors come as they are.
    """
    store, into = store_of(path), Sink(max_bytes)
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
    """What `read_if_there` gives for each of many small files of one store, read side by side."""
    return side_by_side(read_if_there, paths)


def side_by_side(work: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """What `work` gives for each of many files of one store."""
    if not paths or is_local(paths[0]):
        return [work(path) for path in paths]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(work, paths))


def create_only(path: str, data: bytes) -> bool:
    """Writes a small file if there is none of this name; whether it did. It appears as a whole or not at all.

    Of several callers at most one succeeds: by a precondition on gs:// and s3://, by a hard link on local disks. Disks
    without hard links and other stores cannot promise that; there the name is looked up just before. After
    an answer that was lost it may say False of a file that is the caller's own.
    """
    return retrying.call("creating", path, lambda: store_of(path).create_only(path, data))


def write_atomic(path: str, data: bytes) -> None:
    """Writes a whole small file so that no reader ever sees a part of it, over an older one."""
    send(path, io.BytesIO(data))
