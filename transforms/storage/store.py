"""What every kind of store can do."""

from __future__ import annotations

from typing import IO, Protocol

from apache_beam.io.filesystem import FileMetadata

from transforms.storage.reading import Opened


class Store(Protocol):
    """What every kind of store can do; each call is safe to repeat, also when only its answer was lost."""

    whole_uploads: bool  # nothing of an upload is seen before all of it is there

    def match(self, pattern: str) -> list[FileMetadata]:
        """The files that a pattern matches."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None if there is none."""

    def open(self, path: str) -> Opened:
        """Opens a file for reading; raises if there is none."""

    def create_only(self, path: str, data: bytes) -> bool:
        """Writes a file if there is none of this name; whether it did. Atomic, where the store can."""

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Writes a file from the start of `file`, over an older one. Atomic."""

    def place(self, source: str, target: str) -> bool:
        """Gives a file another name, over an older file; False if there is no `source`. Atomic."""

    def delete(self, path: str) -> None:
        """Deletes a file; one that is gone already is no error."""
