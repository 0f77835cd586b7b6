"""Files to write to, patiently: on disk as their bytes come, on other stores as a whole once they are closed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from typing import Any

from transforms.storage import retrying
from transforms.storage.disk import DiskOutput
from transforms.storage.errors import StorageFailed
from transforms.storage.stores import is_local, store_of
from transforms.storage.watching import Beat

_BLOCK_BYTES = 1 << 20
_IN_MEMORY_BYTES = 32 << 20  # of an upload; the rest goes to a temporary file


class DiskWriter(io.RawIOBase):
    """A file written from its start; a write that failed or was cut is taken up where it stopped."""

    def __init__(self, path: str):
        self._path = path
        self._output = retrying.call("creating", path, lambda: DiskOutput(path))
        self._at = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._output.fileno()

    def write(self, data) -> int:
        block = bytes(data)
        written = retrying.call("writing", self._path, lambda: self._output.write_at(self._at, block))
        self._at += written
        return written

    def make_durable(self) -> None:
        """Forces the bytes to the disk. Not tried again: after an error the system takes lost pages for written."""
        retrying.once("writing", self._path, lambda: self._output.make_durable(self._at))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._output.close()


class Upload:
    """A file to write to. Its bytes are kept here until the store has them, so that all can be sent again."""

    def __init__(self, path: str):
        self._path = path
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            send(self._path, self._file)
            self._file.close()

    def discard(self) -> None:
        """Drops what was written; what is never closed never becomes a file of the store."""
        self._file.close()


def send(path: str, file: Any) -> None:
    """Writes `file` from its start to the store of `path`, over an older file, until it is there."""
    beat = Beat()
    beating: Any = _Beating(file, beat)
    retrying.call("writing", path, lambda: store_of(path).upload(path, beating), beat)


class _Beating:
    """A file whose reading tells that an upload makes progress, and that stays open for another try."""

    def __init__(self, file: Any, beat: Beat):
        self._file, self._beat = file, beat

    def read(self, count: int = -1) -> bytes:
        self._beat()
        return self._file.read(count)

    def close(self) -> None:
        """Does nothing: boto3 closes what it sends, also where that failed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def create(path: str):
    """Opens `path` for writing its bytes as they are; folders above it are made. End it by close_durably or discard."""
    return io.BufferedWriter(DiskWriter(path), _BLOCK_BYTES) if is_local(path) else Upload(path)


def close_durably(stream: Any, path: str) -> None:
    """Closes a stream of `create`, its bytes forced to the disk; what an object store has taken is durable."""
    if is_local(path):
        stream.flush()
        stream.raw.make_durable()
    stream.close()


def discard(stream: Any, path: str) -> None:
    """Drops the file that a stream of `create` was to become, as far as that goes: a sweep takes what is left."""
    if isinstance(stream, Upload):
        stream.discard()
    else:
        stream.raw.close()  # what it still holds is not wanted
    with contextlib.suppress(StorageFailed):
        retrying.once("deleting", path, lambda: store_of(path).delete(path))
