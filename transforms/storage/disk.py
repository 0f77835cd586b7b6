"""Files on local disks, as a store: what is promised of a commit, down to the disk's own cache."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Iterator
from typing import IO

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import retrying
from transforms.storage.errors import CutShort

_BLOCK_BYTES = 1 << 20


def local(path: str) -> str:
    """The path of a file:// URI; other paths as they are."""
    return path[len("file://") :] if path.startswith("file://") else path


class Disk:
    """The store of paths without a scheme. Thread-safe."""

    whole_uploads = False  # what was begun and never ended leaves a file

    def match(self, pattern: str) -> list[FileMetadata]:
        found = _listing.match([local(pattern)])[0].metadata_list
        return [file for file in found if not os.path.isdir(local(file.path))]

    def exists(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(local(path))
            return True
        return False

    def read(self, path: str) -> bytes | None:
        try:
            with open(local(path), "rb") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

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


class DiskWriter(io.RawIOBase):
    """A file written from its start; a write that failed or was cut is taken up where it stopped."""

    def __init__(self, path: str):
        self._path = local(path)
        self._at = 0
        self._fd = retrying.call("creating", path, self._create)

    def _create(self) -> int:
        while True:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another run that ended has swept the folder
                return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data) -> int:
        block = bytes(data)
        written = retrying.call("writing", self._path, lambda: os.pwrite(self._fd, block, self._at))
        self._at += written
        return written

    def make_durable(self) -> None:
        """Forces the bytes to the disk. Not tried again: after an error the system takes lost pages for written."""
        os.fsync(self._fd)
        if os.fstat(self._fd).st_size != self._at:
            raise CutShort(f"{self._path} does not have the {self._at} bytes that were written")

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


def writer(path: str) -> io.BufferedWriter:
    return io.BufferedWriter(DiskWriter(path), _BLOCK_BYTES)


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
