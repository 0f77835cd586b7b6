"""Any file system that Beam knows, as a store: a file gets its name only when all of its bytes are there."""

from __future__ import annotations

import contextlib
import io
import shutil
import uuid
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import CutShort, Fault, means_missing
from transforms.storage.sink import Sink

_READ_BYTES = 64 << 10  # how much may come without a sign of progress


def listed(pattern: str) -> list[FileMetadata]:
    """What Beam finds."""
    return list(FileSystems.match([pattern])[0].metadata_list)


def matched(pattern: str) -> list[FileMetadata]:
    """What Beam finds; empty where it says that there is nothing."""
    try:
        return listed(pattern)
    except BeamIOError as error:
        if means_missing(error):
            return []
        raise


def stored_checksum(path: str) -> str:
    """What Beam gives as a file's checksum."""
    return str(FileSystems.checksum(path))


class OtherStore:
    """A store through FileSystems alone. It cannot promise that of two who create a file only one succeeds."""

    schemes: tuple[str, ...] = ()
    whole_uploads = False

    def connect(self) -> None:
        """Beam connects anew for each operation."""

    def endpoint(self, options: PipelineOptions) -> str:
        return ""

    def fault(self, error: Any) -> Fault | None:
        return None

    def explain(self, path: str, error: BaseException) -> str:
        return str(error)

    def match(self, pattern: str) -> list[FileMetadata]:
        return matched(pattern)

    def exists(self, path: str) -> bool:
        return FileSystems.exists(path)

    def checksum(self, path: str) -> str:
        return stored_checksum(path)

    def read(self, path: str, into: Sink) -> None:
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
        return OtherFile(path)

    def create_only(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.upload(path, io.BytesIO(data))
        return True

    def upload(self, path: str, file: IO[bytes]) -> None:
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            file.seek(0)
            stream = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
            try:
                shutil.copyfileobj(file, stream, 1 << 20)
            finally:
                stream.close()
            kept = sum(part.size_in_bytes for part in matched(temporary))
            if kept != file.tell():
                raise CutShort(f"{kept} of {file.tell()} bytes were kept")
            self.place(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.delete(temporary)
            raise

    def place(self, source: str, target: str) -> bool:
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
        try:
            FileSystems.delete([path])
        except BeamIOError:
            if FileSystems.exists(path):
                raise


class OtherFile:
    """A file opened for reading."""

    def __init__(self, path: str):
        status = _status(path)
        self.size, self.version = status.size_in_bytes, str(status.last_updated_in_seconds)
        self._stream = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        self._at = 0

    def read_at(self, offset: int, count: int) -> bytes:
        if offset != self._at:
            self._stream.seek(offset)
            self._at = offset
        data = self._stream.read(count)
        self._at += len(data)
        return data

    def close(self) -> None:
        self._stream.close()


def _status(path: str) -> FileMetadata:
    """A file's size and time: not by `match`, as names of images hold brackets and stars."""
    try:
        return FileSystems.get_filesystem(path).metadata(path)
    except BeamIOError as error:  # some file systems say of no file in words of their own that there is none
        if FileSystems.exists(path):
            raise
        raise FileNotFoundError(2, "No such file", path) from error


OTHER = OtherStore()
