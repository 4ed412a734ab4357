"""Whose address a request comes from: the peer's, or, behind a trusted proxy, the one that the proxy saw."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(networks: Sequence[str]) -> tuple[IpNetwork, ...]:
    """Addresses and networks of the configuration, which has checked them."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def client_address(peer: str, forwarded: str | None, trusted: tuple[IpNetwork, ...]) -> str:
    """Who asks: the peer, or behind a trusted proxy the right-most address of X-Forwarded-For that is not one.

    Each proxy appends the address that it saw, so what stands further left is only hearsay.
    """
    address = parse_address(peer)
    if address is None:
        return peer
    if forwarded is not None and is_within(address, trusted):
        for entry in reversed(forwarded.split(",")):
            hop = parse_address(entry)
            if hop is not None and not is_within(hop, trusted):
                return str(hop)
    return str(address)


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
