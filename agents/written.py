"""The lowest rung: the model writes thoughts and actions as text, which a tolerant reader takes apart."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec.structs import replace

from agents.actions import Act as Found
from agents.actions import Final, Malformed, read_action
from agents.context import Context
from agents.events import AnyEvent, Spoke, TextDelta
from agents.prompts import EMPTY, WRITTEN, instructed
from agents.steps import Act, Answered, Decision, Faulty, Step, longest_observation, observed, spec_text
from agents.turn import call_id, speak
from models.messages import Message, ToolCall

STOPS = ("\nObservation:", "\nObservation :", "\n\nObservation")

_FINAL = re.compile(r"final[ _]answer\**\s*[:\uff1a]\**\s*", re.IGNORECASE)
NUDGES = 2
"""Steps in a row that were told to keep to the form, after which text is taken for the answer."""
UNFORMED = """That is not in the form. Write an Action with its Action Input, or `Final Answer:` and the answer."""


class Written:
    """Thought, Action, Action Input, Observation as text."""

    name = "written"

    async def ask(
        self, context: Context, steps: Sequence[Step], by: str, aside: bool
    ) -> AsyncGenerator[AnyEvent | Decision, None]:
        """Lets the model write its next step. What it writes after its first action counts for nothing."""
        tools = context.request.tools
        text = WRITTEN.format(tools=spec_text(tools))
        sampling = replace(context.request.sampling, stop=(*context.request.sampling.stop, *STOPS)[:4])
        asking = context.asking(
            *instructed(context.request.messages, text),
            told=_rendered(context, steps),
            tools=(),
            tool_choice="auto",
            output=None,
            text_output=None,
            sampling=sampling,
        )
        written = ""
        answered = False
        spoke: Spoke | None = None
        async with aclosing(speak(asking, by=by, aside=True, counts=lambda: answered)) as events:
            async for event in events:
                match event:
                    case TextDelta() if answered:
                        yield replace(event, aside=aside)
                    case TextDelta():
                        written += event.text
                        begun = self._begun(written, context)
                        if begun is None:
                            yield event
                        else:
                            answered = True
                            yield replace(event, text=begun, aside=aside)
                    case Spoke():
                        spoke = event
                    case _:
                        yield event
        assert spoke is not None
        decision = self._decide(context, spoke, steps, by)
        yield replace(spoke, aside=aside or not isinstance(decision, Answered))
        if isinstance(decision, Answered) and not answered:
            yield TextDelta(text=decision.text, aside=aside, by=by)
        yield decision

    def _begun(self, written: str, context: Context) -> str | None:
        """The beginning of the answer, where what was written last begins it; None: it is not there yet."""
        if not {":", "\uff1a"} & set(written[-8:]):
            return None
        marks = list(_FINAL.finditer(written))
        if not marks or not isinstance(read_action(written + "…", context.request.tools), Final):
            return None
        return written[marks[-1].end() :]

    def _decide(self, context: Context, spoke: Spoke, steps: Sequence[Step], by: str) -> Decision:
        said = spoke.message
        if not said.text.strip():
            return Faulty(said, EMPTY)
        match read_action(said.text, context.request.tools, cut_off=spoke.finish == "length"):
            case Found(tool=tool, arguments=arguments, thought=thought):
                call = ToolCall(call_id(context, by, len(steps)), tool, msgspec.json.encode(arguments).decode())
                return Act(Message("assistant", thought), (call,))
            case Final(text=text):
                return Answered(text, spoke.finish == "length")
            case Malformed(why=why):
                return Faulty(said, why)
        if sum(bool(step.note) for step in steps[-NUDGES:]) < NUDGES:
            return Faulty(said, UNFORMED)
        # It does not take to the form, but it does say something.
        return Answered(said.text.strip(), spoke.finish == "length")


def _rendered(context: Context, steps: Sequence[Step]) -> list[Message]:
    longest = longest_observation(context)
    messages = []
    for step in steps:
        thought = f"Thought: {step.said.text.strip() or '…'}"
        if not step.uses:
            messages.append(Message("assistant", step.said.text))
        for used in step.uses:
            action = f"{thought}\nAction: {used.call.name}\nAction Input: {used.call.arguments}"
            messages += [
                Message("assistant", action),
                Message("user", f"Observation: {observed(used.result, longest)}"),
            ]
        if step.note:
            messages.append(Message("user", step.note))
    return messages
