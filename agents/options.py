"""What a request may say about the agent: the body's `x_agent`. A key that does not exist is refused."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agents.budget import Limits

Mode = Literal["structured", "freeform", "autonomous"]


class Voice(Struct, frozen=True, forbid_unknown_fields=True):
    """One of those who debate."""

    model: str | None = None
    """None: the model of the request."""
    name: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    persona: Annotated[str, Meta(max_length=4000)] | None = None
    """Who it is and how it argues, or the name of a preset."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None


class DebateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How a debate goes."""

    mode: Mode = "structured"
    voices: Annotated[tuple[Voice, ...], Meta(min_length=2, max_length=12)] | None = None
    """None: those that the model id names, else three of the same model."""
    max_rounds: Annotated[int, Meta(ge=0, le=20)] = 2
    """Rounds of critique after the drafts."""
    max_iterations_per_round: Annotated[int, Meta(ge=1, le=10)] = 3
    """Most passes over the voices in one round, where speakers are chosen."""
    consensus_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.8
    time_limit_per_argument: Annotated[float, Meta(ge=1, le=300)] = 60
    """Seconds."""
    judge: str | None = None
    """The model that judges open questions; None: that of the request."""
    rules: Annotated[str, Meta(max_length=4000)] = ""


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """All that `x_agent` may hold."""

    max_iterations: Annotated[int, Meta(ge=1, le=20)] | None = None
    """Steps of a ReAct loop."""
    max_replans: Annotated[int, Meta(ge=0, le=5)] = 2
    tools: tuple[str, ...] | None = None
    """Names of the server's tools that may be used, `server.*` for all of an MCP server; None: all, (): none."""
    budget: Limits = Limits()
    debate: DebateOptions = DebateOptions()
    max_mode: Literal["simple", "react", "plan", "debate"] | None = None
    """The most costly agent that `auto` may choose."""
    stream: Literal["reasoning", "content", "think", "events", "owui"] = "reasoning"
    """How steps are shown: as reasoning, not at all, in <think> tags, as typed events, or as Open WebUI's status."""
    on_disconnect: Literal["cancel", "continue"] = "cancel"
    """What becomes of the run when the client leaves."""
    seed: int | None = None
    trace: bool = False
    """Whether the answer carries the durable events."""
