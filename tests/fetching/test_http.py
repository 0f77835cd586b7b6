"""http(s) against a server that produces each failure."""

import contextlib
import gc
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from urllib.parse import quote

import pytest
import trustme

from tests.http_server import IMAGE, HttpServer, closed_port, deaf_port
from transforms.errors import ItemError
from transforms.fetching.fetcher import Fetcher
from transforms.fetching.settings import FetchSettings

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "good.test").configure_cert(context)
    with HttpServer(context) as server:
        yield server


@pytest.fixture(autouse=True)
def lookups(monkeypatch):
    """A DNS of our own: *.test is this machine, metadata.test a metadata service, and no other name exists."""
    real = socket.getaddrinfo
    names = []

    def getaddrinfo(host, *args):
        names.append(host)
        if host == "metadata.test":
            host = "169.254.169.254"
        elif host.endswith(".test"):
            host = "127.0.0.1"
        elif not (host[0].isdigit() or ":" in host):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def make():
    fetchers = []

    def make(**settings):
        quick = {"timeout_seconds": 20, "retries": 2, "backoff_seconds": 0.01, "max_bytes": 1 << 20}
        fetchers.append(Fetcher(FetchSettings(allow_private_networks=LOOPBACK, **{**quick, **settings})))
        return fetchers[-1]

    yield make
    for fetcher in fetchers:
        fetcher.close()


def failure(fetcher, uri):
    with pytest.raises(ItemError) as raised:
        fetcher.fetch(uri)
    assert type(raised.value) is ItemError
    return raised.value


@pytest.mark.parametrize(
    "path",
    ["/image", "/image?a=%20b c", "/chunked", "/no-length", "/gzip", "/hops?n=5", "/utf8-location"]
    + [f"/redirect?code={code}&to=/image" for code in (301, 302, 303, 307, 308)],
)
def test_good_answers(server, make, path):
    assert make().fetch(server.url(path)) == IMAGE


@pytest.mark.parametrize(
    "path",
    [f"/hints?code={code}" for code in (100, 102, 103, 199)]
    + [f"/encoding?name={name}" for name in ("utf-8", "none", "binary", "identity", "aws-chunked", "UTF-8,%20identity")]
    + ["/deflate", "/deflate?zlib=1", "/gzip-as?name=identity,gzip", "/gzip-as?name=GZIP;q=1", "/gzip-as?name=x-gzip",
       "/gzip-as?name=gzip,gzip&times=2", "/gzip-as?name=deflate"]
    + [f"/part?range={quote(text.format(len(IMAGE) - 1, len(IMAGE)))}" for text in (
        "bytes 0-{}/{}", "Bytes 0-{}/{}", "BYTES  0-{}/{}", "bytes\t0 - {} / {} ",
    )]
    + ["/head?head=" + quote(head) for head in (
        "HTTP/1.1 200\nContent-Length: SIZE",
        "\nHTTP/1.1 200 OK\nContent-Length: SIZE",
        "HTTP/1.1 200 OK\nContent-Length: SIZE\nContent-Length: SIZE",
        "HTTP/1.1 200 OK\nContent-Length: SIZE, SIZE",
        "HTTP/1.1 200 OK\nTransfer-Encoding: CHUNKED",
        "HTTP/1.1 200 OK\nTransfer-Encoding: identity, chunked",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 7",
        "HTTP/1.1 200 OK\nTransfer-Encoding: identity\nContent-Length: SIZE",
        "HTTP/1.1 200 OK\nno header\nContent-Length: SIZE",
        "HTTP/1.1 200 OK\n folded\nContent-Length : SIZE",
        "HTTP/1.1 200 OK\n\xe9: 1\nContent-Length:\n SIZE",
    )]
    + [f"/location?to={to}" for to in ("/image%3Fa b", "%2F%2F127.0.0.1:PORT/image", "%5Cimage", "image%23fragment",
                                     "http:%5C%5C127.0.0.1:PORT%5Cimage", "../../image", "./a/%252e%252E/image")]
    + ["/location?to=/image&times=2"],
)  # fmt: skip
def test_what_browsers_take_is_taken(server, make, path):
    """The connection stays usable: two images in a row, without a wait for its end."""
    fetcher, accepted = make(timeout_seconds=5), server.accepted
    url = server.url(path.replace("PORT", str(server.port)))
    assert [fetcher.fetch(url), fetcher.fetch(url)] == [IMAGE, IMAGE]
    assert server.accepted == accepted + 1


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/image/100%.jpg", "/image/100%.jpg"),
        ("/image/100%/a%20b%c3%A9.jpg", "/image/100%/a%20b%c3%A9.jpg"),
        ("/image/%zz?%=%", "/image/%zz?%=%"),
        ("/image/a b\u00fc\u2603?q=a b", "/image/a%20b%C3%BC%E2%98%83?q=a%20b"),
        ("/image/\udce9.jpg", "/image/%E9.jpg"),  # Latin-1 in a list
        ('/image/"<>[]{}|^`', "/image/%22%3C%3E%5B%5D%7B%7D%7C%5E%60"),
        ("/image\\a\\b?c\\d", "/image/a/b?c%5Cd"),
        ("/image/a\tb\nc  ", "/image/abc"),
        ("/image#fragment?no=query", "/image"),
        ("/image?", "/image?"),
        ("/image/./a/../b/%2E%2e/c/", "/image/c/"),
        ("/image/a?b/../c", "/image/a?b/../c"),
        ("/image//a", "/image//a"),
        ("/image/%2F%25", "/image/%2F%25"),
        ("/location?to=/image/50%2525/%25e9 ", "/image/50%25/%e9"),
        ("/location?to=/image/\u00e9", "/image/%E9"),
        ("/location?to=/image/50%25%20of%20it", "/image/50%%20of%20it"),
        ("/location/%/x?to=../../image/b%25", "/image/b%"),
    ],
)
def test_paths_are_asked_for_as_they_are_written(server, make, path, sent):
    before = server.requests[sent]
    assert make().fetch(server.url(path)) == IMAGE
    assert server.requests[sent] == before + 1


