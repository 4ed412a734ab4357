"""Whose address a request comes from: the peer's, or, behind a trusted proxy, the one that the proxy saw."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: How proxies write an address with its port.
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]*)\](:\d{1,5})?|(?P<v4>[\d.]+):\d{1,5}", re.ASCII)
#: Who has one address of an IPv6 network has all of these: the least that a subscriber is given (RFC 6177).
_SUBSCRIBER_BITS: Final = 64


def parse_networks(networks: Sequence[str]) -> tuple[IpNetwork, ...]:
    """Addresses and networks of the configuration, which has checked them."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def client_address(peer: str, forwarded: str | None, trusted: tuple[IpNetwork, ...]) -> str:
    """Who asks: the peer, or behind a trusted proxy the right-most address of X-Forwarded-For that is not one.

    Each proxy appends the address that it saw, so what stands further left is only hearsay, and what stands left of
    an entry that cannot be read as well: then it is the proxy that wrote that entry.
    """
    hop = parse_address(peer)
    if hop is None:
        return peer
    for entry in reversed((forwarded or "").split(",")):
        found = _parse_entry(entry)
        if found is None or not is_within(hop, trusted):
            break
        hop = found
    return str(hop)


def is_trusted(peer: str, trusted: tuple[IpNetwork, ...]) -> bool:
    """Whether a peer speaks for others."""
    address = parse_address(peer)
    return address is not None and is_within(address, trusted)


def limited_as(address: str) -> str:
    """What limits by address count: an IPv6 address as its /64, for one client has all of that to choose from."""
    found = parse_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _SUBSCRIBER_BITS), strict=False))
    return address


def _parse_entry(text: str) -> IpAddress | None:
    found = _WITH_PORT.fullmatch(text.strip())
    return parse_address(text if found is None else found["v6"] or found["v4"] or "")


def parse_address(text: str) -> IpAddress | None:
    """The address without its scope; an IPv4 client of an IPv6 socket is an IPv4 one. None for garbage."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_within(address: IpAddress, networks: tuple[IpNetwork, ...]) -> bool:
    return any(address in network for network in networks)
