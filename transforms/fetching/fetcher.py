"""The bytes of an image from its URI: local files, object stores and the open internet behind one call."""

from __future__ import annotations

import logging
import os
import stat
import threading
from urllib.parse import unquote, urlsplit

from transforms.errors import ItemError
from transforms.fetching.hosts import wait_or_stop
from transforms.fetching.http import HttpClient
from transforms.fetching.retries import Deadline, with_retries
from transforms.fetching.settings import FetchSettings
from transforms.fetching.stores import GcsReader, S3Reader, read_with_beam
from transforms.fetching.uris import scheme_of


class Fetcher:
    """Fetches images; thread-safe, made once a worker process and closed in the end.

    Clients are made when their scheme first comes up. Messages hold no credentials and no signed queries.
    """

    def __init__(self, settings: FetchSettings):
        # urllib3 (under requests and our own client) warns once an image, and quotes whole URLs.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._settings = settings
        self._closed = threading.Event()
        self._http = HttpClient(settings, self._closed)
        self._stores: dict[str, GcsReader | S3Reader] = {}
        self._making = threading.Lock()

    def fetch(self, uri: str) -> bytes:
        """The encoded image.

        Raises:
          ItemError: with a code of docs/fetching.md.
          RuntimeError: the fetcher was closed; not the image's fault.
        """
        wait_or_stop(0, self._closed)
        scheme = scheme_of(uri)
        if scheme not in self._settings.uri_schemes:
            allowed = ", ".join(self._settings.uri_schemes)
            raise ItemError("scheme_not_allowed", f"{scheme}: is not among the allowed schemes ({allowed})")
        if scheme in ("http", "https"):
            return self._http.get(uri)
        if scheme == "file":
            return read_local(_local_path(uri), self._settings.max_bytes)

        store = self._store(scheme)
        deadline = Deadline(self._settings.timeout_seconds)

        def attempt() -> bytes:
            if store is None:
                return read_with_beam(uri, self._settings.max_bytes, deadline)
            return store.read(uri, deadline)

        return with_retries(
            attempt, self._settings, deadline, lambda seconds: wait_or_stop(seconds, self._closed)
        )

    def close(self) -> None:
        """Ends waits and connections; fetches still in progress raise."""
        self._closed.set()
        self._http.close()
        for store in self._stores.values():
            store.close()

    def _store(self, scheme: str) -> GcsReader | S3Reader | None:
        if scheme not in ("gs", "s3"):
            return None
        with self._making:  # the search for credentials can take long: once, and in no image's time
            if scheme not in self._stores:
                self._stores[scheme] = (
                    GcsReader(self._settings) if scheme == "gs" else S3Reader(self._settings)
                )
            return self._stores[scheme]


def read_local(path: str, max_bytes: int) -> bytes:
    """A regular file's bytes. Raises ItemError; never waits on a pipe or device."""
    try:
        # Asked before opening, as opening alone can act on a device; and after, as names can move.
        _check_regular(os.stat(path), max_bytes)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(os.fstat(descriptor), max_bytes)
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ItemError("not_found", "there is no such file on this worker") from None
    except PermissionError:
        raise ItemError("forbidden", "this worker may not read the file") from None
    except (ValueError, UnicodeError):
        raise ItemError("bad_uri", "not a path this system can hold") from None
    except OSError as error:
        raise ItemError("read_error", f"reading the file failed: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ItemError("too_large", f"the file grew past max_bytes={max_bytes}")
    return data


def _check_regular(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ItemError("not_a_file", "a folder, pipe, socket or device, not a regular file")
    if status.st_size > max_bytes:
        raise ItemError("too_large", f"the file has {status.st_size} bytes, above max_bytes={max_bytes}")


def _local_path(uri: str) -> str:
    if uri.lstrip()[:5].lower() != "file:":
        return uri
    parts = urlsplit(uri.strip())
    if parts.netloc not in ("", "localhost"):
        raise ItemError("bad_uri", "a file: URI names a path on this machine: file:///PATH")
    # '?' and '#' in a file: URI are as good as in a path; quoting them is what a careful writer would do.
    tail = uri.strip()[5:]
    return unquote(tail.removeprefix("//").removeprefix("localhost") if tail.startswith("//") else tail)
