"""The bytes of an image by its URI: http(s) through a client of its own, data: at once, all others through `storage.door`."""

from __future__ import annotations

import logging
import threading
from urllib.parse import unquote, urlsplit

from transforms.errors import ItemError
from transforms.fetching import data_urls
from transforms.fetching.deadline import Deadline, TransientError, with_retries
from transforms.fetching.hosts import wait_or_stop
from transforms.fetching.http import HttpClient
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import scheme_of
from transforms.storage import door
from transforms.storage.errors import Fault


class Fetcher:
    """Fetches images. Thread-safe; created once per worker process and closed at the end.

    Messages hold no credentials and no signed queries.
    """

    def __init__(self, settings: FetchSettings):
        # urllib3 (below requests and our own client) warns once per image, and quotes complete URLs.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._settings = settings
        self._closed = threading.Event()
        self._http = HttpClient(settings, self._closed)

    def fetch(self, uri: str) -> bytes:
        """The encoded image.

        Raises:
          ItemError: with a code listed in docs/fetching.md.
          RuntimeError: the fetcher was closed; not the image's fault.
        """
        wait_or_stop(0, self._closed)
        scheme = scheme_of(uri)
        if scheme not in self._settings.uri_schemes:
            allowed = ", ".join(self._settings.uri_schemes)
            raise ItemError("scheme_not_allowed", f"{scheme}: is not among the allowed schemes ({allowed})")
        if scheme in ("http", "https"):
            return self._http.get(uri)
        if scheme == "data":
            return self._within(uri)
        return self._stored(f"file://{_local_path(uri)}" if scheme == "file" else uri)

    def close(self) -> None:
        """Ends waits and connections; fetches in progress raise RuntimeError."""
        self._closed.set()
        self._http.close()

    def _within(self, uri: str) -> bytes:
        try:
            data = data_urls.decode(uri)
        except ValueError as error:
            raise ItemError("bad_uri", str(error)) from None
        if len(data) > (most := self._settings.max_bytes):
            raise ItemError("too_large", f"the URL holds {len(data)} bytes, above max_bytes={most}")
        return data

    def _stored(self, path: str) -> bytes:
        settings = self._settings
        door.connect(path)  # once per process, and not within an image's time limit
        deadline = Deadline(settings.timeout_seconds)

        def attempt() -> bytes:
            deadline.check()
            try:
                return door.read_capped(path, settings.max_bytes, deadline.left(), settings.read_seconds)
            except Fault as fault:
                kind = TransientError if fault.transient else ItemError
                raise kind(fault.code, str(fault), fault.http_status) from None

        return with_retries(attempt, settings, deadline, self._pause)

    def _pause(self, seconds: float) -> None:
        wait_or_stop(seconds, self._closed)


def _local_path(uri: str) -> str:
    if uri.lstrip()[:5].lower() != "file:":
        return uri
    parts = urlsplit(uri.strip())
    if parts.netloc not in ("", "localhost"):
        raise ItemError("bad_uri", "a file: URI names a path on this machine: file:///PATH")
    # '?' and '#' in a file: URI are taken as part of the path, quoted or not.
    tail = uri.strip()[5:]
    return unquote(tail.removeprefix("//").removeprefix("localhost") if tail.startswith("//") else tail)
