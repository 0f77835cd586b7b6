"""Checks at the start that the engine and the stores answer; their clients would wait in silence for minutes."""

from __future__ import annotations

import importlib.util
import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import runners
from pipeline.console import say
from pipeline.flags import RequestError
from transforms.fetching import proxies
from transforms.fetching.settings import FetchSettings
from transforms.fetching.uris import public_uri
from transforms.storage import door

_TIMEOUT_SECONDS = 15.0
_SILENCE_SECONDS = 3.0  # before a message says what the job is waiting for


class Unreachable(OSError):
    """A host does not answer. The request may be right: the same command can be run again."""


@dataclass(frozen=True)
class Endpoint:
    """A host that the run needs, and the flag or path that names it."""

    host: str
    port: int
    named_by: str


def check(options: PipelineOptions, runner: str, paths: Sequence[str], fetch: FetchSettings) -> None:
    """Connects once to each host that the engine and the `paths` need. Raises Unreachable for the first that fails.

    Raises RequestError if the environment names a proxy that the clients of stores, or of images, cannot use.
    """
    _check_proxies(options, paths, fetch)
    for endpoint in endpoints(options, runner, paths):
        _connect(endpoint)


def enter(options: PipelineOptions, runner: str, paths: Sequence[str], fetch: FetchSettings) -> None:
    """After `check`, lets this process reach the stores by Beam's options."""
    check(options, runner, paths, fetch)
    door.configure(options)


def endpoints(options: PipelineOptions, runner: str, paths: Iterable[str]) -> list[Endpoint]:
    """The hosts that this process will connect to, each once. Hosts behind a proxy cannot be checked and are left out."""
    needed = [_endpoint(*address) for address in runners.addresses(options, runner)]
    for path in paths:
        url = door.endpoint(path, options)
        if url and not _behind_proxy(url):
            needed.append(_endpoint(url, public_uri(path)))
    first_of_each = {(endpoint.host, endpoint.port): endpoint for endpoint in reversed(needed)}
    return list(first_of_each.values())[::-1]


def _endpoint(url: str, named_by: str) -> Endpoint:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return Endpoint(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), named_by)


def _check_proxies(options: PipelineOptions, paths: Sequence[str], fetch: FetchSettings) -> None:
    used: list[tuple[str, str, bool]] = []  # scheme, what needs it, and whether its client knows all_proxy
    if fetch.trust_env_proxies:
        used += [(scheme, "--trust_env_proxies", True) for scheme in ("http", "https")]
    for path in paths:
        url = urlsplit(door.endpoint(path, options))
        is_google = path.startswith("gs://")  # whose client speaks SOCKS if PySocks is installed
        can_speak_socks = is_google and importlib.util.find_spec("socks")
        if url.scheme and not can_speak_socks and not urllib.request.proxy_bypass(url.netloc):
            used.append((url.scheme, public_uri(path), is_google))
    for scheme, named_by, or_all in used:
        try:
            proxies.proxy_for(scheme, or_all)
        except proxies.BadProxy as error:
            raise RequestError(f"{named_by}: {error}") from error


def _behind_proxy(url: str) -> bool:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(
        parts.hostname or ""
    )


def _connect(endpoint: Endpoint) -> None:
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        with _say_if_slow(f"waiting for {where} ({endpoint.named_by})"):
            socket.create_connection((endpoint.host, endpoint.port), timeout=_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise Unreachable(
            f"{endpoint.named_by}: {where} cannot be reached ({error}), so nothing was started: check the address and "
            "the network, then run the same command again"
        ) from error


@contextmanager
def _say_if_slow(text: str) -> Iterator[None]:
    timer = threading.Timer(_SILENCE_SECONDS, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
