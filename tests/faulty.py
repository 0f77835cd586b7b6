"""A Beam file system with the scheme faulty://, on the local disk, whose operations fail, hang and are cut short by lot.

faulty:///tmp/x is the file /tmp/x. What it does is set in `FaultyFileSystem.faults`, for the whole process.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

OPERATIONS = ("list", "exists", "open", "read", "create", "write", "close", "rename", "delete")
PASSING = (
    lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    lambda: ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
    lambda: TimeoutError("timed out"),
)


class Faults:
    """What goes wrong, by lot.

    Args:
      seed: of the lots.
      probability: of a fault in each operation.
      chosen: asked with operation and path before each; may raise or wait.
    """

    def __init__(
        self,
        seed: int = 0,
        probability: float = 0.0,
        chosen: Callable[[str, str], None] = lambda operation, path: None,
    ):
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._probability, self._chosen = probability, chosen
        self.hit: Counter[str] = Counter()

    def before(self, operation: str, path: str) -> None:
        """Comes before an operation: raises, is slow, or does nothing."""
        self._chosen(operation, path)
        if kind := self._lot(operation, "raises", "is slow"):
            if kind == "is slow":
                time.sleep(0.005)
            else:
                raise self._random.choice(PASSING)()

    def after(self, operation: str, path: str) -> None:
        """Comes after an operation that was done: its answer is lost, or not."""
        if self._lot(f"{operation}, done", "raises"):
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def cut(self, operation: str, data: bytes) -> bytes:
        """The data, or a part of it that may be nothing."""
        return data[: len(data) // self._random.randint(2, 9)] if self._lot(operation, "cut short") else data

    def _lot(self, operation: str, *kinds: str) -> str:
        with self._lock:
            if self._random.random() >= self._probability:
                return ""
            kind = self._random.choice(kinds)
            self.hit[f"{operation} {kind}"] += 1
            return kind


class FaultyFileSystem(FileSystem):
    faults = Faults()

    @classmethod
    def scheme(cls):
        return "faulty"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return os.path.split(path)

    def mkdirs(self, path):
        os.makedirs(local(path))

    def has_dirs(self):
        return True

    def _list(self, dir_or_prefix) -> Iterator[FileMetadata]:
        self.faults.before("list", dir_or_prefix)
        for folder, _, names in os.walk(local(dir_or_prefix)):
            for name in names:
                path = os.path.join(folder, name)
                yield FileMetadata(f"faulty://{path}", os.path.getsize(path), os.path.getmtime(path))

    def create(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        self.faults.before("create", path)
        os.makedirs(os.path.dirname(local(path)), exist_ok=True)
        return Stream(path, "wb", self.faults)

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        self.faults.before("open", path)
        return Stream(path, "rb", self.faults)

    def copy(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            shutil.copyfile(local(source), local(target))

    def rename(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            try:
                self.faults.before("rename", target)
                os.rename(local(source), local(target))
                self.faults.after("rename", target)
            except OSError as error:
                raise BeamIOError("Rename operation failed", {(source, target): error}) from error

    def exists(self, path):
        self.faults.before("exists", path)
        return os.path.exists(local(path))

    def size(self, path):
        return os.path.getsize(local(path))

    def last_updated(self, path):
        return os.path.getmtime(local(path))

    def checksum(self, path):
        return str(os.path.getsize(local(path)))

    def metadata(self, path):
        self.faults.before("list", path)
        status = os.stat(local(path))
        return FileMetadata(path, status.st_size, status.st_mtime)

    def delete(self, paths):
        for path in paths:
            try:
                self.faults.before("delete", path)
                os.remove(local(path))
                self.faults.after("delete", path)
            except OSError as error:
                raise BeamIOError("Delete operation failed", {path: error}) from error


class Stream:
    """An open file; reads and writes raise or do a part of what was asked."""

    def __init__(self, path: str, mode: str, faults: Faults):
        self._path, self._faults = path, faults
        self._file = open(local(path), mode)  # noqa: SIM115

    def read(self, count: int = -1) -> bytes:
        self._faults.before("read", self._path)
        return self._faults.cut("read", self._file.read(count))

    def write(self, data) -> int:
        self._faults.before("write", self._path)
        self._file.write(self._faults.cut("write", bytes(data)))
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self._faults.before("close", self._path)


def local(path: str) -> str:
    return path.removeprefix("faulty://")
