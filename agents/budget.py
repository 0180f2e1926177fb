"""What a run may spend: calls of models and tools, tokens, seconds. Checked before every call and in token loops."""

import time
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

RESERVE = 0.15
"""Share of tokens and seconds that is kept back for the final answer."""
LEAST_TOKENS = 256
"""Tokens that are kept back at least."""


class Limits(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits of a run; None: none."""

    calls: Annotated[int, Meta(ge=1)] | None = None
    """Calls of models."""
    tool_calls: Annotated[int, Meta(ge=0)] | None = None
    tokens: Annotated[int, Meta(ge=1)] | None = None
    """Tokens of prompts and answers together."""
    seconds: Annotated[float, Meta(gt=0)] | None = None


UNLIMITED = Limits()


class Exhausted(Exception):
    """A budget is used up; `what` is `calls`, `tool_calls`, `tokens` or `seconds`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Budget:
    """What is left of some limits. What a part of a run spends, the whole has spent.

    Args:
        limits: what may be spent.
        clock: seconds of work; it stands still while a run is paused.
        began: when the work began, by the clock; None: now.
        parent: the whole that this is a part of.
    """

    def __init__(
        self,
        limits: Limits = UNLIMITED,
        *,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        parent: "Budget | None" = None,
    ) -> None:
        self.limits = limits
        self.calls = 0
        self.tool_calls = 0
        self.tokens = 0
        self._clock = clock
        self._began = clock() if began is None else began
        self._parent = parent
        self._held = _held(limits)

    @property
    def seconds(self) -> float:
        """How long the work has taken."""
        return self._clock() - self._began

    def check(self) -> None:
        """Whether anything may still be spent.

        Raises:
            Exhausted: nothing more, but for the final answer.
        """
        for what in ("calls", "tokens", "seconds"):
            if self.left(what) <= 0:
                raise Exhausted(what)

    def left(self, what: str) -> float:
        """How much of one thing is left, what is kept back for the final answer not counted."""
        limit = getattr(self.limits, what)
        own = float("inf") if limit is None else limit - self._held.get(what, 0) - getattr(self, what)
        return own if self._parent is None else min(own, self._parent.left(what))

    def call(self) -> None:
        """A model is called.

        Raises:
            Exhausted: it may not be.
        """
        self.check()
        self._spend("calls", 1)

    def use_tool(self) -> None:
        """A tool is called.

        Raises:
            Exhausted: it may not be.
        """
        self.check()
        if self.left("tool_calls") <= 0:
            raise Exhausted("tool_calls")
        self._spend("tool_calls", 1)

    def recall(self, *, calls: int = 0, tool_calls: int = 0, tokens: int = 0) -> None:
        """Counts what was spent before, where a run is taken up again."""
        self._spend("calls", calls)
        self._spend("tool_calls", tool_calls)
        self._spend("tokens", tokens)

    def spend(self, tokens: int) -> None:
        """Tokens were used; less than none, where they had been counted too high."""
        budget: Budget | None = self
        while budget is not None:
            budget.tokens += tokens
            budget = budget._parent

    def runs_out(self) -> bool:
        """Whether tokens or seconds are used up. Asked at every token, so it does no more than it must."""
        budget: Budget | None = self
        while budget is not None:
            limits, held = budget.limits, budget._held
            if limits.tokens is not None and budget.tokens >= limits.tokens - held.get("tokens", 0):
                return True
            if limits.seconds is not None and budget.seconds >= limits.seconds - held.get("seconds", 0):
                return True
            budget = budget._parent
        return False

    def part(self, limits: Limits) -> "Budget":
        """A budget within this one."""
        return Budget(limits, clock=self._clock, parent=self)

    def release(self) -> None:
        """Lets the final answer use what was kept back for it here; what the whole keeps back is for the whole's."""
        self._held = {}

    def _spend(self, what: str, amount: int) -> None:
        budget: Budget | None = self
        while budget is not None:
            setattr(budget, what, getattr(budget, what) + amount)
            budget = budget._parent


def _held(limits: Limits) -> dict[str, float]:
    held: dict[str, float] = {}
    if limits.calls is not None:
        held["calls"] = 1 if limits.calls > 1 else 0
    if limits.tokens is not None:
        held["tokens"] = min(max(LEAST_TOKENS, limits.tokens * RESERVE), limits.tokens / 2)
    if limits.seconds is not None:
        held["seconds"] = limits.seconds * RESERVE
    return held
