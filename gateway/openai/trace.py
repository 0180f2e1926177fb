"""What an agent did, as text for people and as a report for programs. Both are folds of its events."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agents.events import (
    LIVE,
    Answer,
    AnyEvent,
    Consensus,
    Planned,
    Routed,
    Spoke,
    Stopped,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
    Voted,
    encode,
)
from agents.prompts import WHY

LONGEST_CALL = 600
LONGEST_RESULT = 600
"""Characters of a call and of its result that a reader is shown; the run's events have all of it."""


class ConsensusOut(Struct, frozen=True):
    """How far the voices agreed after a round."""

    round: int
    agreement: float
    detail: dict[str, Any] | UnsetType = UNSET


class RoutingOut(Struct, frozen=True):
    """Which agent `auto` chose, and how sure it was."""

    mode: str
    p: float
    runner_up: str
    reasons: tuple[str, ...]


class CallOut(Struct, frozen=True):
    """One call of a model."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    by: str | UnsetType = UNSET


class Report(Struct, frozen=True, omit_defaults=True):
    """Our own `x_agent`: how the answer came about."""

    mode: str
    run_id: str
    stop_reason: str
    iterations: int | UnsetType = UNSET
    tools_used: dict[str, int] | UnsetType = UNSET
    consensus: list[ConsensusOut] | UnsetType = UNSET
    routing: RoutingOut | UnsetType = UNSET
    calls: list[CallOut] | UnsetType = UNSET
    """Where an agent made more than one."""
    trace: list[msgspec.Raw] | UnsetType = UNSET
    """The durable events, where the request asks for them."""


class Tally:
    """Counts what a report tells, event by event."""

    def __init__(self, mode: str, run_id: str, *, trace: bool = False) -> None:
        self._mode = mode
        self._run_id = run_id
        self._tools: Counter[str] = Counter()
        self._calls: list[CallOut] = []
        self._consensus: list[ConsensusOut] = []
        self._routing: RoutingOut | UnsetType = UNSET
        self._trace: list[msgspec.Raw] | UnsetType = [] if trace else UNSET

    def add(self, event: AnyEvent) -> None:
        """Takes the next event."""
        match event:
            case ToolStarted():
                self._tools[event.call.name] += 1
            case Spoke():
                usage = event.usage
                by = event.by or UNSET
                self._calls.append(CallOut(event.model, usage.prompt_tokens, usage.completion_tokens, by))
            case Consensus():
                self._consensus.append(ConsensusOut(event.round, event.agreement, event.detail or UNSET))
            case Routed():
                self._routing = RoutingOut(event.mode, event.p, event.runner_up, event.reasons)
        if self._trace is not UNSET and not isinstance(event, LIVE):
            self._trace.append(msgspec.Raw(encode(event)))

    def report(self, answer: Answer) -> Report:
        """All of it, at the end."""
        return Report(
            self._mode,
            self._run_id,
            answer.reason or answer.finish,
            answer.iterations or UNSET,
            dict(self._tools) or UNSET,
            self._consensus or UNSET,
            self._routing,
            self._calls if len(self._calls) > 1 else UNSET,
            self._trace,
        )


class Narrator:
    """Tells the steps as text, which chat UIs fold away as reasoning."""

    def __init__(self) -> None:
        self._by = ""
        self._open = False
        """A line has been begun."""

    def tell(self, event: AnyEvent) -> str:
        """What an event adds; empty for what is part of the answer, or of no interest to people."""
        match event:
            case ThoughtDelta(text=text) | TextDelta(aside=True, text=text):
                return self._piece(event.by, text)
            case ToolStarted(call=call):
                return self._line(event.by, f"→ {call.name}({_short(call.arguments, LONGEST_CALL)})")
            case ToolFinished(result=result, failed=failed):
                mark = "✗" if failed else "←"
                return self._line(event.by, f"{mark} {_short(result, LONGEST_RESULT)}")
            case Planned(steps=steps):
                return self._line("", "Plan:\n" + "\n".join(steps))
            case Voted(vote=vote):
                return self._line(event.by, f"votes: {_short(vote, LONGEST_CALL)}")
            case Consensus(round=number, agreement=agreement):
                return self._line("", f"Round {number}: {agreement:.0%} agree.")
            case Routed(mode=mode, p=p, reasons=reasons):
                why = f": {', '.join(reasons)}" if reasons else ""
                return self._line("", f"auto → {mode} ({p:.0%}{why})")
            case Stopped(what=what):
                return self._line(event.by, f"Stopped: {WHY.get(what, what)}.")
        return ""

    def _piece(self, by: str, text: str) -> str:
        head = ""
        if by != self._by:
            head = ("\n\n" if self._open else "") + (f"[{by}] " if by else "")
            self._by = by
        self._open = True
        return head + text

    def _line(self, by: str, text: str) -> str:
        lead = "\n" if self._open else ""
        head = f"[{by}] " if by and by != self._by else ""
        self._by, self._open = by, False
        return f"{lead}{head}{text}\n"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def narrated(events: Iterable[AnyEvent]) -> str:
    """All steps as one text."""
    narrator = Narrator()
    return "".join(narrator.tell(event) for event in events)