def test_half_a_character_is_no_url(server, make):
    assert failure(make(), server.url("/image/\ud83d")).code == "bad_uri"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/status?code=404", 404), ("/status?code=503", 503), ("/no-location", 302), ("/robots?tag=noai", 200),
     ("/gzip-cut", 200), ("/short", 200), ("/huge", 200), ("/redirect?to=file:///etc/hostname", 302),
     ("/close", None), ("/garbage", None)],
)  # fmt: skip
def test_an_answer_that_ends_a_fetch_leaves_its_status(server, make, path, status):
    path += "&again" if "?" in path else "?again"
    assert failure(make(), server.url(path)).http_status == status


@pytest.mark.parametrize(
    ("path", "code", "requests"),
    [
        ("/status?code=400", "http_4xx", 1),
        ("/status?code=404&n=1", "not_found", 1),
        ("/status?code=410", "not_found", 1),
        ("/status?code=401", "forbidden", 1),
        ("/status?code=403", "forbidden", 1),
        ("/status?code=451", "http_4xx", 1),
        ("/status?code=408", "http_4xx", 3),
        ("/status?code=429", "http_4xx", 3),
        ("/status?code=500", "http_5xx", 3),
        ("/status?code=503", "http_5xx", 3),
        ("/status?code=501", "http_5xx", 1),
        ("/status?code=204", "bad_response", 1),
        ("/status?code=304", "bad_response", 1),
        ("/status?code=205", "bad_response", 1),
        ("/status?code=101", "bad_response", 1),
        ("/part", "bad_response", 1),
        ("/part?range=bytes%200-99/2056", "bad_response", 1),
        ("/part?range=bytes%201-2055/2056", "bad_response", 1),
        ("/part?range=Bytes%20%200-99/2056", "bad_response", 1),
        ("/part?range=rows%200-2055/2056", "bad_response", 1),
        ("/part?range=bytes%200-2055/*", "bad_response", 1),
        ("/location?to=", "bad_response", 1),
        ("/head?head=HTTP/1.1%20200%0AContent-Length:%20SIZE%0AContent-Length:%207", "bad_response", 1),
        ("/no-location", "bad_response", 1),
        ("/garbage", "bad_response", 1),
        ("/endless-headers", "bad_response", 1),
        ("/encoding?name=gzip", "bad_response", 1),
        ("/encoding?name=br", "bad_response", 1),
        ("/encoding?name=gzip,gzip", "bad_response", 1),
        ("/encoding?name=deflate", "bad_response", 1),
        ("/encoding?name=utf-8,zstd", "bad_response", 1),
        ("/gzip-as?name=gzip,gzip,gzip,gzip,gzip&times=5", "bad_response", 1),
        ("/huge", "too_large", 1),
        ("/endless", "too_large", 1),
        ("/endless-trailer", "too_large", 1),
        ("/gzip-bomb", "too_large", 1),
        ("/short", "truncated", 3),
        ("/short-chunked", "truncated", 3),
        ("/gzip-cut", "truncated", 3),
        ("/close", "connect", 3),
        ("/reset", "connect", 3),
        ("/loop", "too_many_redirects", 6),
        ("/redirect?to=file:///etc/hostname", "scheme_not_allowed", 1),
        ("/redirect?to=gs://bucket/object", "scheme_not_allowed", 1),
        ("/redirect?to=http://%5Bnonsense", "bad_uri", 1),
        ("/redirect?to=http://10.0.0.1/", "blocked_address", 1),
        ("/redirect?to=http://169.254.169.254/latest/meta-data/", "blocked_address", 1),
        ("/redirect?to=http://%5B::1%5D/", "blocked_address", 1),
        ("/redirect?to=http://metadata.test/", "blocked_address", 1),
    ],
)
def test_bad_answers(server, make, path, code, requests):
    assert failure(make(), server.url(path)).code == code
    assert server.requests[path] == requests


