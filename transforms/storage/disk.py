"""Files on local disks, as a store: what is promised of a commit, down to the disk's own cache."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import CutShort, Fault
from transforms.storage.sink import Sink

_READ_BYTES = 64 << 10  # memory that the allocator has at hand
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")


def local(path: str) -> str:
    """The path of a file:// URI; other paths as they are."""
    return path[len("file://") :] if path[:7].lower() == "file://" else path


def is_temporary(path: str) -> bool:
    """Whether a file's name is one that small files have before they are renamed."""
    return bool(_TEMPORARY.search(path))


class Disk:
    """The store of paths without a scheme. Thread-safe."""

    schemes: tuple[str, ...] = ("file",)
    whole_uploads = False  # what was begun and never ended leaves a file

    def connect(self) -> None:
        """There is nothing to connect to."""

    def endpoint(self, options: PipelineOptions) -> str:
        return ""

    def fault(self, error: Any) -> Fault | None:
        return None

    def explain(self, path: str, error: BaseException) -> str:
        return str(error)

    def match(self, pattern: str) -> list[FileMetadata]:
        found = _listing.match([local(pattern)])[0].metadata_list
        return [file for file in found if not os.path.isdir(local(file.path))]

    def exists(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(local(path))
            return True
        return False

    def checksum(self, path: str) -> str:
        return str(os.path.getsize(local(path)))

    def read(self, path: str, into: Sink) -> None:
        """Never waits on a pipe or a device: refuses what is no regular file."""
        path = local(path)
        # Asked before opening, as opening alone can act on a device; and after, as names can move.
        _check(os.stat(path), into)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            count = _check(os.fstat(descriptor), into) + 1  # one more, as it may grow
            while part := os.read(descriptor, count):
                into.write(part)
                count = _READ_BYTES
        finally:
            os.close(descriptor)

    def open(self, path: str) -> DiskFile:
        return DiskFile(path)

    def create_only(self, path: str, data: bytes) -> bool:
        """Atomic by a hard link; where the disk has none, the name is looked up just before."""
        temporary = write_temporary(path, data)
        try:
            os.link(temporary, local(path))
        except FileExistsError:
            return False
        except OSError:
            if self.exists(path):
                return False
            os.replace(temporary, local(path))
        else:
            return True
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
            _make_names_durable(os.path.dirname(local(path)))
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        while True:
            file.seek(0)
            temporary = write_temporary(path, file.read())
            try:
                os.replace(temporary, local(path))
                break
            except FileNotFoundError:  # another run that ended has swept the folder
                if os.path.exists(temporary):
                    raise
        _make_names_durable(os.path.dirname(local(path)))

    def place(self, source: str, target: str) -> bool:
        try:
            os.replace(local(source), local(target))
        except FileNotFoundError:
            return False
        _make_names_durable(os.path.dirname(local(target)))
        return True

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(local(path))


class DiskFile:
    """A file opened for reading."""

    def __init__(self, path: str):
        self._file = open(local(path), "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(self._file.fileno())
        self.size, self.version = status.st_size, f"{status.st_ino} {status.st_mtime_ns}"

    def read_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, offset)

    def close(self) -> None:
        self._file.close()


class DiskOutput:
    """A file opened for writing; folders above it are made."""

    def __init__(self, path: str):
        self._path = local(path)
        self._fd = -1
        while self._fd < 0:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another run that ended has swept the folder
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o666)

    def fileno(self) -> int:
        return self._fd

    def write_at(self, offset: int, data: bytes) -> int:
        """Returns how many of the bytes were written."""
        return os.pwrite(self._fd, data, offset)

    def make_durable(self, size: int) -> None:
        """Forces the bytes to the disk; raises if there are not `size` of them."""
        os.fsync(self._fd)
        if os.fstat(self._fd).st_size != size:
            raise CutShort(f"{self._path} does not have the {size} bytes that were written")

    def close(self) -> None:
        os.close(self._fd)


def _check(status: os.stat_result, into: Sink) -> int:
    """The size of a regular file that fits; raises Fault for another."""
    if not stat.S_ISREG(status.st_mode):
        raise Fault("not_a_file", "a folder, pipe, socket or device, not a regular file")
    into.expect(status.st_size)
    return status.st_size


def write_temporary(path: str, data: bytes) -> str:
    """Writes a small file beside `path`, durably; returns its name."""
    temporary = f"{local(path)}.{uuid.uuid4().hex}.tmp"
    os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _make_names_durable(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list(folder: str) -> Iterator[FileMetadata]:
    """All files below a folder. Beam's own listing leaves out without a word what it cannot look at."""

    def tell(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            raise BeamIOError("List operation failed", {folder: error})

    for below, _, names in os.walk(folder, onerror=tell):
        for name in names:
            path = os.path.join(below, name)
            with contextlib.suppress(FileNotFoundError):  # gone since, or a link to nothing
                status = os.stat(path)
                yield FileMetadata(path, status.st_size, status.st_mtime)


_listing = LocalFileSystem(PipelineOptions([]))  # not a subclass: Beam would find two for one scheme
_listing._list = _list  # type: ignore[method-assign]
DISK = Disk()
