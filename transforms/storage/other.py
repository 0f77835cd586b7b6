"""Any file system that Beam knows, as a store: a file gets its name only when all of its bytes are there."""

from __future__ import annotations

import contextlib
import io
import shutil
import uuid
from typing import IO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.storage.errors import CutShort, means_missing


def matched(pattern: str) -> list[FileMetadata]:
    """What Beam finds; empty where there is nothing."""
    try:
        return list(FileSystems.match([pattern])[0].metadata_list)
    except BeamIOError as error:
        if FileSystems.get_scheme(pattern) != "gs" and means_missing(error):
            return []
        raise


class OtherStore:
    """A store through FileSystems alone. It cannot promise that of two who create a file only one succeeds."""

    whole_uploads = False

    def match(self, pattern: str) -> list[FileMetadata]:
        return matched(pattern)

    def exists(self, path: str) -> bool:
        return FileSystems.exists(path)

    def read(self, path: str) -> bytes | None:
        try:
            file = self.open(path)
            try:
                data = file.read_at(0, file.size) if file.size else b""
                if len(data) != file.size:
                    raise CutShort(f"{len(data)} of its {file.size} bytes came")
                return data
            finally:
                file.close()
        except (FileNotFoundError, BeamIOError) as error:
            if means_missing(error):
                return None
            raise

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
            kept = sum(found.size_in_bytes for found in matched(temporary))
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
        found = matched(path)
        if len(found) != 1:
            raise FileNotFoundError(2, "No such file", path)
        self.size = found[0].size_in_bytes
        self.version = str(found[0].last_updated_in_seconds)
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


OTHER = OtherStore()
