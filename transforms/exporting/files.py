"""Files of an export: each appears under its name complete, or not at all."""

from __future__ import annotations

import contextlib
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

from transforms.exporting.base import Place
from transforms.storage import door


class Output:
    """A file to write to, as pyarrow and NumPy want it."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Appends bytes, or whatever has a buffer; returns their number."""
        data = data if isinstance(data, bytes) else bytes(data)
        self._stream.write(data)
        self._bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def writable(self) -> bool:
        """True."""
        return True

    def readable(self) -> bool:
        """False."""
        return False

    def seekable(self) -> bool:
        """False."""
        return False

    def flush(self) -> None:
        """Does nothing: only a complete file matters."""

    def close(self) -> None:
        """Does nothing: the file is closed where it was opened."""


@contextlib.contextmanager
def placed(path: str) -> Iterator[Output]:
    """A file that appears at `path` when the block ends without an error. Raises StorageFailed."""
    if not door.is_local(path):  # a store shows an upload once it is complete
        upload = door.create(path)
        try:
            yield Output(upload)
            upload.close()
        except BaseException:
            upload.discard()  # and not what another attempt may have put there
            raise
        return
    folder, name = posixpath.split(path)
    temporary = door.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    stream = door.create(temporary)
    try:
        yield Output(stream)
        door.close_durably(stream, temporary)
    except BaseException:
        door.discard(stream, temporary)
        raise
    if not door.place(temporary, path) and not door.exists(path):
        raise FileNotFoundError(f"{temporary} was deleted before it was renamed: run the same command again")


def sweep(place: Place) -> None:
    """Deletes what attempts that were killed have left."""
    door.delete([file.path for file in door.match(place.file("**")) if door.is_temporary(file.path)])
