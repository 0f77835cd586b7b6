"""Which network addresses a URL from an untrusted list may reach, and the lookup of host names."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import socket
from collections.abc import Iterable

from transforms.errors import ItemError
from transforms.fetching.deadline import Deadline, TransientError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The IANA special-purpose registries (RFC 6890 and its updates), spelt out because `ipaddress.is_global` changed
# between Python versions and permits addresses that embed others.
_REFUSED = tuple(
    ipaddress.ip_network(cidr)
    for cidr in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's platform endpoint, a public address that is reachable from inside only
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/63", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_OF_USERS = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "::1/128",
            "fc00::/7",
        ),
    )
)
_EMBEDS_IN_LAST_32_BITS = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))


class AddressGuard:
    """Permits addresses, not names, so that no name, redirect or second DNS answer leads into a private network."""

    def __init__(self, allow: Iterable[str] = ()):
        self._allowed = tuple(ipaddress.ip_network(cidr) for cidr in allow)

    def permits(self, address: Address) -> bool:
        """Whether an address may be reached; one that embeds an IPv4 address only if that may be reached, too."""
        embedded = _embedded_ipv4(address)
        if embedded is not None and not self.permits(embedded):
            return False
        return _in_any(address, self._allowed) or not (
            _in_any(address, _REFUSED) or address.is_private or address.is_multicast
        )

    def check_literal(self, host: str) -> None:
        """Raises ItemError 'blocked_address' if the host is an IP address that is not permitted."""
        address = _literal(host)
        if address is not None and not self.permits(address):
            raise blocked(host, [address])


def private_network(address: Address) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The private network that an address is of, if it is one that a user may have images on."""
    return next((network for network in _OF_USERS if _in_any(address, [network])), None)


def blocked(host: str, addresses: Iterable[Address]) -> ItemError:
    """The error for a host whose addresses are refused."""
    return ItemError(
        "blocked_address",
        f"{host} leads to {', '.join(map(str, addresses))}, not a public address; "
        "--allow_private_networks can permit it",
    )


class Resolver:
    """Looks names up on threads of its own, as getaddrinfo cannot be interrupted but a wait for it can."""

    def __init__(self, threads: int):
        self._lookups = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="dns")

    def resolve(self, host: str, port: int, seconds: float, deadline: Deadline) -> list[tuple[int, tuple]]:
        """The host's socket addresses as (family, sockaddr), in the system's order of preference.

        Raises:
          ItemError: 'dns', or 'bad_uri' for a name that is not valid in the DNS.
        """
        name = host.strip("[]")
        flags = socket.AI_NUMERICHOST if _literal(name) is not None else 0
        lookup = self._lookups.submit(
            socket.getaddrinfo, name, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags
        )
        try:
            results = lookup.result(timeout=min(seconds, deadline.left()))
        except concurrent.futures.TimeoutError:
            lookup.cancel()
            raise TransientError("dns", f"no answer to the lookup of {host}") from None
        except socket.gaierror as error:
            kind = TransientError if error.errno == socket.EAI_AGAIN else ItemError
            raise kind("dns", f"the lookup of {host} failed: {error.strerror}") from None
        except UnicodeError:
            raise ItemError("bad_uri", f"{host!r} cannot be a host's name") from None
        return [(family, address) for family, _, _, _, address in results]

    def close(self) -> None:
        """Does not wait for lookups in progress."""
        self._lookups.shutdown(wait=False, cancel_futures=True)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _in_any(address: Address, networks) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback or address.is_unspecified:
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    if _in_any(address, _EMBEDS_IN_LAST_32_BITS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
