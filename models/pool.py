"""Several sites that serve as one: whom to ask next, and whom to leave alone for a while."""

import time
from asyncio import gather
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

from models.backend import BackendFailed, BackendTimeout, Busy, ModelError, ModelNotFound, Unavailable
from models.http import Site, cut

Answer = TypeVar("Answer")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds for which a site that failed is left alone: doubled with each failure in a row."""


class Member:
    """A site, and what is known of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.in_flight = 0
        self.models: frozenset[str] | None = None
        """As last listed; None: not known."""
        self.last_error = ""
        self._failures = 0
        self._resting_until = 0.0

    @property
    def alive(self) -> bool:
        """Whether it answered when it was last asked."""
        return not self._failures

    def has(self, model: str) -> bool:
        """Whether `model` may be here."""
        return self.models is None or model in self.models

    def waits(self, now: float) -> bool:
        """Whether it is to be asked only if nobody else can be: it failed, and rests or has its one trial."""
        return self._failures > 0 and (now < self._resting_until or self.in_flight > 0)

    def answered(self) -> None:
        """It can be reached."""
        self._failures = 0

    def failed(self, error: ModelError) -> None:
        """Remembers an error, and rests if the site cannot be reached."""
        if isinstance(error, Unavailable | BackendTimeout | BackendFailed):
            self.last_error = cut(error.message)
        if isinstance(error, Unavailable):
            self._resting_until = time.monotonic() + min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._failures = min(self._failures + 1, 16)
        elif not isinstance(error, BackendTimeout):
            self.answered()

    def status(self) -> dict[str, Any]:
        """For /health/status."""
        return {
            "url": self.site.label,
            "alive": self.alive,
            "in_flight": self.in_flight,
            "last_error": self.last_error or None,
        }


class Pool:
    """The sites of one backend."""

    def __init__(self, sites: Sequence[Site]) -> None:
        if not sites:
            raise ValueError("a backend needs at least one base URL")
        self.members = [Member(site) for site in sites]
        self._turns = count()

    @asynccontextmanager
    async def answer(self, model: str, ask: Callable[[Site], Awaitable[Answer]]) -> AsyncIterator[Answer]:
        """What `ask` gets from the first member that can serve; the member counts as occupied until the block ends."""
        refusals: list[ModelError] = []
        for member in self._candidates(model):
            member.in_flight += 1
            try:
                try:
                    answer = await ask(member.site)
                except (Unavailable, Busy, ModelNotFound) as refusal:
                    member.failed(refusal)
                    refusals.append(refusal)
                    continue
                member.answered()
                yield answer
                return
            except ModelError as error:
                member.failed(error)
                raise
            finally:
                member.in_flight -= 1
        raise min(refusals, key=_severity)

    async def answers(self, ask: Callable[[Site], Awaitable[Answer]]) -> list[tuple[Member, Answer]]:
        """What `ask` gets from each member that can be reached; raises if none can."""
        outcomes = await gather(*(_outcome(member, ask) for member in self.members))
        answers = [(member, answer) for member, answer, _ in outcomes if answer is not None]
        if not answers:
            raise next(error for _, _, error in outcomes if error is not None)
        return answers

    def census(self) -> str:
        """How many members can be reached, in words."""
        return f"{sum(member.alive for member in self.members)} of {len(self.members)} servers answer"

    def status(self) -> list[dict[str, Any]]:
        """For /health/status."""
        return [member.status() for member in self.members]

    def _candidates(self, model: str) -> list[Member]:
        if len(self.members) == 1:
            return self.members
        now = time.monotonic()
        # A model that nobody has listed may have come since.
        members = [member for member in self.members if member.has(model)] or self.members
        turn = next(self._turns) % len(members)
        return sorted(members[turn:] + members[:turn], key=lambda member: (member.waits(now), member.in_flight))


async def _outcome(
    member: Member, ask: Callable[[Site], Awaitable[Answer]]
) -> tuple[Member, Answer | None, ModelError | None]:
    try:
        answer = await ask(member.site)
    except ModelError as error:
        member.failed(error)
        return member, None, error
    member.answered()
    return member, answer, None


def _severity(refusal: ModelError) -> int:
    """Of several refusals the least final is the truth about the whole: one member that is busy will serve later."""
    return (Busy, Unavailable, ModelNotFound).index(type(refusal))
