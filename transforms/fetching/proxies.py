"""The proxies that the environment names, read as curl reads them."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from typing import NamedTuple

_HOW = "http://HOST:PORT or https://HOST:PORT"


class BadProxy(ValueError):
    """A variable names a proxy that cannot be used; the message says which, and what to do."""


class Proxy(NamedTuple):
    """A proxy's URL, and the variable that names it."""

    url: str
    variable: str


def proxy_for(scheme: str, or_all: bool = True) -> Proxy | None:
    """The proxy for URLs of a scheme; None if there is none. Without a scheme of its own it is an http:// one.

    `or_all`: whether all_proxy counts where the scheme has none. Raises BadProxy for what is no HTTP proxy, such as a SOCKS one.
    """
    proxies = urllib.request.getproxies()
    name = next((name for name in (scheme, "all")[: 1 + or_all] if proxies.get(name)), None)
    if name is None:
        return None
    url = proxies[name].strip()
    variable = next(
        (v for v in (f"{name}_proxy", f"{name}_proxy".upper()) if os.environ.get(v)), f"{name}_proxy"
    )
    own_scheme, colon, rest = url.partition("://")
    if not colon:
        own_scheme, rest = "http", url
    own_scheme = own_scheme.lower()
    if own_scheme.startswith("socks"):
        raise BadProxy(
            f"{variable} names a SOCKS proxy ({own_scheme}://), which is not supported: set it to {_HOW}, add the hosts "
            "that need no proxy to no_proxy, or unset it"
        )
    if own_scheme not in ("http", "https") or not re.match(r"([^/@]*@)?[^/@:\s]", rest):
        raise BadProxy(f"{variable} is not the URL of a proxy: set it to {_HOW}, or unset it")
    return Proxy(f"{own_scheme}://{rest}", variable)


def is_bypassed(host: str, port: int | None) -> bool:
    """Whether no_proxy says that a host is to be reached directly.

    Its entries are separated by commas or blanks: `*`; a name, also with a dot or `*.` before it, that stands for what is
    below it too; an IP address; a network such as 10.0.0.0/8; any of them but networks with a port.
    """
    bare = host.strip("[]").rstrip(".").lower()
    entries = re.split(r"[,\s]+", urllib.request.getproxies().get("no", "").lower())
    return any(_covers(entry, bare, port) for entry in entries if entry)


def _covers(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*):(\d+)", entry)
    if match:
        if int(match[2]) != port:
            return False
        entry = match[1]
    entry = entry.strip("[]")
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".").rstrip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
