"""How often one may try to log in."""

import ipaddress
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.strategies import RateLimiter

from auth.errors import TooManyAttempts

PER_NAME = RateLimitItemPerMinute(10, 5, namespace="login")
"""Ten for a name from one address in five minutes."""
PER_ADDRESS = RateLimitItemPerMinute(50, 5, namespace="login")
"""Fifty from one address in five minutes, whatever the names."""


class Attempts:
    """Counts attempts to log in or register."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def count(self, address: str, name: str | None = None) -> None:
        """Counts one, before it is known how it ends: many at once must not all pass.

        Raises:
            TooManyAttempts: there were too many.
        """
        block = neighbourhood(address)
        await self._hit(PER_ADDRESS, block)
        if name is not None:
            await self._hit(PER_NAME, block, name)

    async def forgive(self, address: str, name: str) -> None:
        """Forgets the attempts for a name, after one that was right."""
        await self._limiter.clear(PER_NAME, neighbourhood(address), name)

    async def _hit(self, item: RateLimitItem, *identifiers: str) -> None:
        if not await self._limiter.hit(item, *identifiers):
            window = await self._limiter.get_window_stats(item, *identifiers)
            # The library counts by the wall clock.
            raise TooManyAttempts("Too many attempts. Try again later.", window.reset_time - time.time())


def neighbourhood(address: str) -> str:
    """The address, or the /64 of an IPv6 one: whoever has one of these has all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return address
