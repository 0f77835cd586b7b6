"""Local disks as a store; writes are durable, past the system's cache."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import globs
from transforms.storage.errors import CutShort, Fault
from transforms.storage.sink import Sink

_READ_BYTES = 64 << 10  # small enough for the allocator to reuse memory
_FOLDER_TRIES = 100
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")


def local(path: str) -> str:
    """The path of a file:// URI; other paths unchanged."""
    return path[len("file://") :] if path[:7].lower() == "file://" else path


def is_temporary(path: str) -> bool:
    """Whether a name is that of a small file before it is renamed."""
    return bool(_TEMPORARY.search(path))


class Disk:
    """The store of local paths and file:// URIs. Thread-safe."""

    schemes: tuple[str, ...] = ("file",)
    atomic_uploads = False  # an upload that was killed leaves a temporary file
    parallel_reads = False  # the system reads ahead

    def connect(self) -> None:
        """Does nothing."""

    def endpoint(self, options: PipelineOptions) -> str:
        """'': no network."""
        return ""

    def is_configured(self, options: PipelineOptions) -> bool:
        """False."""
        return False

    def adopt(self, url: str, options: PipelineOptions) -> None:
        """Does nothing."""

    def fault(self, error: Any) -> Fault | None:
        """Another host may well have a file that is missing here; `plain_fault` knows the system's other errors."""
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return Fault("not_found", "there is no such file on this worker")
        return None

    def explain(self, path: str, error: BaseException) -> str:
        """The system's own message."""
        return str(error)

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        """All in one page, by Beam's rules for globs. Raises BeamIOError if a folder cannot be listed."""
        name = None if pattern.endswith("/") else globs.literal(local(pattern))
        if name is not None:
            return _file(name), ""
        if folder := globs.folder(local(pattern)):  # Beam would list all from the first escape on
            matches = globs.regex(local(pattern)).match
            return list(_list(folder, beat, matches)), ""
        listing = LocalFileSystem(_NO_OPTIONS)  # not a subclass: Beam would find two for one scheme
        files = local(pattern) + "*" * pattern.endswith(("/", "\\"))  # as Beam has it
        list_matching = functools.partial(
            _list,
            beat=beat,
            below=globs.may_cross_folders(files),
            matches=re.compile(listing.translate_pattern(files)).match,  # before a file is looked at
        )
        listing._list = list_matching  # type: ignore[method-assign]
        return listing.match([files])[0].metadata_list, ""

    def exists(self, path: str) -> bool:
        """Also true of a folder."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(local(path))
            return True
        return False

    def checksum(self, path: str) -> str:
        """The size: a disk keeps no checksum."""
        return str(os.path.getsize(local(path)))

    def read(self, path: str, into: Sink) -> None:
        """Raises Fault 'not_a_file' for anything but a regular file, so it never waits for a pipe or a device."""
        path = local(path)
        # Checked before opening, as opening alone can act on a device; and after, as the name may have moved.
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
        """Raises OSError if there is no such file."""
        return DiskFile(path)

    def create_only(self, path: str, data: bytes) -> bool:
        """Atomic, by a hard link; on a disk without hard links the name is only checked just before."""
        temporary = write_temporary(path, data)
        try:
            os.link(temporary, local(path))
        except FileExistsError:
            return False
        except OSError:
            if self.exists(path):
                return False
            os.replace(temporary, local(path))
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
            _make_names_durable(os.path.dirname(local(path)))
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Reads `file` into memory: only small files are written this way."""
        while True:
            file.seek(0)
            temporary = write_temporary(path, file.read())
            try:
                os.replace(temporary, local(path))
                break
            except FileNotFoundError:  # another run has ended and deleted temporary files
                if os.path.exists(temporary):
                    raise
        _make_names_durable(os.path.dirname(local(path)))

    def place(self, source: str, target: str) -> bool:
        """A rename; `source` is gone afterwards."""
        try:
            os.replace(local(source), local(target))
        except FileNotFoundError:
            return False
        _make_names_durable(os.path.dirname(local(target)))
        return True

    def delete(self, path: str) -> None:
        """Deletes a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(local(path))


class DiskFile:
    """A file opened for reading; `version` is its inode and time of modification."""

    def __init__(self, path: str):
        _check_regular(os.stat(local(path)))
        self._file = open(local(path), "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(self._file.fileno())
        self.size, self.version = status.st_size, f"{status.st_ino} {status.st_mtime_ns}"

    def read_at(self, offset: int, count: int) -> bytes:
        """One system call, which may return fewer bytes."""
        return os.pread(self._file.fileno(), count, offset)

    def close(self) -> None:
        """Closes the descriptor."""
        self._file.close()


class DiskOutput:
    """A file opened for writing; missing parent folders are created."""

    def __init__(self, path: str):
        self._path = local(path)
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        for tries in itertools.count(1):
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            try:
                self._fd = os.open(self._path, flags, 0o666)
                return
            except FileNotFoundError:  # another run has ended and deleted the folder
                if tries == _FOLDER_TRIES:  # or the name is a link to nowhere, or no file can be made there
                    raise

    def write_at(self, offset: int, data: bytes | memoryview) -> int:
        """Writes at `offset`; returns how many of the bytes were written."""
        return os.pwrite(self._fd, data, offset)

    def make_durable(self, size: int) -> None:
        """Forces the bytes to the disk. Raises CutShort if the file does not have `size` bytes."""
        os.fsync(self._fd)
        if os.fstat(self._fd).st_size != size:
            raise CutShort(f"{self._path} does not have the {size} bytes that were written")

    def close(self) -> None:
        """Closes the descriptor, once; only `make_durable` makes the bytes durable."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)


def _check(status: os.stat_result, into: Sink) -> int:
    """The size of the file. Raises Fault if it is not a regular file or too large for the sink."""
    _check_regular(status)
    into.expect(status.st_size)
    return status.st_size


def _check_regular(status: os.stat_result) -> None:
    """Raises Fault for what may have no end, or never begin."""
    if not stat.S_ISREG(status.st_mode):
        raise Fault("not_a_file", "a folder, pipe, socket or device, not a regular file")


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


# What SMB, VirtualBox's shares and some others answer who are asked to sync a folder.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def _make_names_durable(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _file(path: str) -> list[FileMetadata]:
    """The file of this very name, if there is one that is no folder."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise
    return [] if stat.S_ISDIR(status.st_mode) else [FileMetadata(path, status.st_size, status.st_mtime)]


def _list(
    folder: str, beat: Callable[[], object], matches: Callable[[str], object], below: bool = True
) -> Iterator[FileMetadata]:
    """The files of a folder, and of those `below` it, whose paths match; calls `beat` for each file. Looks at no others.

    Raises BeamIOError where Beam's own listing silently omits what it cannot read.
    """

    def check(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            raise BeamIOError("List operation failed", {folder: error})

    for parent, folders, names in os.walk(folder, onerror=check):
        if not below:
            folders.clear()
        for name in names:
            beat()
            path = os.path.join(parent, name)
            if not matches(path):
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a broken link
                status = os.stat(path)
                yield FileMetadata(path, status.st_size, status.st_mtime)


_NO_OPTIONS = PipelineOptions([])
DISK = Disk()
