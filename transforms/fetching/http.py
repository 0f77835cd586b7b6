"""http(s): one pooled client per worker, with limits on time, bytes, redirects, requests per host and addresses."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import re
import threading
import time
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from transforms.errors import ItemError
from transforms.fetching import proxies, urls
from transforms.fetching.addresses import AddressGuard, Resolver
from transforms.fetching.connections import Connector, exchange, pool_classes, tls_context
from transforms.fetching.deadline import Deadline, TransientError, with_retries
from transforms.fetching.failures import classified
from transforms.fetching.hosts import HostGate, Turn, wait_or_stop
from transforms.fetching.robots import opt_out
from transforms.fetching.settings import AGENT_TOKEN, FetchSettings
from transforms.storage.decoding import Decoder
from transforms.storage.errors import Fault, code_of_status

_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_READ_BYTES = 64 << 10
_WHOLE_RANGE = re.compile(r"\s*bytes\s+0\s*-\s*(\d+)\s*/\s*(\d+)\s*", re.IGNORECASE | re.ASCII)
_DRAINED_BYTES = 16 << 10  # reading an unwanted body up to this size is cheaper than a new connection


class HttpClient:
    """Fetches URLs. Thread-safe; setting `closed` ends all waits."""

    def __init__(self, settings: FetchSettings, closed: threading.Event):
        self._settings = settings
        self._closed = closed
        self._gate = HostGate(settings.per_host, closed)
        self._guard = AddressGuard(settings.allow_private_networks)
        self._resolver = Resolver(settings.concurrency)
        pool_options: dict[str, Any] = {
            "num_pools": settings.concurrency,
            "maxsize": settings.per_host,
            "ssl_context": tls_context(),
        }
        self._direct = urllib3.PoolManager(**pool_options)
        self._direct.pool_classes_by_scheme = pool_classes(
            Connector(self._guard, self._resolver, settings.connect_seconds)
        )
        self._proxies: dict[str, urllib3.PoolManager] = {}
        if settings.trust_env_proxies:
            everywhere = AddressGuard(("0.0.0.0/0", "::/0"))
            via_proxy = pool_classes(Connector(everywhere, self._resolver, settings.connect_seconds))
            for scheme in ("http", "https"):
                if proxy := proxies.proxy_for(scheme):
                    self._proxies[scheme] = _proxy_manager(proxy.url, pool_options)
                    self._proxies[scheme].pool_classes_by_scheme = via_proxy

    def get(self, url: str) -> bytes:
        """The body behind a URL. Raises ItemError; docs/fetching.md lists the codes."""
        target = urls.parse(url)
        authorization = target.authorization
        deadline = None
        for _ in range(self._settings.max_redirects + 1):
            headers = {"User-Agent": self._settings.user_agent, "Accept": "image/*,*/*;q=0.5"}
            headers["Accept-Encoding"] = "identity"
            if authorization:
                headers["Authorization"] = authorization
            with self._gate.turn(target.host, deadline) as turn:
                deadline = deadline or Deadline(self._settings.timeout_seconds)
                answer = self._request(target, headers, turn, deadline)
            if isinstance(answer, bytes):
                return answer
            if (answer.scheme, answer.host, answer.port) != (target.scheme, target.host, target.port):
                authorization = None
            target = answer
        raise ItemError("too_many_redirects", f"more than {self._settings.max_redirects} redirects")

    def close(self) -> None:
        """Closes idle connections; those in use close when their request ends."""
        for manager in (self._direct, *self._proxies.values()):
            manager.clear()
        self._resolver.close()

    def _request(
        self, target: urls.Target, headers: dict[str, str], turn: Turn, deadline: Deadline
    ) -> bytes | urls.Target:
        def attempt() -> bytes | urls.Target:
            turn.wait(deadline)
            try:
                return self._attempt(target, headers, turn, deadline)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise classified(error, target.host) from None

        return with_retries(attempt, self._settings, deadline, lambda wait: wait_or_stop(wait, self._closed))

    def _attempt(
        self, target: urls.Target, headers: dict[str, str], turn: Turn, deadline: Deadline
    ) -> bytes | urls.Target:
        settings = self._settings
        # Room for the framing of a body of many small chunks.
        max_wire_bytes = settings.max_bytes + settings.max_bytes // 8 + (1 << 20)
        with exchange(deadline, settings.read_seconds, max_wire_bytes, target.path):
            response = self._manager(target).request(
                "GET", target.url, headers=headers, redirect=False, retries=False, preload_content=False,
                timeout=urllib3.Timeout(connect=settings.connect_seconds, read=settings.read_seconds),
            )  # fmt: skip
            try:
                return self._evaluate(response, target, turn)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise _with_status(classified(error, target.host), response.status) from None
            except ItemError as error:
                raise _with_status(error, response.status) from None
            except Fault as fault:
                kind = TransientError if fault.transient else ItemError
                raise kind(fault.code, f"{target.host} sent {fault}", response.status) from None
            finally:
                response.close()  # no effect on a response read to its end, whose connection is back in its pool
                response.release_conn()

    def _manager(self, target: urls.Target) -> urllib3.PoolManager:
        proxy = self._proxies.get(target.scheme)
        port = target.port or (443 if target.scheme == "https" else 80)
        if proxy is None or proxies.is_bypassed(target.host, port):
            return self._direct
        self._guard.check_literal(target.host)
        return proxy

    def _evaluate(
        self, response: urllib3.BaseHTTPResponse, target: urls.Target, turn: Turn
    ) -> bytes | urls.Target:
        status = response.status
        answered = f"{target.host} answered {status} {http.client.responses.get(status, '')}".rstrip()
        locations = set(response.headers.getlist("Location"))
        if status in _REDIRECTS and len(locations) == 1 and "" not in locations:
            _drain(response)
            return self._redirected(target, locations.pop())
        if status in (200, 203) or (status == 206 and _is_whole(response)):
            if self._settings.honour_opt_out:
                directive = opt_out(response.headers.getlist("X-Robots-Tag"), AGENT_TOKEN)
                if directive:
                    raise ItemError("opted_out", f"{target.host} says X-Robots-Tag: {directive}")
            return self._body(response, target.host)
        _drain(response)
        if status in _RETRIED:
            retry_after = _retry_after(response)
            if retry_after or status == 429:
                turn.pause(retry_after or self._settings.backoff_seconds)
            raise TransientError(code_of_status(status), answered, retry_after=retry_after)
        raise ItemError(code_of_status(status) if status >= 400 else "bad_response", answered)

    def _redirected(self, target: urls.Target, location: str) -> urls.Target:
        # http.client reads header bytes as Latin-1; what servers send beyond ASCII is UTF-8, as a rule.
        location = location.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        try:
            url = urljoin(target.url, urls.with_slashes(location))
            scheme = urlsplit(url).scheme
        except ValueError:
            raise ItemError("bad_uri", f"{target.host} redirects to something that is no URL") from None
        if scheme not in ("http", "https") or scheme not in self._settings.uri_schemes:
            raise ItemError("scheme_not_allowed", f"{target.host} redirects to a {scheme}: URL")
        return urls.parse(url)

    def _body(self, response: urllib3.BaseHTTPResponse, host: str) -> bytes:
        max_bytes = self._settings.max_bytes
        length = getattr(response, "length_remaining", None)
        if length is not None and length > max_bytes:
            raise ItemError("too_large", f"{host} announces {length} bytes, above max_bytes={max_bytes}")
        decoder = Decoder(response.headers.get("Content-Encoding", ""), max_bytes)
        body = bytearray()
        while part := response.read(_READ_BYTES, decode_content=False):
            body += decoder.decode(part)
            if len(body) > max_bytes:
                raise ItemError("too_large", f"{host} sent more than max_bytes={max_bytes}")
        decoder.finish()
        return bytes(body)


def _is_whole(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether an answer 206, for which nobody asked, holds the complete image."""
    match = _WHOLE_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) + 1 == int(match[2])


def _with_status(error: ItemError, status: int) -> ItemError:
    error.http_status = status
    return error


def _proxy_manager(proxy: str, pool_options: dict) -> urllib3.ProxyManager:
    url = parse_url(proxy)
    headers = urllib3.make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else None
    return urllib3.ProxyManager(url._replace(auth=None).url, proxy_headers=headers, **pool_options)


def _drain(response: urllib3.BaseHTTPResponse) -> None:
    length = getattr(response, "length_remaining", None)
    if length is not None and length <= _DRAINED_BYTES:
        with contextlib.suppress(HTTPError):  # only the status matters
            response.read(decode_content=False)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Seconds, from either form of the header; 0 if it is missing or invalid."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    moment = email.utils.parsedate_tz(value)
    return max(0.0, email.utils.mktime_tz(moment) - time.time()) if moment else 0.0
