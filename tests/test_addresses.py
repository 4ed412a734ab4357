"""Whose address a request comes from, with and without proxies that are trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.limits.addresses import client_address, is_trusted, is_within, limited_as, parse_address, parse_networks

PROXIES = parse_networks(["10.0.0.0/8", "::1", "192.0.2.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1, 10.9.9.9, 192.0.2.1", "198.51.100.1"),
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "6.6.6.6, unknown", "10.1.2.3"),
        ("10.1.2.3", "6.6.6.6, unknown, 10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "6.6.6.6,, 10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "9.9.9.9:4711", "9.9.9.9"),
        ("10.1.2.3", "6.6.6.6, [2001:db8::1]:443, 10.9.9.9:80", "2001:db8::1"),
        ("10.1.2.3", "[2001:db8::1]", "2001:db8::1"),
        ("10.1.2.3", "6.6.6.6, 9.9.9.9:port", "10.1.2.3"),
        ("10.1.2.3", "6.6.6.6, []:443", "10.1.2.3"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", " 2001:db8::1 ", "2001:db8::1"),
        ("::1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.7", None, "203.0.113.7"),
        ("fe80::1%eth0", None, "fe80::1"),
        ("", None, ""),
        ("", "198.51.100.1", ""),
    ],
)
def test_client_is_the_last_hop_that_no_trusted_proxy_is(peer: str, forwarded: str | None, address: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


def test_nobody_is_believed_without_trusted_proxies() -> None:
    assert client_address("127.0.0.1", "198.51.100.1", ()) == "127.0.0.1"


def test_network_of_one_family_holds_nothing_of_the_other() -> None:
    address = parse_address("10.0.0.1")
    assert address is not None
    assert is_within(address, parse_networks(["10.0.0.0/8"]))
    assert not is_within(address, parse_networks(["::/0"]))


@given(st.text(max_size=60))
def test_a_stranger_writes_whatever_and_gets_an_address(forwarded: str) -> None:
    found = client_address("10.1.2.3", forwarded, PROXIES)
    assert parse_address(found) is not None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.7"),
        ("", ""),
    ],
)
def test_limits_count_an_ipv6_client_by_the_network_that_is_its_own(address: str, counted: str) -> None:
    assert limited_as(address) == counted


def test_a_peer_speaks_for_others_only_if_it_is_trusted() -> None:
    assert is_trusted("10.1.2.3", PROXIES)
    assert is_trusted("::ffff:10.1.2.3", PROXIES)
    assert not is_trusted("203.0.113.7", PROXIES)
    assert not is_trusted("", PROXIES)
