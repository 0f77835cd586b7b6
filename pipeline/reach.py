"""Do the engine and the stores of a request answer at all? Their clients would wait in silence for minutes to find out."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import runners
from pipeline.console import say
from transforms.fetching.uris import public_uri
from transforms.storage import door

_TIMEOUT_SECONDS = 15.0
_SILENCE_SECONDS = 3.0  # before it is said what is being waited for


class Unreachable(OSError):
    """A host does not answer: no fault of the request, which may be tried again as it is."""


@dataclass(frozen=True)
class Endpoint:
    """A host that the run needs, and what of the request or of the environment names it."""

    host: str
    port: int
    named_by: str


def check(options: PipelineOptions, runner: str, paths: Iterable[str]) -> None:
    """Connects once to each host that the engine and the `paths` need. Raises Unreachable for the first that fails."""
    for endpoint in endpoints(options, runner, paths):
        _connect(endpoint)


def endpoints(options: PipelineOptions, runner: str, paths: Iterable[str]) -> list[Endpoint]:
    """The hosts that this process will talk to, each once. What proxies reach for it cannot be told, and is left out."""
    found = [_endpoint(*address) for address in runners.addresses(options, runner)]
    for path in paths:
        url = door.endpoint(path, options)
        if url and not _behind_proxy(url):
            found.append(_endpoint(url, public_uri(path)))
    return list({(one.host, one.port): one for one in reversed(found)}.values())[::-1]


def _endpoint(url: str, named_by: str) -> Endpoint:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return Endpoint(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), named_by)


def _behind_proxy(url: str) -> bool:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(
        parts.hostname or ""
    )


def _connect(endpoint: Endpoint) -> None:
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        with _told_if_slow(f"waiting for {where} ({endpoint.named_by})"):
            socket.create_connection((endpoint.host, endpoint.port), timeout=_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise Unreachable(
            f"{endpoint.named_by}: {where} cannot be reached ({error}), and nothing was started: check the address and the "
            "network, then run the same command again"
        ) from error


@contextmanager
def _told_if_slow(text: str) -> Iterator[None]:
    timer = threading.Timer(_SILENCE_SECONDS, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
