"""The interface of a store, and all kinds of store: a new one is a module beside this one and a line here."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    """A file of a store, opened for reading; `size` is in bytes."""

    size: int
    version: str  # differs if the content does

    def read_at(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset` on, which lies within the file; b"" if the file has become shorter."""

    def close(self) -> None:
        """Releases what is open; not called twice."""


class Store(Protocol):
    """A kind of store. Thread-safe; one object per process.

    Each operation on files is a single try, and safe to repeat, also if only its answer was lost.
    """

    atomic_uploads: bool  # an upload becomes visible only once it is complete
    parallel_reads: bool  # `read_at` of one opened file is thread-safe, and faster in parallel

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of its URIs, in lower case."""

    def connect(self) -> None:
        """Creates the client, if there is none yet: the search for credentials can take seconds."""

    def endpoint(self, options: PipelineOptions) -> str:
        """The URL of the store, for the launcher to check that it answers; '' if it is not known."""

    def is_configured(self, options: PipelineOptions) -> bool:
        """Whether flags or environment may name another address than the store's own, as far as is known without a search."""

    def adopt(self, url: str, options: PipelineOptions) -> None:
        """Uses the store at the launcher's `endpoint`. Raises StorageFailed if this process has been told to use another."""

    def fault(self, error: Any) -> Fault | None:
        """The meaning of an error of the client or of an HTTP status; None if it is not specific to the store."""

    def explain(self, path: str, error: BaseException) -> str:
        """One sentence for the user on why an operation on `path` failed, and what to do about it."""

    def match(
        self, pattern: str, page: str = "", beat: Callable[[], object] = bool
    ) -> tuple[list[FileMetadata], str]:
        """One page of the files that a pattern matches, and the name of the next page; "" if there is none.

        A page that takes long calls `beat` meanwhile.
        """

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def checksum(self, path: str) -> str:
        """The store's own checksum of a file, as Beam reports it."""

    def read(self, path: str, into: Sink) -> None:
        """Writes a complete file to `into`, checked against its stored checksum if there is one; raises if there is no file."""

    def open(self, path: str) -> Opened:
        """Opens a file for reading; raises if there is none."""

    def create_only(self, path: str, data: bytes) -> bool:
        """Writes a file if there is none of this name; returns whether it did. Atomic, where the store supports that."""

    def upload(self, path: str, file: IO[bytes]) -> None:
        """Writes a file from the start of `file`, replacing an older one. Atomic."""

    def place(self, source: str, target: str) -> bool:
        """Gives a file another name, replacing an older file; False if there is no `source`. Atomic."""

    def delete(self, path: str) -> None:
        """Deletes a file; a missing one is not an error."""


STORES: tuple[Store, ...] = (DISK, GCS, S3)
SCHEMES = tuple(scheme for store in STORES for scheme in store.schemes)
_BY_SCHEME = {scheme: store for store in STORES for scheme in store.schemes}


def store_of(path: str) -> Store:
    """The store of a path or URI; OTHER if its scheme is of none of STORES."""
    match = _SCHEME.match(path)
    return _BY_SCHEME.get(match[1].lower(), OTHER) if match else DISK


def is_local(path: str) -> bool:
    """Whether a path is on a disk of this machine."""
    return store_of(path) is DISK


def fault_of(path: str, error: Exception) -> Fault | None:
    """The meaning of an error of an operation on `path`; None if it is not an error of storage, but a bug."""
    store = store_of(path)
    for layer in layers(error):
        fault = layer if isinstance(layer, Fault) else store.fault(layer)
        if fault:
            return fault
    return plain_fault(layer)
