"""Which addresses a URL that a model or a stranger has written may lead to: those of the public internet.

A name is looked up once, all its addresses are checked, and the connection is made to one of these very addresses.
Numbers in odd forms (decimal, octal, short) are looked up like names, and it is what they stand for that is checked.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name. Raises OSError where there are none."""


class NotPublic(Exception):
    """A host is, or could be, inside of somebody's network."""


# The special-purpose address registries of IANA (RFC 6890), all that is not for everyone: also where they say "globally
# reachable", such as 192.88.99.0/24, since what is there forwards to what is inside of a packet.
_CLOSED_4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Azure's host agent and metadata, on an address like any other:
        # https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
        "168.63.129.16/32",
    )
)
_OPEN_6 = IPv6Network("2000::/3")
"""All of IPv6 that is given out to the public; loopback, link-local, private (fc00::/7, AWS's fd00:ec2::254) and
multicast are outside, and so are the mapped and the translated forms of IPv4."""
_CLOSED_6 = tuple(
    IPv6Network(network)
    # Protocols and Teredo, documentation, 6to4, AS112, documentation.
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): how an IPv6 network reaches the IPv4 address in the last 32 bits."""


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the public internet. Anything but a plain address does not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return _public_6(parsed) if isinstance(parsed, IPv6Address) else _public_4(parsed)


def _public_4(address: IPv4Address) -> bool:
    return not any(address in network for network in _CLOSED_4)


def _public_6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return _public_4(address.ipv4_mapped)
    if address in _TRANSLATED:
        return _public_4(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _OPEN_6 and not any(address in network for network in _CLOSED_6)


async def look_up(host: str) -> list[str]:
    """The addresses of a host, as the system knows them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


class Resolver(AbstractResolver):
    """Looks names up for aiohttp's connector, which connects to what it is given and looks up nothing else.

    Args:
        look_up: finds the addresses of a name.
        public: whether every one of them must be public.
    """

    def __init__(self, look_up: Lookup, *, public: bool) -> None:
        self._look_up = look_up
        self._public = public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host. Raises NotPublic, and OSError where the name is not known."""
        addresses = list(dict.fromkeys(await self._look_up(host)))
        # One private address among public ones is enough for an attack: which one answers is up to the network.
        if self._public and not all(is_public(address) for address in addresses):
            raise NotPublic
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST
    )


def public_socket(address: AddrInfoType) -> socket.socket:
    """A socket to connect to an address: a connector's last step, which hosts that are numbers come to, too.

    Raises:
        NotPublic: it must not be connected to.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public(host):
        raise NotPublic
    return socket.socket(family, kind, protocol)
