"""Whose a request is, as far as networks tell: what one customer of a provider has, and what one site has."""

import ipaddress
from functools import lru_cache
from typing import Final

#: What a provider gives a site at most (RFC 6177): whoever has it has all its networks of /64.
_SITE_PREFIX: Final = 48


@lru_cache(maxsize=1024)
def site_of(client: str) -> str:
    """The /48 of an IPv6 network, else the IPv4 address itself. `client` is as in `Claim`."""
    try:
        network = ipaddress.IPv6Network(client)
    except ValueError:
        return client
    return str(network.supernet(new_prefix=min(_SITE_PREFIX, network.prefixlen)))
