"""Writing files with retries: on disk as the bytes arrive, on other stores in one upload when the file is closed."""

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

_BLOCK_BYTES = 1 << 20  # 1 MiB
_IN_MEMORY_BYTES = 32 << 20  # 32 MiB; a larger upload is kept in a temporary file


class DiskWriter(io.RawIOBase):
    """A file written sequentially; a write that failed or was cut short is resumed where it stopped."""

    def __init__(self, path: str):
        self._path = path
        self._output = retrying.call("creating", path, lambda: DiskOutput(path))
        self._at = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._output.fileno()

    def write(self, data) -> int:
        """Returns how many bytes were written, as io.RawIOBase does. Raises StorageFailed."""
        block = bytes(data)
        written = retrying.call("writing", self._path, lambda: self._output.write_at(self._at, block))
        self._at += written
        return written

    def make_durable(self) -> None:
        """Forces the bytes to the disk. Not retried: after an error the system takes lost pages for written."""
        retrying.once("writing", self._path, lambda: self._output.make_durable(self._at))

    def close(self) -> None:
        """Closes the file; only `make_durable` makes its bytes durable."""
        if not self.closed:
            super().close()
            self._output.close()


class _Buffered(io.BufferedWriter):
    """Passes large bytes on as they are: a copy of them takes longer than their checksum."""

    def write(self, data) -> int:
        """Returns the number of bytes, all of which are written or kept."""
        if not isinstance(data, bytes) or len(data) < _BLOCK_BYTES:
            return super().write(data)
        self.flush()
        raw: Any = self.raw
        count = raw.write(data)
        while count < len(data):
            count += raw.write(data[count:])
        return count


class Upload:
    """A file to write to. Its bytes are kept until they are stored, so that all can be sent again."""

    def __init__(self, path: str):
        self._path = path
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """Appends; sends nothing yet."""
        self._file.write(data)

    def close(self) -> None:
        """Uploads the file. Raises StorageFailed."""
        if not self._file.closed:
            send(self._path, self._file)
            self._file.close()

    def discard(self) -> None:
        """Drops what was written; without `close` the store gets no file."""
        self._file.close()


def send(path: str, file: Any) -> None:
    """Writes `file` from its start to `path`, replacing an older file, with retries. Raises StorageFailed."""
    beat = Beat()
    watched_file: Any = _Beating(file, beat)
    retrying.call("writing", path, lambda: store_of(path).upload(path, watched_file), beat)


class _Beating:
    """A file whose reads count as progress of an upload, and that stays open for another try."""

    def __init__(self, file: Any, beat: Beat):
        self._file, self._beat = file, beat

    def read(self, count: int = -1) -> bytes:
        self._beat()
        return self._file.read(count)

    def close(self) -> None:
        """Does nothing: boto3 closes the file that it sends, even if that fails."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def create(path: str):
    """Opens `path` for writing raw bytes; missing parent folders are created. End with close_durably or discard."""
    return _Buffered(DiskWriter(path), _BLOCK_BYTES) if is_local(path) else Upload(path)


def close_durably(stream: Any, path: str) -> None:
    """Closes a stream of `create` and forces its bytes to the disk; an object store's files are durable once uploaded."""
    if is_local(path):
        stream.flush()
        stream.raw.make_durable()
    stream.close()


def discard(stream: Any, path: str) -> None:
    """Closes a stream of `create` and deletes its file, if possible: a sweep deletes what is left."""
    if isinstance(stream, Upload):
        stream.discard()
    else:
        stream.raw.close()  # without flushing the buffer
    with contextlib.suppress(StorageFailed):
        retrying.once("deleting", path, lambda: store_of(path).delete(path))
