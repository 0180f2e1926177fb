"""The choice between tools, or tools and an answer, as one JSON schema: for backends that ignore `tool_choice`."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from models.backend import JsonOutput, NamedTool, ToolChoice, ToolSpec


class Choice(Struct, frozen=True):
    """What a model wrote under `choice_schema`: a call, or an answer."""

    name: str | None = None
    arguments: Raw = Raw(b"{}")
    answer: Raw = Raw()
    """Empty: there is none."""


read_choice = msgspec.json.Decoder(Choice).decode


def choice_schema(tools: Sequence[ToolSpec], choice: ToolChoice, output: JsonOutput | None) -> dict[str, Any]:
    """A schema whose instances are calls of the tools that `choice` allows, and, where it allows them, answers."""
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.name == choice.name]
    parts = {tool.name: tool.parameters or {"type": "object", "properties": {}} for tool in tools}
    variants = [_object(name={"const": tool.name}, arguments=_reference(tool.name)) for tool in tools]
    if choice == "auto" and output is not None:
        # A tool cannot have this name: a dot is not allowed in it.
        parts["the.answer"] = output.schema or {"type": "object"}
        variants.append(_object(answer=_reference("the.answer")))
    return {"$defs": {name: moved(part, _place(name)) for name, part in parts.items()}, "anyOf": variants}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _place(name: str) -> str:
    return f"#/$defs/{name}"


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _place(name)}


def moved(schema: Any, place: str) -> Any:
    """`schema` as it must read when it stands at `place`: its references point there."""
    match schema:
        case dict():
            return {
                key: place + value[1:]
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else moved(value, place)
                for key, value in schema.items()
            }
        case list():
            return [moved(item, place) for item in schema]
        case _:
            return schema
