"""What a loop of thought and action is made of: its steps so far, and what the model decides next."""

import re
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from msgspec import Struct

from agents.actions.names import properties, required
from agents.context import Context
from agents.events import AnyEvent
from models.backend import ToolSpec
from models.messages import Message, ToolCall
from tools.toolbox import cut


class Used(Struct, frozen=True):
    """A call that was made, and what the model is told of it."""

    call: ToolCall
    result: str
    failed: bool = False


class Step(Struct, frozen=True):
    """One round: what the model said, and what came of it."""

    said: Message
    uses: tuple[Used, ...] = ()
    note: str = ""
    """What it was told where it called nothing."""


class Act(Struct, frozen=True):
    """The model wants tools to be called."""

    said: Message
    calls: tuple[ToolCall, ...]


class Answered(Struct, frozen=True):
    """The model has answered; the text is out already."""

    text: str
    cut: bool = False
    """It was cut off by a limit."""


class Faulty(Struct, frozen=True):
    """What the model said is neither; `why` is what to tell it."""

    said: Message
    why: str


Decision = Act | Answered | Faulty


class Rung(Protocol):
    """A way to get decisions out of a model: the better models are at calling tools, the higher."""

    name: str

    def ask(
        self, context: Context, steps: Sequence[Step], by: str, aside: bool
    ) -> AsyncGenerator[AnyEvent | Decision, None]:
        """Lets the model decide: the events of that, and at the end the decision.

        Args:
            context: the question, and `request.tools` with all tools that there are.
            steps: what was done so far.
            by: who decides.
            aside: also the answer is not meant for the user.
        """
        ...


FINAL = "final_answer"
"""The name that stands for answering, where a model has to name what it does."""

_LABEL = re.compile(
    r"^([^\S\n]*+[*#_>]*+[^\S\n]*+)(observation|final[ _]answer|action(?:[ _]input)?|thought|answer)"
    r"(?=\s*+[*_]*+\s*+[:\uff1a])",
    re.IGNORECASE | re.MULTILINE,
)
"""What only the model itself, or the frame, may write at the beginning of a line."""


def observed(text: str, longest: int) -> str:
    """A tool's result as a model is shown it: cut in the middle, and no line of it can pass for one of the model's."""
    return _LABEL.sub(r"\1| \2", cut(text, longest))


def longest_observation(context: Context) -> int:
    """Characters of a result that a model is shown: an eighth of what it can read, at three characters a token."""
    room = context.info.context if context.info is not None else None
    return max(1000, min(20_000, (room or 16_384) * 3 // 8))


def spec_text(tools: Sequence[ToolSpec]) -> str:
    """The tools as a prompt describes them."""
    return "\n".join(f"- {tool.name}({_parameters(tool)}): {tool.description}" for tool in tools)


def _parameters(tool: ToolSpec) -> str:
    needed, parameters = required(tool), properties(tool)
    return ", ".join(f"{name}: {_kind(value)}{'' if name in needed else '?'}" for name, value in parameters.items())


def _kind(schema: object) -> str:
    match schema:
        case {"enum": [*values]}:
            return " | ".join(map(repr, values))
        case {"type": kind}:
            return str(kind)
    return "any"
