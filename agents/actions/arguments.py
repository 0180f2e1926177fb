"""From what a call is given to the tool's arguments: unwrapped, decoded, and put under the names that it takes."""

import re
from contextlib import suppress
from typing import Any

import msgspec

from agents.actions.calls import call_in, typed
from agents.actions.names import fold, properties, required, sole_parameter
from agents.actions.values import Pairs, Steps, Unreadable, read_pairs, whole_value
from models.backend import ToolSpec

_WRAPPERS = frozenset(
    {
        *("arguments", "parameters", "args", "input", "action_input", "tool_input", "params", "kwargs"),
        *("__arg1", "arg", "argument", "value", "inputs"),
    }
)
_ANSWER_KEYS = ("answer", "final_answer", "text", "response", "output", "content", "message")
_NAMED_LINE = re.compile(r"[ \t]*(?:[-*] )?[\"'`*]{0,2}([\w\-]{1,64})[\"'`*]{0,2}[ \t]*(?::|=(?!=))[ \t]*(.*)")
_NAMED_VALUE = re.compile(r"[\"']?([\w\-]{1,64})[\"']?\s*=(?!=)")
_LIKE_OBJECT = re.compile(r"\{\s*(?:[\"'“][^\"'”\n]{1,64}[\"'”]?\s*(?:[:=]|$)|\w+\s*:)")
_LIKE_STRING = re.compile(r"([\"']).*\1\s*\Z", re.DOTALL)


def to_arguments(given: Any, tool: ToolSpec, steps: Steps) -> dict[str, Any]:
    """The arguments that a call is given, by their names.

    Raises:
        Unreadable: they cannot be told from what is written; the text says why.
    """
    for _ in range(4):  # Models pack arguments into arguments, but not more often.
        inner = _unwrapped(given, tool, steps)
        if inner is given:
            break
        given = inner
    if given is None or given == "":
        if required(tool):
            raise Unreadable("it was given no arguments")
        return {}
    if isinstance(given, dict):
        return given
    if not properties(tool):
        # "None", "N/A", "(no input)": there is nothing that it could be.
        return {}
    if isinstance(given, Pairs):
        return _named(given, tool)
    name = sole_parameter(tool)
    if name is None:
        raise Unreadable("its arguments must be one JSON object")
    return {name: typed(given, name, tool) if isinstance(given, str) else given}


def _unwrapped(given: Any, tool: ToolSpec, steps: Steps) -> Any:
    """What is in the packing; the same object where there is none."""
    if isinstance(given, dict):
        return _without_wrapper(given, tool)
    if isinstance(given, str):
        return _decoded(given, tool, steps)
    if isinstance(given, Pairs) and not given.values:
        return given.named
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict | str) and not _wants_list(tool):
        return given[0]
    return given


def _without_wrapper(given: dict[str, Any], tool: ToolSpec) -> Any:
    own = properties(tool)
    if len(given) == 1:
        (key,) = given
        if key not in own and (key.lower() in _WRAPPERS or fold(key) == fold(tool.name)):
            return given[key]
    if not given.keys() & own.keys() and (call := call_in(given, (tool,))) and fold(call.name) == fold(tool.name):
        return call.given
    return given


def _wants_list(tool: ToolSpec) -> bool:
    name = sole_parameter(tool)
    schema = properties(tool).get(name) if name else None
    return isinstance(schema, dict) and schema.get("type") == "array"


def _decoded(given: str, tool: ToolSpec, steps: Steps) -> Any:
    written = given.strip()
    if not written:
        return None
    if written[0] == "{":
        return _decoded_object(written, given, tool, steps)
    if _LIKE_STRING.match(written):
        try:
            return whole_value(written, steps)
        except Unreadable:
            return given
    return _by_signs(written, tool, steps) or _by_lines(written, tool) or given


def _decoded_object(written: str, given: str, tool: ToolSpec, steps: Steps) -> Any:
    try:
        value = whole_value(written, steps)
    except Unreadable:
        # A program may begin with a brace, too: "{n for n in range(3)}".
        if _LIKE_OBJECT.match(written) or sole_parameter(tool) is None:
            raise
        return given
    return value if isinstance(value, dict) else given


def _by_lines(written: str, tool: ToolSpec) -> dict[str, Any] | None:
    """Lines of "name: value", all of whose names the tool knows."""
    found: dict[str, Any] = {}
    for line in written.split("\n"):
        named = _NAMED_LINE.fullmatch(line)
        if named is None or named[1] not in properties(tool) or named[1] in found:
            return None
        text = named[2].strip()
        if not text:
            return None
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`"
        found[named[1]] = typed(text[1:-1] if quoted else text, named[1], tool)
    return found


def _by_signs(written: str, tool: ToolSpec, steps: Steps) -> dict[str, Any] | None:
    """`query="Oslo", n=3`"""
    first = _NAMED_VALUE.match(written)
    if first is None or first[1] not in properties(tool):
        return None
    try:
        pairs, _ = read_pairs(f"({written})", 0, len(written) + 2, steps)
    except Unreadable:
        return None
    return pairs.named if not pairs.values and pairs.named.keys() <= properties(tool).keys() else None


def _named(pairs: Pairs, tool: ToolSpec) -> dict[str, Any]:
    """Arguments given by their order, under their names."""
    sole = sole_parameter(tool)
    names = [sole] if sole and len(pairs.values) == 1 else list(properties(tool))
    if len(pairs.values) > len(names):
        raise Unreadable("it was given more arguments than it takes")
    return {**dict(zip(names, pairs.values, strict=False)), **pairs.named}


def is_given(given: Any) -> bool:
    """Whether a call was given anything at all."""
    return given not in (None, "", {}, []) and given != Pairs((), {})


def answer_text(given: Any) -> str:
    """The answer in what a call that ends the work was given."""
    if isinstance(given, Pairs):
        given = given.named or (given.values[0] if given.values else None)
    if isinstance(given, str) and given[:1] in ("{", '"'):
        with suppress(Unreadable):  # It may be a text that only begins like a value.
            given = whole_value(given, Steps())
    if isinstance(given, dict) and given:
        keys = [
            key
            for key in ("answer", "final_answer", "text", "response", "output", "content", "message")
            if key in given
        ]
        given = given[keys[0]] if keys else next(iter(given.values())) if len(given) == 1 else given
    if given is None:
        return ""
    if isinstance(given, str):
        return given.strip()
    return msgspec.json.encode(given).decode()
