"""Proxies of the environment: which URL they have, and which hosts they are not for."""

import pytest

from transforms.fetching import proxies
from transforms.fetching.proxies import BadProxy, is_bypassed, proxy_for


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("proxy", "http://proxy"),
        ("user:p%40ss@proxy:3128/", "http://user:p%40ss@proxy:3128/"),
        (" HTTP://proxy:1 ", "http://proxy:1"),
        ("https://proxy", "https://proxy"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("10.0.0.1:3128", "http://10.0.0.1:3128"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy(monkeypatch, value, url, variable):
    monkeypatch.setenv(variable, value)
    assert proxy_for("http") == (url, variable)
    assert proxy_for("https") == (None if "http" in variable.lower() else (url, variable))
    assert proxy_for("https", or_all=False) is None


def test_the_proxy_of_a_scheme_comes_before_that_of_all(monkeypatch):
    assert proxy_for("http") is None
    monkeypatch.setenv("all_proxy", "socks5://a")
    monkeypatch.setenv("http_proxy", "b")
    assert proxy_for("http").url == "http://b"
    with pytest.raises(BadProxy, match=r"^all_proxy names a SOCKS proxy"):
        proxy_for("https")


@pytest.mark.parametrize(
    "value", ["socks5://p", "socks5h://p:1", "SOCKS4://p", "ftp://p", "http://", "://p", "http:///p"]
)
def test_what_is_no_http_proxy_is_refused(monkeypatch, value):
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(BadProxy, match=r"^https_proxy .*http://HOST:PORT"):
        proxy_for("https")


@pytest.mark.parametrize(
    ("no_proxy", "hosts", "others"),
    [
        ("*", ["a", "10.0.0.1"], []),
        ("example.org", ["example.org", "EXAMPLE.org.", "a.b.example.org"], ["anexample.org", "example.org.uk"]),
        (".example.org", ["example.org", "a.example.org"], ["anexample.org"]),
        ("*.example.org", ["a.example.org"], ["anexample.org"]),
        ("a, b\tc", ["a", "b", "c"], ["d"]),
        ("10.0.0.0/8,::1", ["10.1.2.3", "[::1]"], ["11.0.0.1", "[::2]", "ten.org"]),
        ("10.1.2.3/8", ["10.9.9.9"], ["11.0.0.1"]),
        ("[fd00::]/8,[::1]:80", ["[::1]"], ["[::2]"]),
        ("a:80,b:81,[10.0.0.1]:80", ["a", "10.0.0.1"], ["b"]),
        (",, ,.", [], ["a"]),
        ("", [], ["a"]),
    ],
)  # fmt: skip
def test_hosts_without_a_proxy(monkeypatch, no_proxy, hosts, others):
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert [host for host in hosts + others if is_bypassed(host, 80)] == hosts


def test_messages_hold_no_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://user:SECRET@proxy")
    with pytest.raises(proxies.BadProxy) as raised:
        proxy_for("http")
    assert "SECRET" not in str(raised.value)
