"""Writing files with retries: on disk as the bytes arrive, on other stores in one upload when the file is closed."""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from typing import Any

from transforms.storage import retrying
from transforms.storage.disk import DiskOutput
from transforms.storage.errors import StorageFailed
from transforms.storage.stores import is_local, store_of
from transforms.storage.watching import Beat

_BLOCK_BYTES = 1 << 20  # 1 MiB
_IN_MEMORY_BYTES = 32 << 20  # 32 MiB; a larger upload is kept in a temporary file


class DiskStream:
    """A file on a disk, written sequentially in blocks; a write that failed or was cut short is resumed where it stopped.

    It has no finalizer, unlike the streams of `io`: what nobody closes is never written, so that no garbage collection waits
    for a disk.
    """

    def __init__(self, path: str):
        self._path = path
        self._output = retrying.call("creating", path, lambda: DiskOutput(path))
        self._at = 0
        self._kept = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Appends; small bytes are kept until there is a block of them. Raises StorageFailed."""
        if len(data) < _BLOCK_BYTES:
            self._kept += data
        if len(self._kept) >= _BLOCK_BYTES or len(data) >= _BLOCK_BYTES:
            self.flush()
        if len(data) >= _BLOCK_BYTES:  # as they are: a copy of them takes longer than their checksum
            self._put(data)

    def flush(self) -> None:
        """Passes on what is kept. Raises StorageFailed."""
        kept, self._kept = bytes(self._kept), bytearray()
        self._put(kept)

    def _put(self, data: bytes | memoryview) -> None:
        while data:
            written = retrying.call("writing", self._path, partial(self._output.write_at, self._at, data))
            self._at += written
            data = data[written:]

    def close(self) -> None:
        """Forces the bytes to the disk and closes the file. Raises StorageFailed.

        Not retried: after an error the system takes lost pages for written."""
        self.flush()
        retrying.once("writing", self._path, self._finish)

    def _finish(self) -> None:
        self._output.make_durable(self._at)
        self._output.close()

    def discard(self) -> None:
        """Closes the file without what was not yet written."""
        self._kept.clear()
        self._output.close()


class Upload:
    """A file to write to. Its bytes are kept until they are stored, so that all can be sent again."""

    def __init__(self, path: str):
        self._path = path
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, data: bytes | memoryview) -> None:
        """Appends; sends nothing yet. Raises StorageFailed if there is no room to keep it here."""
        try:
            self._file.write(data)
        except OSError as error:  # tried no more: how much of it was written is not known
            where = tempfile.gettempdir()
            raise retrying.failed("keeping an upload in", where, error) from error

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


def create(path: str) -> DiskStream | Upload:
    """Opens `path` for writing raw bytes; missing parent folders are created. End with close_durably or discard."""
    return DiskStream(path) if is_local(path) else Upload(path)


def close_durably(stream: DiskStream | Upload, path: str) -> None:
    """Closes a stream of `create`; its bytes are durable then. Raises StorageFailed."""
    stream.close()


def discard(stream: DiskStream | Upload, path: str) -> None:
    """Closes a stream of `create` and deletes its file, if that is possible at once: a sweep deletes what is left."""

    def drop() -> None:
        stream.discard()
        store_of(path).delete(path)

    with contextlib.suppress(StorageFailed):
        retrying.once("deleting", path, drop, retrying.AFTER_A_FAILURE_SECONDS)
