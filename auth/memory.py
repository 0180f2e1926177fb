"""A memory for principals, so that a request need not ask the database who it comes from."""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from auth.users import Clock, Principal

FRESH = 1.0
"""Seconds that a principal is remembered: so long a revoked key may go on in another process."""
MOST = 10_000
"""Principals that are remembered at once."""


class Known(Struct, frozen=True):
    """A principal, and until when it need not be looked up again."""

    principal: Principal
    until: float


class Memory:
    """Remembers principals by a digest of their credential. Those who ask for the same one wait for one look-up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[bytes, Known] = {}
        self._asked: dict[bytes, asyncio.Task[Principal]] = {}

    async def recall(self, digest: bytes, look_up: Callable[[], Awaitable[Principal]]) -> Principal:
        """The principal for that digest, looked up where it is not remembered."""
        known = self._known.get(digest)
        # The upper bound is for a wall clock that was set back.
        if known is not None and 0 < known.until - self._clock() <= FRESH:
            return known.principal
        return await self._ask(digest, look_up)

    def forget(self) -> None:
        """Forgets everybody: someone's rights have changed. Look-ups under way are not remembered either."""
        self._known = {}
        self._asked = {}

    async def _ask(self, digest: bytes, look_up: Callable[[], Awaitable[Principal]]) -> Principal:
        asked = self._asked
        if digest not in asked:
            asked[digest] = asyncio.create_task(self._learn(digest, look_up))
            asked[digest].add_done_callback(lambda task: settle(asked, digest, task))
        # Shielded: one caller that goes away must not take the answer from the others.
        return await asyncio.shield(asked[digest])

    async def _learn(self, digest: bytes, look_up: Callable[[], Awaitable[Principal]]) -> Principal:
        known = self._known
        since = self._clock()
        principal = await look_up()
        known.pop(digest, None)
        if len(known) >= MOST:
            known.pop(next(iter(known)))
        known[digest] = Known(principal, min(since + FRESH, principal.expires_at or since + FRESH))
        return principal


def settle(asked: dict[bytes, asyncio.Task[Principal]], digest: bytes, task: asyncio.Task[Principal]) -> None:
    """Makes room for the next look-up. Takes note of a failure that nobody waited for any more."""
    del asked[digest]
    if not task.cancelled():
        task.exception()
