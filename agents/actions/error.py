"""Calls that a backend could not read, rescued from its error."""

import re
from collections.abc import Sequence

import msgspec

from agents.actions.action import Act, Malformed
from agents.actions.arguments import to_arguments
from agents.actions.names import fitting_tool, sole_parameter, takes_text
from agents.actions.read import listing, read_action
from agents.actions.values import Steps, Unreadable, read_value, whole_characters
from models.backend import ToolSpec

# Ollama, from the parser for gpt-oss (ollama#12064, #12884, #13710, #17638); llama-server, from common_chat_parse.
_TOLD = re.compile(
    r"error parsing tool call: raw='(?P<ollama>.*)', err=|error parsing tool call: raw='(?P<open>.*)"
    r"|Failed to parse input at pos \d{1,9}: (?P<llama>.*)",
    re.DOTALL,
)
# The parsers for Qwen, Gemma and others tell only why (ollama#14492, #14834, #15315, #17647).
_UNTOLD = re.compile(
    r"error parsing tool call|tool call parsing failed|failed to parse JSON|Failed to parse tool call|XML syntax error"
    r"|element <\w{1,40}> closed by|invalid character .{1,12} (?:after|looking|in)"
)


def read_error(message: str, tools: Sequence[ToolSpec]) -> Act | Malformed | None:
    """The call that a backend's error tells of; None where the error is about something else.

    Args:
        message: the error's text, or the JSON object that holds it.
        tools: those that were offered.
    """
    message = _text_of(whole_characters(message))
    told = _TOLD.search(message)
    if told is None:
        failed = _UNTOLD.search(message)
        return Malformed("", f"The tool call could not be read. {listing(tools)}") if failed else None
    raw = next(text for text in (told["ollama"], told["open"], told["llama"]) if text is not None)
    action = read_action(raw, tools)
    if isinstance(action, Act):
        return action
    try:
        return _without_name(raw, tools) or _refused(tools, "it does not name a tool")
    except Unreadable as error:
        return _refused(tools, str(error))


def _text_of(message: str) -> str:
    """The error in an object such as {"error": "…"}, or {"error": {"message": "…"}}."""
    try:
        value = msgspec.json.decode(message)
    except (msgspec.DecodeError, RecursionError):
        return message
    while isinstance(value, dict) and value:
        value = value.get("error", value.get("message"))
    return value if isinstance(value, str) else message


def _without_name(raw: str, tools: Sequence[ToolSpec]) -> Act | None:
    """A call of which the error tells only the arguments: of the one tool that takes these.

    Raises:
        Unreadable: the arguments cannot be read.
    """
    steps = Steps()
    begin = len(raw) - len(raw.lstrip())
    if raw[begin : begin + 1] not in ("{", "["):
        return _plain(raw.strip(), tools)
    value, _ = read_value(raw, begin, len(raw), steps)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return None
    tool = tools[0] if len(tools) == 1 else fitting_tool(value, tools)
    return Act(tool.name, to_arguments(value, tool, steps)) if tool else None


def _plain(raw: str, tools: Sequence[ToolSpec]) -> Act | None:
    """gpt-oss may write the only argument without JSON around it: raw='ls -R'."""
    if len(tools) != 1 or not raw or raw[0] == "<":
        return None
    name = sole_parameter(tools[0])
    return Act(tools[0].name, {name: raw}) if name and takes_text(tools[0], name) else None


def _refused(tools: Sequence[ToolSpec], why: str) -> Malformed:
    return Malformed("", f"The tool call could not be read: {why}. {listing(tools)} Arguments are one JSON object.")