def test_limits_are_exact(server, make):
    assert make(max_bytes=len(IMAGE)).fetch(server.url("/image")) == IMAGE
    assert make(max_bytes=len(IMAGE)).fetch(server.url("/gzip")) == IMAGE
    for path in ("/image", "/chunked", "/gzip", "/no-length"):
        assert failure(make(max_bytes=len(IMAGE) - 1), server.url(path)).code == "too_large"
    assert make(max_redirects=2).fetch(server.url("/hops?n=2")) == IMAGE
    assert failure(make(max_redirects=1), server.url("/hops?n=2")).code == "too_many_redirects"
    assert make(max_redirects=0).fetch(server.url("/image")) == IMAGE


@pytest.mark.parametrize("path", ["/silent", "/drip", "/drip-headers", "/slow?seconds=60"])
def test_time_is_bounded(server, make, path):
    assert failure(make(timeout_seconds=0.3), server.url(path)).code == "timeout"


def test_a_server_that_never_takes_up_tls(make):
    with deaf_port() as port:
        assert failure(make(timeout_seconds=2), f"https://127.0.0.1:{port}/").code == "timeout"
        assert failure(make(timeout_seconds=2), f"http://127.0.0.1:{port}/").code == "timeout"


def test_retries(server, make):
    assert make().fetch(server.url("/flaky?code=503&times=2")) == IMAGE
    assert make().fetch(server.url("/flaky?code=429&times=1&after=0")) == IMAGE
    assert make().fetch(server.url("/flaky-cut")) == IMAGE
    error = failure(make(retries=1), server.url("/flaky?code=500&times=2&n=1"))
    assert (error.code, str(error)) == (
        "http_5xx",
        "127.0.0.1 answered 500 Internal Server Error (2 attempts)",
    )
    assert failure(make(retries=0), server.url("/flaky?code=500&times=1&n=2")).code == "http_5xx"


