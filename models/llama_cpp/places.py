"""Which models are in memory: there are so many places, and who needs one waits until another leaves."""

import asyncio
from typing import Protocol


class Tenant(Protocol):
    """One that holds a place, or waits for one."""

    @property
    def rested_at(self) -> float | None:
        """Since when it has had nothing to do; None while it works."""
        ...

    def make_way(self, yes: bool) -> None:
        """Asks it to begin nothing new and to leave as soon as it has nothing to do; or takes that back."""
        ...


class Places:
    """Room for `limit` tenants. A place goes to who has waited longest for one.

    As many as wait are asked to make way: first those at rest, the one least recently used before the others, then
    those at work that came first. So everybody gets a turn, and a turn lasts at least for what it began with.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders: list[Tenant] = []
        self._waiting: dict[Tenant, asyncio.Future[bool]] = {}

    async def take(self, tenant: Tenant) -> bool:
        """Returns when the tenant has a place, or False when it has withdrawn. A place must be given back."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[tenant] = turn
        self.arrange()
        try:
            return await turn
        except asyncio.CancelledError:
            self.withdraw(tenant)
            self.give(tenant)
            raise

    def withdraw(self, tenant: Tenant) -> None:
        """The tenant no longer waits for a place."""
        if turn := self._waiting.pop(tenant, None):
            if not turn.done():
                turn.set_result(False)
            self.arrange()

    def give(self, tenant: Tenant) -> None:
        """Gives a place back."""
        if tenant in self._holders:
            self._holders.remove(tenant)
            self.arrange()

    def arrange(self) -> None:
        """Fills free places, and decides who is to make way. To be called when a tenant comes to rest, too."""
        while self._waiting and len(self._holders) < self._limit:
            tenant = next(iter(self._waiting))
            turn = self._waiting.pop(tenant)
            if not turn.cancelled():
                self._holders.append(tenant)
                turn.set_result(True)
        for rank, tenant in enumerate(sorted(self._holders, key=_usefulness)):
            tenant.make_way(rank < len(self._waiting))


def _usefulness(tenant: Tenant) -> tuple[bool, float]:
    rested_at = tenant.rested_at
    return rested_at is None, rested_at or 0.0
