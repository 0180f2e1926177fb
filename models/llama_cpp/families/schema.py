"""What a tool's JSON Schema says of values that a model writes without the quotes of JSON."""

import json
from typing import Any

import msgspec

from models.backend import ToolSpec

_DEEPEST = 8
_ANY = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""Some templates show models the values as Python writes them."""


def parameters(tool: ToolSpec) -> dict[str, Any]:
    """The schemas of a tool's arguments, by name."""
    found = (tool.parameters or {}).get("properties")
    return found if isinstance(found, dict) else {}


def required(schema: dict[str, Any]) -> frozenset[str]:
    """The properties that an object must have."""
    found = schema.get("required")
    return frozenset(found) if isinstance(found, list) else frozenset()


def resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference into the root stands for; one without a reference is itself."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, dict):
            return {}
        pointer = schema.get("$ref")
        if not isinstance(pointer, str):
            return schema
        schema = root
        for step in pointer.removeprefix("#").strip("/").split("/"):
            schema = schema.get(step) if isinstance(schema, dict) and step else schema
    return {}


def kinds(schema: Any, root: dict[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows."""
    schema = resolved(schema, root)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, list) and depth < _DEEPEST:
        return frozenset().union(*(kinds(choice, root, depth + 1) for choice in choices))
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(kind for kind in named if isinstance(kind, str))
    if values := fixed_values(schema):
        return frozenset().union(*map(_kinds_of, values))
    return _ANY


def fixed_values(schema: dict[str, Any]) -> list[Any]:
    """The only values that a schema allows; none where it does not list them."""
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else []


def json_value(text: str, allowed: frozenset[str]) -> str:
    """The JSON for a value: of a type that is allowed, if it can be read so, otherwise a string."""
    written = _PYTHON.get(text.strip(), text.strip())
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if "string" in allowed and (isinstance(value, str) or not _kinds_of(value) & allowed):
        return json.dumps(text, ensure_ascii=False)
    return written


def _kinds_of(value: Any) -> frozenset[str]:
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})
