"""The events of a run: one closed union, from which every reader builds its own view.

Live events exist only while someone watches; durable ones, in order, are the run's history.
"""

from typing import Any

import msgspec
from msgspec import Struct

from models.messages import CallDelta, FinishReason, Message, TokenLogprob, ToolCall, Usage


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What happened, in whose turn, and whether the user is meant to hear it."""

    by: str = ""
    """The speaker, where a run has several."""
    aside: bool = False
    """Not meant for the user: text spoken aside is shown as reasoning."""
    choice: int = 0
    """Which of the `n` answers asked for this belongs to."""


class TextDelta(Event, frozen=True, tag="text_delta"):
    """A piece of text, as the model writes it. Live only."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ThoughtDelta(Event, frozen=True, tag="thought_delta"):
    """A piece of the model's thought. Live only."""

    text: str


class ToolCallDelta(Event, frozen=True, tag="tool_call_delta"):
    """A piece of a call that the client is asked to make. Live only."""

    id: str
    call: CallDelta


class Progress(Event, frozen=True, tag="progress"):
    """Work under way that has no text: a model loading, a file being read. Live only."""

    text: str
    done: int | None = None
    total: int | None = None


class Asked(Event, frozen=True, tag="asked"):
    """What the run was asked: the messages since the last answer, pictures replaced by a note of their size."""

    model: str
    messages: tuple[Message, ...]


class Spoke(Event, frozen=True, tag="spoke"):
    """A model finished a turn."""

    message: Message
    usage: Usage
    finish: FinishReason
    model: str = ""
    rung: str = ""
    """How the model was asked to act: `native`, `constrained`, `written`; empty where it was not."""
    silent: bool = False
    """Nobody was shown it as it came."""


class ToolStarted(Event, frozen=True, tag="tool_started"):
    """A tool that the server runs was called."""

    call: ToolCall


class ToolFinished(Event, frozen=True, tag="tool_finished"):
    """A tool returned, or failed with a text that the model can read."""

    call_id: str
    result: str
    failed: bool = False


class Stopped(Event, frozen=True, tag="stopped"):
    """A budget was used up, or the model failed, and the speaker did not do what it was about to."""

    what: str
    """`calls`, `tool_calls`, `tokens`, `seconds`, `max_iterations`; or `model`, which failed."""
    text: str = ""
    """The model's error."""


class Routed(Event, frozen=True, tag="routed"):
    """`auto` has chosen an agent."""

    mode: str
    p: float
    """How sure it is, from 0 to 1."""
    runner_up: str
    reasons: tuple[str, ...] = ()


class Planned(Event, frozen=True, tag="planned"):
    """A plan was made or changed."""

    steps: tuple[str, ...]


class Voted(Event, frozen=True, tag="voted"):
    """A voice gave its vote."""

    vote: str


class Consensus(Event, frozen=True, tag="consensus"):
    """How far the voices agree after a round, from 0 to 1."""

    round: int
    agreement: float
    detail: dict[str, Any] | None = None
    """The answers with their voices, who changed, and who dissents."""


class Log(Event, frozen=True, tag="log"):
    """A line for whoever reads the trace."""

    text: str
    data: dict[str, Any] | None = None


class Answer(Event, frozen=True, tag="answer"):
    """The end of a run, or of one of its choices: what the user gets."""

    text: str
    finish: FinishReason = "stop"
    calls: tuple[ToolCall, ...] = ()
    reason: str = ""
    """Why the agent ended, where `finish` does not say it: `max_iterations`, `tokens`, `loop`, …"""
    iterations: int = 0
    """Steps that it took."""


class Failed(Event, frozen=True, tag="failed"):
    """The end of a run that has no answer. The fields are those of OpenAI's error object."""

    message: str
    error_type: str
    code: str | None = None
    param: str | None = None
    status: int = 500
    """The HTTP status that the error has when nothing was sent yet."""


Live = TextDelta | ThoughtDelta | ToolCallDelta | Progress
Durable = (
    Asked | Spoke | ToolStarted | ToolFinished | Stopped | Routed | Planned | Voted | Consensus | Log | Answer | Failed
)
AnyEvent = Live | Durable

LIVE = (TextDelta, ThoughtDelta, ToolCallDelta, Progress)

encode = msgspec.json.Encoder().encode
