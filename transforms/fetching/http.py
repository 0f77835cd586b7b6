"""http(s): one pooled client per worker, with limits on time, bytes, redirects, requests per host and addresses."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import re
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Url, parse_url

from transforms.errors import ItemError
from transforms.fetching import proxies
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
_STRIPPED = "".join(map(chr, range(33)))  # at the ends of a URL
_DROPPED = re.compile(r"[\t\r\n]")  # anywhere in a URL
_KEPT = "%/:@!$&'()*+,;=~"  # in a path; quote() itself keeps letters, digits, '_', '.', '-' and '~'
_DOTS = re.compile(r"(?i)/(?:\.|%2e){1,2}(?:/|$)")
_DRAINED_BYTES = 16 << 10  # reading an unwanted body up to this size is cheaper than a new connection


class _Target(NamedTuple):
    scheme: str
    host: str
    port: int | None
    url: str  # without userinfo and fragment
    path: str  # with the query, as it is sent
    auth: str | None


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
        target = _parse(url)
        authorization = _basic_auth(target)
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
        self, target: _Target, headers: dict[str, str], turn: Turn, deadline: Deadline
    ) -> bytes | _Target:
        def attempt() -> bytes | _Target:
            turn.wait(deadline)
            try:
                return self._attempt(target, headers, turn, deadline)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise classified(error, target.host) from None

        return with_retries(attempt, self._settings, deadline, lambda wait: wait_or_stop(wait, self._closed))

    def _attempt(
        self, target: _Target, headers: dict[str, str], turn: Turn, deadline: Deadline
    ) -> bytes | _Target:
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

    def _manager(self, target: _Target) -> urllib3.PoolManager:
        proxy = self._proxies.get(target.scheme)
        port = target.port or (443 if target.scheme == "https" else 80)
        if proxy is None or proxies.is_bypassed(target.host, port):
            return self._direct
        self._guard.check_literal(target.host)
        return proxy

    def _evaluate(self, response: urllib3.BaseHTTPResponse, target: _Target, turn: Turn) -> bytes | _Target:
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

    def _redirected(self, target: _Target, location: str) -> _Target:
        # http.client reads header bytes as Latin-1; what servers send beyond ASCII is UTF-8, as a rule.
        location = location.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        try:
            url = urljoin(target.url, _with_slashes(location))
            scheme = urlsplit(url).scheme
        except ValueError:
            raise ItemError("bad_uri", f"{target.host} redirects to something that is no URL") from None
        if scheme not in ("http", "https") or scheme not in self._settings.uri_schemes:
            raise ItemError("scheme_not_allowed", f"{target.host} redirects to a {scheme}: URL")
        return _parse(url)

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


def _parse(url: str) -> _Target:
    url = _with_slashes(_DROPPED.sub("", url.strip(_STRIPPED)))
    try:
        parsed, path = parse_url(url), _path_to_send(url)
    except (LocationValueError, UnicodeError):
        parsed, path = Url(), ""
    if not parsed.host or not parsed.scheme:
        raise ItemError("bad_uri", "not a URL with a host and a valid port")
    bare = f"{parsed.scheme}://{parsed.netloc}{path}"
    return _Target(parsed.scheme, parsed.host, parsed.port, bare, path, parsed.auth)


def _path_to_send(url: str) -> str:
    """The path and query as the URL has them, with what must not stand in a request encoded; '%' is left alone.

    As browsers send them, and unlike urllib3, which takes a path with one stray '%' for one with no encoding at all.
    """
    after = url.partition("#")[0].partition("//")[2]
    path, mark, query = after[re.match(r"[^/?]*", after).end() :].partition("?")  # type: ignore[union-attr]
    if _DOTS.search(path):
        path = _resolved(path)
    encoded = quote((path or "/").encode("utf-8", "surrogateescape"), safe=_KEPT)
    return encoded + mark + quote(query.encode("utf-8", "surrogateescape"), safe=_KEPT + "?")


def _resolved(path: str) -> str:
    """A path without its segments '.' and '..' (RFC 3986, 5.2.4), also where their dots are encoded."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in (*segments, last):
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            kept = kept[:-1]
        elif plain != ".":
            kept.append(segment)
    is_folder = last.lower().replace("%2e", ".") in (".", "..")
    return "/" + "/".join(kept) + ("/" if is_folder and kept else "")


def _with_slashes(url: str) -> str:
    """A URL with '/' for each backslash before its query, as browsers read it."""
    end = re.search(r"[?#]|$", url).start()  # type: ignore[union-attr]
    return url[:end].replace("\\", "/") + url[end:]


def _is_whole(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether an answer 206, for which nobody asked, holds the complete image."""
    match = re.fullmatch(r"bytes 0-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    return match is not None and int(match[1]) + 1 == int(match[2])


def _with_status(error: ItemError, status: int) -> ItemError:
    error.http_status = status
    return error


def _basic_auth(target: _Target) -> str | None:
    if not target.auth:
        return None
    return "Basic " + base64.b64encode(unquote(target.auth).encode()).decode()


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
