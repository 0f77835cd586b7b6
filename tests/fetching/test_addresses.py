"""Which addresses a URL may lead to."""

import ipaddress
import socket
import threading

import pytest

from transforms.errors import ItemError
from transforms.fetching.addresses import AddressGuard, Resolver
from transforms.fetching.deadline import Deadline, TransientError


def permits(address, *allow):
    return AddressGuard(allow).permits(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192",
        "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::a00:1",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1",
        "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    ],
)  # fmt: skip
def test_refuses_what_is_not_public(address):
    assert not permits(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"]
)
def test_permits_what_is_public(address):
    assert permits(address)


def test_allowed_networks():
    assert permits("10.1.2.3", "10.0.0.0/8")
    assert permits("::1", "::1/128")
    assert not permits("10.1.2.3", "192.168.0.0/16")
    # Allowing a network of embedded IPv4 addresses does not allow the private ones among them.
    assert permits("64:ff9b::8.8.8.8", "64:ff9b::/96")
    assert not permits("64:ff9b::10.0.0.1", "64:ff9b::/96")
    assert permits("64:ff9b::10.0.0.1", "64:ff9b::/96", "10.0.0.0/8")
    assert not permits("::ffff:10.0.0.1", "10.0.0.0/8")


def test_a_lookup_that_hangs_costs_its_caller_only_the_deadline(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(60))
    resolver = Resolver(threads=1)
    try:
        with pytest.raises(TransientError, match="no answer to the lookup of slow") as raised:
            resolver.resolve("slow.test", 80, 0.05, Deadline(10))
        assert raised.value.code == "dns"
    finally:
        answered.set()
        resolver.close()


@pytest.mark.parametrize(
    ("errno", "kind"), [(socket.EAI_AGAIN, TransientError), (socket.EAI_NONAME, ItemError)]
)
def test_a_lookup_that_fails(monkeypatch, errno, kind):
    def fail(*_):
        raise socket.gaierror(errno, "no luck")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    resolver = Resolver(threads=1)
    with pytest.raises(ItemError, match="no luck") as raised:
        resolver.resolve("gone.test", 80, 5, Deadline(10))
    assert (type(raised.value), raised.value.code) == (kind, "dns")
    resolver.close()
