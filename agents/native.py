"""The highest rung: the model calls tools in its own way, which its template and its backend know."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec.structs import replace

from agents.actions import Act as Written
from agents.actions import Final, Malformed, read_action
from agents.context import Context
from agents.events import AnyEvent, Spoke, TextDelta, ToolCallDelta
from agents.prompts import EMPTY, NATIVE, UNFINISHED, instructed
from agents.steps import Act, Answered, Decision, Faulty, Step, longest_observation, observed
from agents.turn import call_id, speak
from models.messages import Message, ToolCall

HELD = 240
"""Characters of text after which it is taken for the answer: what comes before a call is shorter."""

_INTENT = re.compile(
    r"\b(let me(?! know)|let's|i will|i'll|i need to|i am going to|i'm going to|next,? i|first,? i|ich werde"
    r"|lass mich(?! wissen)|je vais|voy a|vou)\b[^.!?\n]{0,160}[.:…]*\s*$",
    re.IGNORECASE,
)
"""Text that ends by announcing what comes next."""
_NUDGES = 2
"""Times in a row that a model is told to do what it announces; after that it is taken to have answered."""


class Native:
    """Tools by the model's own means."""

    name = "native"

    async def ask(
        self, context: Context, steps: Sequence[Step], by: str, aside: bool
    ) -> AsyncGenerator[AnyEvent | Decision, None]:
        """Lets the model call tools or answer.

        Text is held back until it is clear that no call follows it; then it goes out piece by piece, as it came.
        """
        asking = context.asking(
            *instructed(context.request.messages, NATIVE),
            told=_rendered(context, steps),
            tool_choice="auto" if steps else context.request.tool_choice,  # it was asked for once
        )
        held: list[TextDelta] = []
        start = ""
        answering = False
        spoke: Spoke | None = None
        async with aclosing(speak(asking, by=by, aside=aside, counts=lambda: answering)) as events:
            async for event in events:
                match event:
                    case TextDelta() if not answering:
                        held.append(event)
                        start = start if len(start) > HELD else start + event.text
                        if _is_answer(start):
                            answering = True
                            for piece in held:
                                yield piece
                    case ToolCallDelta():
                        pass
                    case Spoke():
                        spoke = event
                    case _:
                        yield event
        assert spoke is not None
        decision = self._decide(context, spoke, steps, by)
        yield replace(spoke, aside=aside or not isinstance(decision, Answered))
        if not answering:
            for shown in _shown(held, decision, aside):
                yield shown
        yield decision

    def _decide(self, context: Context, spoke: Spoke, steps: Sequence[Step], by: str) -> Decision:
        said = spoke.message
        cut = spoke.finish == "length"
        if said.tool_calls:
            return Act(said, said.tool_calls)
        if _is_answer(said.text):
            return Answered(said.text, cut)
        if not said.text.strip():
            return Faulty(said, EMPTY)
        match read_action(said.text, context.request.tools, cut_off=cut):
            case Written(tool=tool, arguments=arguments, thought=thought):
                # It has written the call instead of making it: from here on the record shows how it is made.
                call = ToolCall(call_id(context, by, len(steps)), tool, msgspec.json.encode(arguments).decode())
                return Act(Message("assistant", thought, tool_calls=(call,)), (call,))
            case Malformed(why=why):
                return Faulty(said, why)
            case Final(text=text):
                return Answered(text, cut)
        if _INTENT.search(said.text) and sum(bool(step.note) for step in steps[-_NUDGES:]) < _NUDGES:
            return Faulty(said, UNFINISHED)
        return Answered(said.text, cut)


def _shown(held: list[TextDelta], decision: Decision, aside: bool) -> list[TextDelta]:
    """What was held back: as the answer, or as what the model thought before its call."""
    if not isinstance(decision, Answered):
        return [replace(piece, aside=True) for piece in held]
    if decision.text == "".join(piece.text for piece in held):
        return held
    return [TextDelta(text=decision.text, aside=aside, by=held[0].by)] if held else []


def _is_answer(text: str) -> bool:
    """Whether there is so much text that it is the answer, and not what comes before a call."""
    return len(text) > HELD and not _looks_like_a_call(text[:HELD])


def _looks_like_a_call(text: str) -> bool:
    start = text.lstrip()[:40]
    return start.startswith(("{", "[", "<", "```")) or bool(
        re.search(r"^(action|thought|tool)\b", start, re.IGNORECASE)
    )


def _rendered(context: Context, steps: Sequence[Step]) -> list[Message]:
    longest = longest_observation(context)
    messages = []
    for step in steps:
        messages.append(replace(step.said, thought=""))
        messages += [
            Message("tool", observed(used.result, longest), tool_call_id=used.call.id, name=used.call.name)
            for used in step.uses
        ]
        if step.note:
            messages.append(Message("user", step.note))
    return messages
