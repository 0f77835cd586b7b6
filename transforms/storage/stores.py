"""What every kind of store can do, and which there are: a new one is a file beside this one, and a line here."""

from __future__ import annotations

import re
from typing import IO, Any, Protocol

from apache_beam.io.filesystem import FileMetadata
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.disk import DISK
from transforms.storage.errors import Fault, layers, plain_fault
from transforms.storage.gcs import GCS
from transforms.storage.other import OTHER
from transforms.storage.s3 import S3
from transforms.storage.sink import Sink

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Opened(Protocol):
    """A file of a store, opened for reading."""

    size: int
    version: str  # another one means another content

    def read_at(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


class Store(Protocol):
    """What every kind of store can do. Thread-safe; one object per process.

    Each operation on files is one try, and safe to repeat, also when only its answer was lost.
    """

    schemes: tuple[str, ...]
    whole_uploads: bool  # nothing of an upload is seen before all of it is there

    def connect(self) -> None:
        """Makes the client, where there is none yet: the search for credentials can take long."""

    def endpoint(self, options: PipelineOptions) -> str:
        """The URL that the client talks to, for the launcher to see whether it answers; '' where it cannot be told."""

    def fault(self, error: Any) -> Fault | None:
        """What an error of the client, or the status of an answer, means; None for what is not particular to the store."""

    def explain(self, path: str, error: BaseException) -> str:
        """One sentence to the user on why what was asked with `path` was not done, and what to do about it."""

    def match(self, pattern: str) -> list[FileMetadata]:
        """The files that a pattern matches."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def checksum(self, path: str) -> str:
        """What the store keeps to tell contents apart, as Beam gives it."""

    def read(self, path: str, into: Sink) -> None:
        """Writes a whole file, checked against its checksum where the store keeps one; raises if there is none."""

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


STORES: tuple[Store, ...] = (DISK, GCS, S3)
SCHEMES = tuple(scheme for store in STORES for scheme in store.schemes)
_BY_SCHEME = {scheme: store for store in STORES for scheme in store.schemes}


def store_of(path: str) -> Store:
    """The store of a path or URI; where it is none of STORES, whatever Beam's file systems make of it."""
    match = _SCHEME.match(path)
    return _BY_SCHEME.get(match[1].lower(), OTHER) if match else DISK


def is_local(path: str) -> bool:
    """Whether a path is on a disk of this machine."""
    return store_of(path) is DISK


def fault_of(path: str, error: Exception) -> Fault | None:
    """What an error of an operation on `path` means; None if it is no error of storage, but a mistake."""
    store = store_of(path)
    for layer in layers(error):
        fault = layer if isinstance(layer, Fault) else store.fault(layer)
        if fault:
            return fault
    return plain_fault(layer)
