"""A web server on the loopback interface that plays each way in which fetching can go wrong.

What is asked stands in the path: `/status?code=503`, `/redirect?to=...`; each handler says what it does. It
speaks raw bytes over asyncio, in a thread, so that it can also break HTTP itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import zlib
from collections import Counter
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8  # the fetcher looks at no pixel


def answer(body: bytes = IMAGE, status: str = "200 OK", **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): v for name, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class Ask(NamedTuple):
    """One request, and where its answer goes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    target: str
    query: dict[str, str]
    headers: dict[str, str]


class HttpServer:
    """A context manager.

    Attributes:
      port: on 127.0.0.1, plain HTTP.
      tls_port: the same behind TLS, where a context was given.
      files: what `/file/...` has to give, by path; may be changed at any time.
      requests: how often each path with its query was asked for.
      accepted: connections so far.
      peak_connections: the most of them that were open at once.
      peak_at_once: by host, the most requests that were in work at once.
    """

    def __init__(self, tls: ssl.SSLContext | None = None):
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-server")
        self._servers: list[asyncio.Server] = []
        self.files: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.connections = self.peak_connections = self.accepted = 0
        self.at_once: Counter[str] = Counter()
        self.peak_at_once: Counter[str] = Counter()

    def __enter__(self) -> HttpServer:
        self._thread.start()
        self.port = self._call(self._listen(None))
        self.tls_port = self._call(self._listen(self._tls)) if self._tls else 0
        return self

    def __exit__(self, *exc_info) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _listen(self, tls) -> int:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls, backlog=512)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader, writer) -> None:
        self.accepted += 1
        self.connections += 1
        self.peak_connections = max(self.peak_connections, self.connections)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _exchange(self, reader, writer) -> bool:
        """One request; False ends the connection."""
        first = await reader.readexactly(1)
        if first == _TLS_HANDSHAKE:
            writer.write(answer(b"speak plain HTTP here", "400 Bad Request"))
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *fields = head.split("\r\n")
        headers = {name.lower(): v.strip() for name, _, v in (f.partition(":") for f in fields if f)}
        target = request.split(" ")[1]
        host = headers["host"].rpartition(":")[0]
        self.requests[target] += 1
        self.at_once[host] += 1
        self.peak_at_once[host] = max(self.peak_at_once[host], self.at_once[host])
        try:
            parts = urlsplit(target)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            handler = getattr(self, "_do_" + parts.path.strip("/").split("/")[0].replace("-", "_"), None)
            if handler is None:
                writer.write(answer(b"", "404 Not Found"))
            elif await handler(Ask(reader, writer, target, query, headers)) is False:
                return False
            await writer.drain()
            return True
        finally:
            self.at_once[host] -= 1

    async def _do_image(self, ask):
        """A good answer."""
        ask.writer.write(answer())

    async def _do_file(self, ask):
        """One of `files`."""
        body = self.files.get(ask.target)
        ask.writer.write(answer(b"", "404 Not Found") if body is None else answer(body))

    async def _do_echo(self, ask):
        """The request's headers as JSON."""
        ask.writer.write(answer(json.dumps(ask.headers).encode()))

    async def _do_slow(self, ask):
        """A good answer after `seconds`."""
        await asyncio.sleep(float(ask.query["seconds"]))
        ask.writer.write(answer())

    async def _do_status(self, ask):
        """An empty answer with status `code`, and a Retry-After where `after` is given."""
        extra = {"Retry-After": ask.query["after"]} if "after" in ask.query else {}
        ask.writer.write(answer(b"no", f"{ask.query['code']} Whatever", **extra))

    async def _do_flaky(self, ask):
        """Status `code` for the first `times` requests of this very URL, then a good answer."""
        target = f"/flaky?{'&'.join(f'{name}={value}' for name, value in ask.query.items())}"
        if self.requests[target] <= int(ask.query["times"]):
            await self._do_status(ask)
        else:
            ask.writer.write(answer())

    async def _do_flaky_cut(self, ask):
        """Cut off in the body the first time, good afterwards."""
        if self.requests["/flaky-cut"] == 1:
            return await self._do_short(ask)
        ask.writer.write(answer())

    async def _do_robots(self, ask):
        """A good answer with the X-Robots-Tag `tag`, several where '|' parts them."""
        tags = "".join(f"X-Robots-Tag: {tag}\r\n" for tag in ask.query["tag"].split("|"))
        ask.writer.write(f"HTTP/1.1 200 OK\r\n{tags}Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)

    async def _do_redirect(self, ask):
        """To the URL `to`, with status `code` or 302."""
        ask.writer.write(answer(b"moved", f"{ask.query.get('code', 302)} Moved", Location=ask.query["to"]))

    async def _do_hops(self, ask):
        """`n` redirects, then a good answer."""
        n = int(ask.query["n"])
        ask.writer.write(answer(b"", "302 Found", Location=f"/hops?n={n - 1}") if n else answer())

    async def _do_loop(self, ask):
        """A redirect to itself."""
        ask.writer.write(answer(b"", "301 Moved", Location="/loop"))

    async def _do_no_location(self, ask):
        ask.writer.write(answer(b"", "302 Found"))

    async def _do_utf8_location(self, ask):
        """A redirect whose Location holds raw UTF-8, as some servers send it."""
        ask.writer.write(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /image?\xc3\xa9t\xc3\xa9\r\n\r\n"
        )

    async def _do_huge(self, ask):
        """Announces a terabyte."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
        return False

    async def _do_endless(self, ask):
        """A chunked body without end."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await _send(ask, b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    async def _do_endless_trailer(self, ask):
        """A complete body, then trailers without end."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        while True:
            await _send(ask, b"X-Trailer: " + b"x" * 1000 + b"\r\n")

    async def _do_endless_headers(self, ask):
        ask.writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            await _send(ask, b"X-Header: " + b"x" * 1000 + b"\r\n")

    async def _do_drip(self, ask):
        """A body of one byte each 20 ms."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await _send(ask, b"x")
            await asyncio.sleep(0.02)

    async def _do_drip_headers(self, ask):
        """A header line of one byte each 20 ms."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            await _send(ask, b"x")
            await asyncio.sleep(0.02)

    async def _do_silent(self, ask):
        """No answer at all, while the connection stays open."""
        await ask.reader.read()  # until the client gives up

    async def _do_close(self, ask):
        """The connection ends without an answer."""
        return False

    async def _do_reset(self, ask):
        """The connection is reset."""
        ask.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        ask.writer.transport.abort()
        return False

    async def _do_short(self, ask):
        """Fewer bytes than announced."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + IMAGE)
        return False

    async def _do_short_chunked(self, ask):
        """A chunked body that ends in the middle of a chunk."""
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + IMAGE)
        return False

    async def _do_long(self, ask):
        """More bytes than announced; the rest looks like an answer to the next request."""
        ask.writer.write(answer() + answer(b"smuggled"))

    async def _do_no_length(self, ask):
        """A body that ends with the connection, as HTTP/1.0 has it."""
        ask.writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE)
        return False

    async def _do_chunked(self, ask):
        """A good answer in chunks."""
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (IMAGE[:7], IMAGE[7:900], IMAGE[900:]))
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    async def _do_gzip(self, ask):
        """A good answer, compressed unasked, in two gzip members."""
        body = gzip.compress(IMAGE[:100]) + gzip.compress(IMAGE[100:])
        ask.writer.write(answer(body, Content_Encoding="gzip"))

    async def _do_gzip_cut(self, ask):
        """A compressed body that lacks its end, although the length is right."""
        ask.writer.write(answer(gzip.compress(IMAGE)[:-20], Content_Encoding="gzip"))

    async def _do_gzip_bomb(self, ask):
        """64 MiB of zeros in 64 KiB."""
        ask.writer.write(answer(_BOMB, Content_Encoding="gzip"))

    async def _do_encoding(self, ask):
        """A body under the Content-Encoding `name` that is not in it."""
        ask.writer.write(answer(Content_Encoding=ask.query["name"]))

    async def _do_deflate(self, ask):
        """A good answer as deflate without zlib's header, as some servers send it, or with `zlib`."""
        compressor = zlib.compressobj(wbits=15 if "zlib" in ask.query else -15)
        body = compressor.compress(IMAGE) + compressor.flush()
        ask.writer.write(answer(body, Content_Encoding="deflate"))

    async def _do_gzip_as(self, ask):
        """A good answer, compressed `times` times, under the Content-Encoding `name`."""
        body = IMAGE
        for _ in range(int(ask.query.get("times", 1))):
            body = gzip.compress(body)
        ask.writer.write(answer(body, Content_Encoding=ask.query["name"]))

    async def _do_hints(self, ask):
        """Interim answers with `code` before a good one."""
        interim = f"HTTP/1.1 {ask.query['code']} Wait\r\nLink: </style.css>; rel=preload\r\n\r\n"
        ask.writer.write(interim.encode() * 3 + answer())

    async def _do_part(self, ask):
        """Status 206 with the Content-Range `range`, if given."""
        range_ = {"Content-Range": ask.query["range"]} if "range" in ask.query else {}
        ask.writer.write(answer(IMAGE, "206 Partial Content", **range_))

    async def _do_head(self, ask):
        """A good answer whose head is `head`, with \\n as the end of lines; chunked if that says so."""
        head = ask.query["head"].replace("SIZE", str(len(IMAGE))).encode("latin-1")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE) if b"chunked" in head.lower() else IMAGE
        ask.writer.write(head + b"\n\n" + body)

    async def _do_location(self, ask):
        """A redirect with `to` as raw Latin-1 in `times` headers."""
        location = b"Location: " + ask.query.get("to", "").encode("latin-1") + b"\r\n"
        ask.writer.write(
            b"HTTP/1.1 302\r\nContent-Length: 0\r\n" + location * int(ask.query.get("times", 1)) + b"\r\n"
        )

    async def _do_garbage(self, ask):
        """Not HTTP."""
        ask.writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        return False


async def _send(ask: Ask, data: bytes) -> None:
    ask.writer.write(data)
    await ask.writer.drain()
    await asyncio.sleep(
        0
    )  # drain need not yield, and over TLS never notices a closed connection unless it does


_TLS_HANDSHAKE = b"\x16"
_BOMB = gzip.compress(bytes(64 << 20))


@contextlib.contextmanager
def deaf_port():
    """A port on 127.0.0.1 where TCP connects and nobody ever reads or writes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
