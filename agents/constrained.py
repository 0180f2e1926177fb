"""The middle rung: the model thinks freely, then the decoder holds its action to a schema. The answer is free again."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec.structs import replace

from agents.context import Context
from agents.events import AnyEvent, Spoke
from agents.prompts import ACT, ANSWER, CONSTRAINED, EMPTY, UNCHOSEN, instructed
from agents.steps import FINAL, Act, Answered, Decision, Faulty, Step, longest_observation, observed, spec_text
from agents.turn import call_id, speak
from models.backend import JsonOutput, ToolSpec
from models.choice import moved
from models.messages import Message, ToolCall

LONGEST_THOUGHT = 400
"""Tokens."""
LONGEST_ACTION = 4000
"""Tokens: it may be a program."""
STOPS = ("\nAction:", "\nObservation:", "\nFinal Answer:")
"""Where a model that knows the written form would go on by itself."""


class Constrained:
    """Thoughts free, actions by a schema."""

    name = "constrained"

    async def ask(
        self, context: Context, steps: Sequence[Step], by: str, aside: bool
    ) -> AsyncGenerator[AnyEvent | Decision, None]:
        """Two calls for a step, a third for the answer; each prompt begins with the one before."""
        tools = context.request.tools
        text = CONSTRAINED.format(tools=spec_text(tools))
        messages = instructed(context.request.messages, text)
        told = _rendered(context, steps)
        plain: dict[str, Any] = {"tools": (), "tool_choice": "auto", "output": None, "text_output": None}
        sampling = context.request.sampling

        thinking = replace(sampling, stop=STOPS, max_tokens=LONGEST_THOUGHT)
        thought = ""
        asking = context.asking(*messages, told=told, **plain, sampling=thinking)
        async with aclosing(speak(asking, by=by, aside=True)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    thought = event.message.text.strip()

        then = [Message("assistant", thought or "…"), Message("user", ACT)]
        acting = replace(sampling, temperature=0.0, max_tokens=LONGEST_ACTION, stop=())
        form = {**plain, "sampling": acting, "output": JsonOutput(_schema(tools), "action")}
        action = ""
        asking = context.asking(*messages, told=told, then=then, **form)
        async with aclosing(speak(asking, by=by, aside=True, silent=True, checked=False)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    action = event.message.text

        said = Message("assistant", thought)
        chosen = _read(action)
        if chosen is None:
            yield Faulty(said, UNCHOSEN)
            return
        if chosen.action != FINAL:
            arguments = msgspec.json.encode(chosen.arguments).decode()
            call = ToolCall(call_id(context, by, len(steps)), chosen.action, arguments)
            yield Act(said, (call,))
            return
        then += [Message("assistant", action), Message("user", ANSWER)]
        asking = context.asking(*messages, told=told, then=then, **plain)
        async with aclosing(speak(asking, by=by, aside=aside, counts=lambda: True)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    text = event.message.text
                    yield Answered(text, event.finish == "length") if text.strip() else Faulty(said, EMPTY)


class _Chosen(msgspec.Struct):
    action: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


def _read(action: str) -> _Chosen | None:
    found = re.search(r"\{.*\}", action, re.DOTALL)
    try:
        return msgspec.json.decode(found.group(), type=_Chosen) if found else None
    except (msgspec.DecodeError, RecursionError):
        return None


def _schema(tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """One alternative for each tool with its own arguments, and one for the answer."""
    named = {tool.name: tool.parameters for tool in tools if tool.parameters and '"$ref"' in _text(tool.parameters)}
    alternatives = [
        _object(
            action={"const": tool.name},
            # What refers to parts of itself must find them where it now stands.
            arguments={"$ref": f"#/$defs/{tool.name}"} if tool.name in named else tool.parameters or {"type": "object"},
        )
        for tool in tools
    ]
    parts = {"$defs": {name: moved(part, f"#/$defs/{name}") for name, part in named.items()}} if named else {}
    return {**parts, "anyOf": [*alternatives, _object(action={"const": FINAL})]}


def _text(schema: dict[str, Any]) -> str:
    return msgspec.json.encode(schema).decode()


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _rendered(context: Context, steps: Sequence[Step]) -> list[Message]:
    longest = longest_observation(context)
    messages = []
    for step in steps:
        messages.append(Message("assistant", step.said.text or "…"))
        for used in step.uses:
            action = _Chosen(used.call.name, _arguments(used.call))
            messages += [
                Message("user", ACT),
                Message("assistant", msgspec.json.encode(action).decode()),
                Message("user", f"Observation:\n{observed(used.result, longest)}"),
            ]
        if step.note:
            messages.append(Message("user", step.note))
    return messages


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