def test_retry_after_is_honoured(server, make):
    start = time.monotonic()
    assert make().fetch(server.url("/flaky?code=503&times=1&after=1")) == IMAGE
    assert time.monotonic() - start >= 1
    # Longer than the image's time: no second request.
    in_an_hour = format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True).replace(
        " ", "%20"
    )
    for after in ("3600", in_an_hour):
        path = f"/status?code=503&after={after}"
        fetcher = make(timeout_seconds=0.3)
        assert failure(fetcher, server.url(path)).code == "http_5xx"
        assert server.requests[path] == 1
        # Nobody sends requests to the host meanwhile; other hosts are not affected.
        assert failure(fetcher, server.url("/image?busy")).code == "host_busy"
        assert server.requests["/image?busy"] == 0
        assert fetcher.fetch(server.url("/image", "other.test")) == IMAGE


def test_connections_are_kept_and_a_smuggled_answer_is_not(server, make):
    fetcher = make()
    before = server.accepted
    for _ in range(5):
        assert fetcher.fetch(server.url("/image")) == IMAGE
        assert failure(fetcher, server.url("/status?code=404")).code == "not_found"
    assert server.accepted == before + 1
    assert fetcher.fetch(server.url("/long")) == IMAGE
    assert json.loads(fetcher.fetch(server.url("/echo")))["host"] == f"127.0.0.1:{server.port}"


def test_a_host_gets_so_many_at_once(server, make):
    fetcher = make(per_host=3, concurrency=12)
    with ThreadPoolExecutor(12) as threads:
        urls = [server.url(f"/slow?seconds=0.02&n={n}", "polite.test") for n in range(24)]
        assert list(threads.map(fetcher.fetch, urls)) == [IMAGE] * 24
    assert server.peak_at_once["polite.test"] == 3


def test_standing_in_our_own_queue_costs_no_image_its_time(server, make):
    fetcher = make(per_host=1, timeout_seconds=0.8)
    with ThreadPoolExecutor(8) as threads:
        urls = [server.url(f"/slow?seconds=0.15&n={n}", "queue.test") for n in range(8)]
        assert list(threads.map(fetcher.fetch, urls)) == [IMAGE] * 8


def test_what_we_say_of_ourselves(server, make):
    sent = json.loads(make(user_agent_contact="https://example.org/crawl").fetch(server.url("/echo")))
    assert sent["user-agent"] == "bit-features (+https://example.org/crawl)"
    assert sent["accept-encoding"] == "identity"
    assert json.loads(make().fetch(server.url("/echo")))["user-agent"] == "bit-features"


def test_credentials_go_to_their_own_host_only(server, make):
    with_login = server.url("/echo").replace("//", "//user:p%40ss@")
    assert json.loads(make().fetch(with_login))["authorization"] == "Basic dXNlcjpwQHNz"
    for host, kept in (("127.0.0.1", True), ("other.test", False)):
        login = server.url(f"/redirect?to={server.url('/echo', host)}").replace("//", "//user:p%40ss@", 1)
        assert ("authorization" in json.loads(make().fetch(login))) is kept


def test_opt_out(server, make):
    for tag, code in (("noai", "opted_out"), ("otherbot: noai|all, noimageindex", "opted_out")):
        assert failure(make(), server.url(f"/robots?tag={tag}")).code == code
        assert make(honour_opt_out=False).fetch(server.url(f"/robots?tag={tag}")) == IMAGE
    assert make().fetch(server.url("/robots?tag=otherbot: noai")) == IMAGE


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "017700000001", "0", "[::ffff:127.0.0.1]", "any.test",
     "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "169.254.169.254", "metadata.test", "224.0.0.1"],
)  # fmt: skip
def test_private_addresses_get_no_packet(server, host):
    fetcher = Fetcher(FetchSettings(backoff_seconds=0.01))
    accepted = server.accepted
    error = failure(fetcher, f"http://{host}:{server.port}/image")
    assert error.code == "blocked_address"
    assert server.accepted == accepted
    fetcher.close()


def test_a_name_that_changes_its_address_after_the_check_is_asked_once(server, make, lookups):
    """The address that is checked is the one connected to: one lookup per connection."""
    assert make().fetch(server.url("/image", "rebind.test")) == IMAGE
    assert lookups == ["rebind.test"]


