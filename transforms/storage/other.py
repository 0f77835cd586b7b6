"""Any file system that Beam supports, as a store: a file gets its name only once it is complete."""

from __future__ import annotations

import contextlib
import io
import shutil
import uuid
from collections.abc import Callable
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import CutShort, Fault, cause_of, plain_fault
from transforms.storage.sink import Sink

_READ_BYTES = 64 << 10  # per read: each read counts as progress


class OtherStore:
    """A store through FileSystems only. Of two callers that create the same file, both may succeed."""

    atomic_uploads = False
    parallel_reads = False

    @property
    def schemes(self) -> tuple[str, ...]:
        """Those of the file systems that Beam has here."""
        return tuple(system.scheme() for system in FileSystem.get_all_subclasses() if system.scheme())

    def connect(self) -> None:
        """Does nothing: Beam connects for each operation."""

    def endpoint(self, options: PipelineOptions) -> str:
        """'': not known."""
        return ""

    def is_configured(self, options: PipelineOptions) -> bool:
        """False: Beam's options are all that is known."""
        return False

    def adopt(self, url: str, options: PipelineOptions) -> None:
        """Does nothing."""

    def fault(self, error: Any) -> Fault | None:
        """None: nothing is known of its client."""
        return None

    def explain(self, path: str, error: BaseException) -> str:
        """Beam's own message."""
        return str(error)

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        """All in one page; empty also if the folder or bucket does not exist."""
        try:
            return list(FileSystems.match([pattern])[0].metadata_list), ""
        except BeamIOError as error:
            fault = plain_fault(cause_of(error))
            if fault and fault.code == "not_found":
                return [], ""
            raise

    def exists(self, path: str) -> bool:
        """As Beam reports it."""
        return FileSystems.exists(path)

    def checksum(self, path: str) -> str:
        """As Beam reports it."""
        return str(FileSystems.checksum(path))

    def read(self, path: str, into: Sink) -> None:
        """Checked against the size only. Raises Fault or CutShort."""
        try:
            FileSystems.get_filesystem(path)
        except ValueError:
            raise Fault("scheme_not_allowed", "Beam has no file system for this scheme here") from None
        with contextlib.closing(self.open(path)) as file:
            into.expect(file.size)
            at = 0
            while at < file.size and (part := file.read_at(at, min(_READ_BYTES, file.size - at))):
                into.write(part)
                at += len(part)
            if at != file.size:
                raise CutShort(f"{at} of its {file.size} bytes came")

    def open(self, path: str) -> OtherFile:
        """Two requests: status and content."""
        return OtherFile(path)

    def create_only(self, path: str, data: bytes) -> bool:
        """Not atomic: the name is only checked just before."""
        if self.exists(path):
            return False
        self.upload(path, io.BytesIO(data))
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Under a temporary name, whose size is checked before it is renamed."""
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            file.seek(0)
            stream = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
            try:
                shutil.copyfileobj(file, stream, 1 << 20)
            finally:
                stream.close()
            kept = sum(part.size_in_bytes for part in self.match(temporary)[0])
            if kept != file.tell():
                raise CutShort(f"{kept} of {file.tell()} bytes were kept")
            self.place(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.delete(temporary)
            raise

    def place(self, source: str, target: str) -> bool:
        """A rename; where the file system does not replace files, the target is deleted first."""
        try:
            FileSystems.rename([source], [target])
        except BeamIOError:
            if not FileSystems.exists(source):
                return False
            if not FileSystems.exists(target):
                raise
            FileSystems.delete([target])  # some file systems do not rename over a file
            FileSystems.rename([source], [target])
        return True

    def delete(self, path: str) -> None:
        """Deletes a file, if it exists."""
        try:
            FileSystems.delete([path])
        except BeamIOError:
            if FileSystems.exists(path):
                raise


class OtherFile:
    """A file opened for reading; `version` is its time of modification."""

    def __init__(self, path: str):
        try:  # not by `match`, as image names may contain glob characters
            status = FileSystems.get_filesystem(path).metadata(path)
        except BeamIOError as error:  # file systems report a missing file in different ways
            if FileSystems.exists(path):
                raise
            raise FileNotFoundError(2, "No such file", path) from error
        self.size, self.version = status.size_in_bytes, str(status.last_updated_in_seconds)
        self._stream = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        self._at = 0

    def read_at(self, offset: int, count: int) -> bytes:
        """Seeks only if the last read did not end at `offset`."""
        if offset != self._at:
            self._stream.seek(offset)
            self._at = offset
        data = self._stream.read(count)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Closes Beam's stream."""
        self._stream.close()


OTHER = OtherStore()
