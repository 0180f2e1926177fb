"""How families of models write their tool calls and thoughts. A new family is one more entry in FAMILIES."""

import json
from collections.abc import Callable

from msgspec import Struct

Call = tuple[str, str]
"""A tool's name, and its arguments as JSON text."""


class Family(Struct, frozen=True):
    """A way of writing."""

    name: str
    sign: str
    """Text in a chat template that gives the family away."""
    call_opening: str
    call_closing: str
    read_call: Callable[[str], Call | None]
    """The call that stands between the two; None if it is none."""
    call_frame: Callable[[str], tuple[str, str]]
    """What stands before and behind the arguments in a call of the tool of this name."""
    thought_opening: str = "<think>"
    thought_closing: str = "</think>"

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags, in the vocabulary of many models tokens of their own."""
        return self.call_opening, self.call_closing, self.thought_opening, self.thought_closing


def family_of(template: str) -> Family:
    """The family by the model's chat template; the first one where nothing tells."""
    return next((family for family in FAMILIES if family.sign in template), FAMILIES[0])


def _read_hermes(body: str) -> Call | None:
    try:
        call = json.loads(body)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        return call["name"], arguments
    return call["name"], json.dumps(arguments, ensure_ascii=False)


def _hermes_frame(name: str) -> tuple[str, str]:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ', "}"


FAMILIES = (Family("hermes", "<tool_call>", "<tool_call>", "</tool_call>", _read_hermes, _hermes_frame),)
"""Hermes also covers Qwen 2.5 and 3, and whatever is not known otherwise."""