def test_a_dead_address_beside_a_live_one(server, make, monkeypatch):
    def getaddrinfo(host, port, *_):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("10.0.0.1", "127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert make().fetch(server.url("/image", "three.test")) == IMAGE


def test_unreachable(make):
    assert failure(make(), f"http://127.0.0.1:{closed_port()}/").code == "connect"
    assert failure(make(), "http://nowhere.invalid/").code == "dns"


@pytest.mark.parametrize(
    "uri", ["http://", "http:///a", "http://h:99999/", "http://[::1", "http:a", "https://%zz/"]
)
def test_bad_urls(make, uri):
    assert failure(make(), uri).code == "bad_uri"


def test_tls(server, make, authority, monkeypatch, tmp_path):
    good = f"https://good.test:{server.tls_port}"
    assert failure(make(), f"{good}/image").code == "tls"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    fetcher = make()
    assert fetcher.fetch(f"{good}/image") == IMAGE
    assert fetcher.fetch(f"{good}/hops?n=3") == IMAGE
    assert fetcher.fetch(f"https://127.0.0.1:{server.tls_port}/image") == IMAGE
    assert failure(fetcher, f"{good}/endless").code == "too_large"
    assert failure(make(timeout_seconds=0.3), f"{good}/drip").code == "timeout"
    wrong_name = failure(fetcher, f"https://wrong.test:{server.tls_port}/image")
    assert wrong_name.code == "tls"
    assert "certificate of wrong.test was refused" in str(wrong_name)
    assert failure(fetcher, f"https://127.0.0.1:{server.port}/image").code == "tls"  # plain HTTP behind it


def test_an_expired_certificate(make, authority, monkeypatch, tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    authority.issue_cert("127.0.0.1", not_after=yesterday).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with HttpServer(context) as server:
        error = failure(make(), f"https://127.0.0.1:{server.tls_port}/image")
    assert (error.code, "expired" in str(error)) == ("tls", True)


def test_proxies_are_ignored_unless_asked_for(server, make, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert failure(make(), "http://nowhere.invalid/image").code == "dns"
    assert make(trust_env_proxies=True).fetch("http://nowhere.invalid/image") == IMAGE
    assert server.requests["http://nowhere.invalid/image"] == 1
    sent = json.loads(make(trust_env_proxies=True).fetch("http://nowhere.invalid/echo"))
    assert sent["proxy-authorization"] == "Basic dTpw"
    # Behind a proxy no address is known, but one in the URL is still checked.
    assert failure(make(trust_env_proxies=True), "http://10.0.0.1/image").code == "blocked_address"
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    assert failure(make(trust_env_proxies=True), "http://nowhere.invalid/image").code == "dns"


def test_a_proxy_without_a_scheme_and_stray_percent_signs_through_it(server, make, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("all_proxy", f"127.0.0.1:{server.port}")
    fetcher = make(trust_env_proxies=True)
    assert fetcher.fetch("http://nowhere.invalid/image/50% of it#no") == IMAGE
    assert server.requests["http://nowhere.invalid/image/50%%20of%20it"] == 1
    monkeypatch.setenv("no_proxy", f"127.0.0.0/8:{server.port}, 127.0.0.1:{server.port}")
    assert fetcher.fetch(server.url("/image?direct")) == IMAGE
    assert server.requests["/image?direct"] == 1


@contextlib.contextmanager
def tunnel_to(port):
    """A proxy that answers each CONNECT with a tunnel to a port of this machine; gives its own port."""

    def pump(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += client.recv(1)
                asked.append(head.split(b" HTTP/")[0])
                client.sendall(b"HTTP/1.1 200 Connected\r\nVia: here\r\n\r\n")
                server = socket.create_connection(("127.0.0.1", port))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], asked


def test_tls_goes_through_a_proxy(server, make, authority, monkeypatch, tmp_path):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for name in ("all_proxy", "ALL_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with tunnel_to(server.tls_port) as (port, asked):
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        assert make(trust_env_proxies=True).fetch("https://good.test/image/100%#a") == IMAGE
        assert make(trust_env_proxies=True).fetch("https://good.test/hints?code=103") == IMAGE
    assert asked == [b"CONNECT good.test:443"] * 2
    assert server.requests["/image/100%"] == 1


def traceback_of(fetcher, url):
    try:
        fetcher.fetch(url)
    except ItemError:
        return traceback.format_exc()
    return ""


def test_no_secret_and_no_spam_in_messages_and_logs(server, make, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    fetcher = make(retries=1, timeout_seconds=0.6)
    shown = ""
    paths = [
        "/image",
        "/status?code=500",
        "/close",
        "/short",
        "/garbage",
        "/huge",
        "/loop",
        "/silent",
        "/gzip-cut",
    ]
    for path in (
        *paths,
        "/redirect?to=http://10.0.0.1/?sig=SECRET",
        "/redirect?to=http://u:SECRET@gone.invalid/",
    ):
        url = server.url(path + ("&" if "?" in path else "?") + "X-Amz-Signature=SECRET")
        shown += traceback_of(fetcher, url.replace("//", "//SECRET:SECRET@", 1))
    assert shown.count("ItemError: ") == len(paths) + 1  # all but the good one
    assert "SECRET" not in shown
    assert "SECRET" not in caplog.text
    assert [record.message for record in caplog.records if record.name.startswith("urllib3")] == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_ten_thousand_urls(server, make):
    """Every URL has the expected outcome; sockets, threads and memory stay bounded. About 10 s."""
    outcomes = {
        "/status?code=404": ("not_found", 1000),
        "/status?code=500": ("http_5xx", 300),
        "/status?code=429": ("http_4xx", 100),
        "/robots?tag=noai": ("opted_out", 500),
        "/huge": ("too_large", 300),
        "/endless": ("too_large", 300),
        "/gzip-bomb": ("too_large", 200),
        "/short": ("truncated", 200),
        "/close": ("connect", 200),
        "/reset": ("connect", 200),
        "/garbage": ("bad_response", 200),
        "/loop": ("too_many_redirects", 100),
        "/redirect?to=http://169.254.169.254/": ("blocked_address", 300),
        "/hops?n=2": ("ok", 300),
        "/drip": ("timeout", 20),
        "/silent": ("timeout", 20),
    }
    urls = []
    for path, (code, count) in outcomes.items():
        # The host that reports overload is then paused for a moment.
        host = "limited.test" if "429" in path else "h{}.test"
        urls += [(server.url(path, host.format(n % 100)), code) for n in range(count)]
    urls += [("http://gone.invalid/", "dns")] * 200 + [("http://10.0.0.1/", "blocked_address")] * 200
    urls += [("http://user:x@/", "bad_uri")] * 100
    urls += [(server.url(f"/image?n={n}", f"h{n % 100}.test"), "ok") for n in range(10_000 - len(urls))]
    random.Random(0).shuffle(urls)

    fetcher = make(max_bytes=256 << 10, retries=1, timeout_seconds=9)

    def outcome(url):
        try:
            return "ok" if fetcher.fetch(url) == IMAGE else "wrong bytes"
        except ItemError as error:
            return error.code

    gc.collect()
    resident, descriptors, threads_before = resident_bytes(), open_descriptors(), threading.active_count()
    with ThreadPoolExecutor(32) as threads:
        codes = list(threads.map(outcome, (url for url, _ in urls)))
        open_at_end = open_descriptors() - descriptors
    wrong = Counter((want, got) for (_, want), got in zip(urls, codes, strict=True) if want != got)
    assert len(codes) == 10_000
    assert wrong == {}
    assert Counter(codes)["ok"] > 5_000
    # 32 in use, and those kept in the pools of the 32 hosts used last. Both ends are in this process.
    assert server.peak_connections <= 128
    assert open_at_end <= 2 * 128
    assert threading.active_count() - threads_before <= 32  # the lookups'
    assert resident_bytes() - resident < 100 << 20


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))
