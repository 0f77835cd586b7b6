"""Files that are written to a store as a whole when they are closed; what is never closed never becomes one."""

from __future__ import annotations

import tempfile
from typing import IO, Any, Protocol

from transforms.storage import retrying
from transforms.storage.retrying import Beat

_IN_MEMORY_BYTES = 32 << 20  # of an upload; the rest goes to a temporary file


class Uploading(Protocol):
    """What an upload needs of a store."""

    def upload(self, path: str, file: IO[bytes]) -> None: ...


class Upload:
    """A file to write to. Its bytes are kept here until the store has them, so that all can be sent again."""

    def __init__(self, store: Uploading, path: str):
        self._store, self._path = store, path
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            send(self._store, self._path, self._file)
            self._file.close()

    def discard(self) -> None:
        """Drops what was written."""
        self._file.close()


def send(store: Uploading, path: str, file: Any) -> None:
    """Writes `file` from its start to the store, over an older file, until it is there."""
    beat = Beat()
    retrying.call("writing", path, lambda: store.upload(path, _Beating(file, beat)), beat)  # type: ignore[arg-type]


class _Beating:
    """A file whose reading tells that an upload gets on."""

    def __init__(self, file: Any, beat: Beat):
        self._file, self._beat = file, beat

    def read(self, count: int = -1) -> bytes:
        self._beat()
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
