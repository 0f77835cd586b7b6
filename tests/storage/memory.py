"""A store in this process's memory: the minimum that a new store must implement."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from apache_beam.io.filesystem import FileMetadata, FileSystem

from transforms.storage.errors import Fault
from transforms.storage.sink import Sink


class MemoryStore:
    schemes = ("memory",)
    atomic_uploads = True
    parallel_reads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failures: Iterator[Exception] = iter(())  # the next reads raise these
        self.reads = 0
        self._lock = threading.Lock()

    def connect(self) -> None:
        pass

    def endpoint(self, options) -> str:
        return ""

    def is_configured(self, options) -> bool:
        return False

    def adopt(self, url: str, options) -> None:
        pass

    def fault(self, error: Any) -> Fault | None:
        if isinstance(error, Forgetful):
            return Fault("http_5xx", "memory fails", transient=True)
        return Fault("not_found", "never heard of it") if isinstance(error, KeyError) else None

    def explain(self, path: str, error: BaseException) -> str:
        return f"memory has no {path}"

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        expression = re.compile(FileSystem.translate_pattern(pattern))
        names = [name for name in self.files if expression.match(name)]
        return [FileMetadata(name, len(self.files[name]), 1.0) for name in names], ""

    def exists(self, path: str) -> bool:
        return path in self.files

    def checksum(self, path: str) -> str:
        return str(hash(self.files[path]))

    def read(self, path: str, into: Sink) -> None:
        self.reads += 1
        for error in self.failures:
            raise error
        into.expect(len(self.files[path]))
        into.write(self.files[path])

    def open(self, path: str) -> MemoryFile:
        return MemoryFile(self.files[path])

    def create_only(self, path: str, data: bytes) -> bool:
        with self._lock:
            return self.files.setdefault(path, data) is data

    def upload(self, path: str, file: IO[bytes]) -> None:
        file.seek(0)
        self.files[path] = file.read()

    def place(self, source: str, target: str) -> bool:
        if source in self.files:
            self.files[target] = self.files[source]
        return source in self.files

    def delete(self, path: str) -> None:
        self.files.pop(path, None)


class MemoryFile:
    version = "1"

    def __init__(self, data: bytes):
        self._data, self.size = data, len(data)

    def read_at(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def close(self) -> None:
        pass


class Forgetful(Exception):
    pass
