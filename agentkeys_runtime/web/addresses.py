"""Whose request it is, as far as an address can tell: of whoever connected, or of whom a trusted proxy names."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The highest price of a route: less than that in a burst would close it for ever.
LEAST_BURST: Final = 10
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
#: What one customer of a provider usually has: whoever holds one address of it holds all of them.
_IPV6_PREFIX: Final = 64
#: How IPv4 addresses look to servers that have IPv6 alone (RFC 6052); the last 32 bits are the address.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_MASK: Final = 2**32 - 1
_HOST_BITS: Final = 128 - _IPV6_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """What an address may ask for without a registered device behind it, and how its address is known.

    `per_second` tokens come back, up to `burst`. `remembered` addresses are counted at once; whoever was silent for
    longest is forgotten first. `proxies` are the addresses or networks of our own reverse proxies: from there, and from
    nowhere else, `header` tells who asks, a list to which each proxy adds the address that it was asked from.
    """

    per_second: float = 10.0
    burst: float = 600.0
    remembered: int = 16_384
    proxies: tuple[str, ...] = ()
    header: str = "X-Forwarded-For"

    def __post_init__(self) -> None:
        if not self.per_second > 0:
            raise ValueError("per_second must be positive")
        if not self.burst >= LEAST_BURST:
            raise ValueError(f"burst must be at least {LEAST_BURST}")
        if self.remembered < 1:
            raise ValueError("remembered must be at least 1")
        if not _HEADER.fullmatch(self.header):
            raise ValueError("header is not the name of a header")
        if self.header.lower() == "forwarded":
            raise ValueError("header: Forwarded (RFC 7239) is no plain list of addresses, which alone is read")
        for proxy in self.proxies:
            _network(proxy)


class Senders:
    """Names the sender of a request."""

    def __init__(self, limits: AddressLimits) -> None:
        self._header = limits.header.lower()
        self._proxies = tuple(_network(proxy) for proxy in limits.proxies)

    def of(self, peer: str, headers: Mapping[str, str]) -> str:
        """The sender's IPv4 address, or the /64 of its IPv6 address.

        What a proxy of ours was asked from stands last in its header. Further left stands what others said: it is read
        only where a proxy of ours said it.

        Args:
            peer: the address of whoever connected, "" where there is none.
            headers: by lower-case name; one that was sent several times is joined with commas.
        """
        address = _parsed(peer)
        if address is None:
            return peer
        for text in reversed(headers.get(self._header, "").split(",")):
            named = _parsed(text) if self._is_ours(address) else None
            if named is None:
                break
            address = named
        return _sender(address)

    def _is_ours(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"proxies: {text!r} is neither an address nor a network") from error


def _parsed(text: str) -> Address | None:
    """An address as it is, in brackets, or with the port that some proxies add; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    if found in _NAT64:
        return ipaddress.IPv4Address(int(found) & _IPV4_MASK)
    return found.ipv4_mapped or ipaddress.IPv6Address(int(found))  # without the scope of a link


def _sender(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    prefix = int(address) >> _HOST_BITS << _HOST_BITS
    return f"{ipaddress.IPv6Address(prefix)}/{_IPV6_PREFIX}"
