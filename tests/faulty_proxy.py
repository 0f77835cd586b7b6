"""An HTTP proxy in front of an object store that answers for it, by lot, as a store in trouble does."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "429", "slow", "truncated", "broken off", "answer lost")
_OWN = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


class FaultyProxy:
    """What is done to the requests.

    Attributes:
      probability: of a fault, drawn from `seed`.
      chosen: method and path -> one of FAULTS, a status, or ''; asked first.
      hit: how often each fault was played.
    """

    def __init__(self, target: str, seed: int = 0):
        self.target = urlsplit(target)
        self.probability = 0.0
        self.chosen: Callable[[str, str], str] = lambda method, path: ""
        self.hit: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def fault(self, method: str, path: str) -> str:
        with self._lock:
            kind = self.chosen(method, path)
            if not kind and self._random.random() < self.probability:
                kind = self._random.choice(FAULTS)
            self.hit[kind] += bool(kind)
            return kind


@contextlib.contextmanager
def in_front_of(target: str, seed: int = 0) -> Iterator[tuple[FaultyProxy, str]]:
    """The proxy, doing nothing yet, and its URL."""
    proxy = FaultyProxy(target, seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self):
            body = self._body()
            fault = proxy.fault(self.command, self.path)
            if fault.isdigit():
                self._answer(int(fault), {}, b"<Error><Code>Trouble</Code><Message>no</Message></Error>")
                return
            if fault == "broken off":
                self.close_connection = True
                return
            if fault == "slow":
                time.sleep(0.05)
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _OWN | {"expect"}}
            asking = http.client.HTTPConnection(proxy.target.hostname, proxy.target.port, timeout=60)
            with contextlib.closing(asking):
                asking.request(self.command, self.path, body, headers)
                got = asking.getresponse()
                data = got.read()
            if fault == "answer lost":
                self.close_connection = True
                return
            length = {"Content-Length": got.getheader("Content-Length")} if self.command == "HEAD" else {}
            kept = {n: v for n, v in got.getheaders() if n.lower() not in _OWN}
            self._answer(
                got.status, kept | {n: v for n, v in length.items() if v}, data, fault == "truncated"
            )

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, status: int, headers: dict, data: bytes, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        def log_message(self, *_):
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that went away is what the test is about."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
