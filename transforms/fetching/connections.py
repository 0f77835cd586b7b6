"""Sockets with a deadline and a byte budget, and urllib3 pools that connect only where the guard permits."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import certifi
import urllib3

from transforms.errors import ItemError
from transforms.fetching.addresses import AddressGuard, Resolver, blocked
from transforms.fetching.answers import Answer
from transforms.fetching.deadline import Deadline, TransientError


class _Exchange(threading.local):
    """The limits of this thread's request: a request makes all its socket calls in one thread."""

    deadline: Deadline
    silence_seconds: float
    bytes_left: int
    target: str


_exchange = _Exchange()


@contextlib.contextmanager
def exchange(
    deadline: Deadline, silence_seconds: float, max_wire_bytes: int, target: str = ""
) -> Iterator[None]:
    """Bounds each receive of this thread's request.

    urllib3's timeouts bound only the silence between packets, so a header or body that arrives byte by byte would last
    for ever; and neither it nor http.client limits trailers and other framing.

    Args:
      deadline: of the image.
      silence_seconds: the longest wait for a packet.
      max_wire_bytes: how many bytes may be received, framing included.
      target: the path and query to send as they are; urllib3 would encode each '%' of a path that has a stray one.
    """
    values = {
        "deadline": deadline,
        "silence_seconds": silence_seconds,
        "bytes_left": max_wire_bytes,
        "target": target,
    }
    vars(_exchange).update(values)
    try:
        yield
    finally:
        vars(_exchange).clear()


def _before_receive(sock: socket.socket) -> None:
    left = _exchange.deadline.left()
    if not left:
        raise TimeoutError("the image's time ran out")
    sock.settimeout(min(left, _exchange.silence_seconds))


def _received(nbytes: int) -> None:
    _exchange.bytes_left -= nbytes
    if _exchange.bytes_left < 0:
        raise ItemError("too_large", "the answer, framing included, went past max_bytes")


class _BoundedReceive:
    """Mixin for a socket class. http.client reads through `recv_into`, TLS inside TLS through `recv`."""

    def recv_into(self, *args, **kwargs):
        _before_receive(self)  # type: ignore[arg-type]
        nbytes = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        _received(nbytes)
        return nbytes

    def recv(self, *args, **kwargs):
        _before_receive(self)  # type: ignore[arg-type]
        data = super().recv(*args, **kwargs)  # type: ignore[misc]
        _received(len(data))
        return data


class _BoundedSocket(_BoundedReceive, socket.socket):
    pass


class _BoundedTlsSocket(_BoundedReceive, ssl.SSLSocket):
    pass


def tls_context() -> ssl.SSLContext:
    """Trusts the system's certificate authorities (or SSL_CERT_FILE), or certifi's if the system has none."""
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())
    context.sslsocket_class = _BoundedTlsSocket
    return context


class Connector:
    """Opens TCP connections to exactly those addresses of a host that the guard permitted."""

    def __init__(self, guard: AddressGuard, resolver: Resolver, connect_seconds: float):
        self._guard = guard
        self._resolver = resolver
        self._connect_seconds = connect_seconds

    def __call__(self, host: str, port: int) -> socket.socket:
        """A connected socket. Raises ItemError 'bad_uri', 'dns', 'blocked_address', 'connect' or 'timeout'."""
        deadline = _exchange.deadline
        candidates = self._resolver.resolve(host, port, self._connect_seconds, deadline)
        addresses = [ipaddress.ip_address(address[0]) for _, address in candidates]
        permitted = [
            candidate
            for candidate, address in zip(candidates, addresses, strict=True)
            if self._guard.permits(address)
        ]
        if not permitted:
            raise blocked(host, addresses)

        budget = Deadline(min(self._connect_seconds, deadline.left()))
        failure = OSError("no time left")
        for tried, (family, address) in enumerate(permitted):
            # Equal shares, so that one dead address (often the IPv6 one) leaves time for the next.
            share = budget.left() / (len(permitted) - tried)
            if not share:
                break
            sock = _BoundedSocket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(share)
                sock.connect(address)
                # The TLS handshake as a whole takes over this timeout.
                sock.settimeout(max(1e-3, min(self._connect_seconds, deadline.left())))
                return sock
            except OSError as error:
                sock.close()
                failure = error
        if isinstance(failure, TimeoutError):
            raise TransientError("timeout", f"connecting to {host} took too long")
        raise TransientError("connect", f"connecting to {host} failed: {failure.strerror or failure}")


def pool_classes(connect: Callable[[str, int], socket.socket]) -> dict[str, type]:
    """urllib3's pool classes by scheme, with sockets opened by `connect(host, port)`.

    urllib3 has no public hook for this; `_new_conn` is the method that its own SOCKS support overrides. What they send
    and receive is bounded by the `exchange` around the request.
    """

    class Lenient:
        response_class: Any = Answer

        def _new_conn(self) -> socket.socket:
            return connect(self._dns_host, self.port)  # type: ignore[attr-defined]

        def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            # To a proxy the URL goes as a whole.
            origin = "" if url.startswith("/") else "/".join(url.split("/", 3)[:3])
            target = f"{origin}{_exchange.target}" if _exchange.target else url
            super().putrequest(method, target, *args, **kwargs)  # type: ignore[misc]

    class Connection(Lenient, urllib3.connection.HTTPConnection):
        pass

    class TlsConnection(Lenient, urllib3.connection.HTTPSConnection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}
