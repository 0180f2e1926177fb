"""Calls of tools in the shapes that models write: JSON, `name(a=1)`, `name[…]`, XML, and those of their templates."""

# ruff: noqa: RUF001 (the tokens of DeepSeek have wide bars)

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from agents.actions.names import fold, match_tool, properties, same_tool, takes_text
from agents.actions.values import CutOff, Steps, Unreadable, read_pairs, read_value, whole_value
from models.backend import ToolSpec

FENCE = re.compile(r"[ \t]*(```+|~~~+)[ \t]*(?:([\w+.#-]*)[ \t]*\n|(?:json|python|py)(?=[\s{\[])[ \t]*|)")
"""The opening of a code block; the word after it, where a line of its own follows."""

PARAMETER_STEPS = 40
"""What a parameter written as an element costs: its end is looked for in all of the text."""

_NAME_KEYS = ("name", "tool", "tool_name", "toolname", "function", "function_name", "action", "recipient_name", "api")
_ARGUMENT_KEYS = (
    *("arguments", "parameters", "args", "action_input", "actioninput", "tool_input", "toolinput", "input", "params"),
    *("kwargs", "inputs", "tool_args", "tool_arguments", "function_args", "action_args", "action_parameters"),
    *("action_arguments", "tool_parameters", "argument", "parameter"),
)
_LIST_KEYS = ("tool_calls", "tool_uses", "toolcalls", "function_call", "tool_call", "call", "calls", "actions")
_ANSWER_KEYS = ("final_answer", "finalanswer", "final", "final_response", "answer")
_BESIDE_KEYS = frozenset(
    {
        *("thought", "thoughts", "thinking", "reasoning", "rationale", "reason", "explanation", "type", "id"),
        *("index", "step", "tool_call_id", "call_id", "observation", "status", "plan", "goal", "description"),
    }
)

_FINISHES = frozenset(
    {
        *("finalanswer", "finish", "answer", "finalresponse", "respond", "done", "returnanswer", "submit"),
        *("submitanswer", "finalansweraction", "giveanswer", "giveafinalanswer", "answeruser", "respondtouser"),
        *("replytouser", "reply"),
    }
)
_NOTHING = re.compile(
    r"\W*(?:none|n/?a|null|nothing|no[ _-]?(?:action|tool)s?\b|no (?:further|more) (?:action|tool)"
    r"|not? (?:needed|required)"
    r"|directly[_-]answer|无需|无|没有|不需要|なし|不要|없음|keine|aucune|ninguna|nenhuma|nessuna|нет\b|yok\b|brak)",
    re.IGNORECASE,
)

_BEFORE_CALL = re.compile(
    r"(?:\s|call:|functions?[:=]\s*(?=\w)|<｜tool▁sep｜>|function<｜tool▁sep｜>|print\((?=\s*[\w.]+\s*\())*"
)
_NAME = re.compile(r"[^\W\d][\w.\-/:\\]{0,127}")
_AFTER_NAME = re.compile(
    r"(?:\s*(?:\[CALL_ID\][\w-]*)?\s*\[ARGS\]|\s*<｜tool▁sep｜>|\s*<[|｜]?tool_call_argument_begin[|｜]?>"
    r"|\s*<(?:tool_sep|/action|/tool_name|/name|/tool)>|✿|[ \t]*:(?=\s*[{(`]))?\s*"
    r"(?:<(?:action_input|arguments|parameters|input)>\s*)?(?:✿ARGS✿\s*:?\s*)?"
    r"(?:with (?:arguments|input|args)\s*:?\s*)?"
)
_ELEMENT = re.compile(
    r"<(?:[|｜]?DSML[|｜])?(?:function|invoke|tool|action|tool_call|call)\s*"
    r"(?:=\s*|\s(?:[\w-]+=\"[^\"<>]{0,80}\"\s+){0,3}name\s*=\s*)"
    r"[\"']?(?P<name>[^\"'<>{}\s]{1,128})[\"']?[^<>{]{0,80}>?",
    re.IGNORECASE,
)
_NAMED_BY_ELEMENT = re.compile(r"<(?:tool_name|name|function_name|function)>\s*(?P<name>[^<>\s]{1,128})\s*</[\w]+>\s*")
_TAG = re.compile(r"<(?P<name>[A-Za-z][\w.\-]{0,127})>")
_PARAMETER = re.compile(
    r"<(?:[|｜]?DSML[|｜])?(?P<tag>parameter|param|arg|argument|arg_key)\b"
    r"(?:\s*=\s*[\"']?(?P<short>[\w.\-]{1,128})[\"']?|\s+(?:name|key)\s*=\s*[\"']?(?P<long>[\w.\-]{1,128})[\"']?[^<>]{0,80})?\s*>",
    re.IGNORECASE,
)
_ARG_VALUE = re.compile(r"\s*(?P<key>[\w.\-]{1,128})\s*</arg_key>\s*<arg_value>", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
_SPACE_AND_CLOSER = re.compile(r"\s*\]")
_WRAPPER = re.compile(r"\s*(?:<(?:arguments|parameters|args|input)>\s*)?", re.IGNORECASE)
_CLOSING_ELEMENT = re.compile(
    r"</(?:[|｜]?DSML[|｜])?(?:function|invoke|tool|tool_call|tool_calls|function_calls|call|action|arguments|parameters)\b",
    re.IGNORECASE,
)


class Call(Struct, frozen=True):
    """A call as it is written: the tool's name is not looked up, and what it is given not yet arguments."""

    name: str
    """As it is written."""
    given: Any
    """A dictionary, `Pairs`, a text, another value, or None for nothing."""
    end: int = 0
    """Where it ends in the text."""
    thought: str = ""
    """What the call itself tells as its reason."""
    closed: bool = True
    """Whether something shows that it ends there."""


def finishes(name: str) -> bool:
    """Whether a name that no tool has is one by which models end their work."""
    return fold(name) in _FINISHES


def is_nothing(name: str) -> bool:
    """Whether the name of a tool is a word for no tool at all."""
    return bool(_NOTHING.match(name[:64]))


def read_call(text: str, start: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    """The call written at `start`, in whatever shape; None where something else stands there.

    Raises:
        Unreadable: a call begins there and cannot be read; `CutOff` where the text ends before the call does.
    """
    start = _after(FENCE, text, start, end)
    at = _after(_BEFORE_CALL, text, start, end)
    if at >= end:
        return None
    if text[at] == "{":
        return _read_object(text, at, end, tools, steps)
    if text[at] == "[":
        return _read_list(text, at, end, tools, steps)
    if text[at] == "<":
        return _read_element(text, at, end, tools, steps)
    return _read_named(text, at, end, tools, steps)


def _read_object(text: str, at: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    value, finish = read_value(text, at, end, steps)
    call = call_in(value, tools)
    return call and replace(call, end=finish)


def _read_list(text: str, at: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    name = _NAME.match(text, _after(_SPACE, text, at + 1, end), end)
    if name and text[name.end() : name.end() + 1] == "(":
        call = _read_named(text, name.start(), end, tools, steps)
        return call and replace(call, end=_after(_SPACE_AND_CLOSER, text, call.end, end))
    value, finish = read_value(text, at, end, steps)
    call = call_in(value, tools)
    return call and replace(call, end=finish)


def _after(pattern: re.Pattern[str], text: str, at: int, end: int) -> int:
    """Where the text goes on after what the pattern finds at a place, if it does."""
    found = pattern.match(text, at, end)
    return found.end() if found else at


def _read_named(text: str, at: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    """`name(a=1)`, `name{…}`, `name[ARGS]{…}`, and others that begin with the name."""
    name = _NAME.match(text, at, end)
    if name is None:
        return None
    written = name[0].removesuffix(".call").rstrip(":")
    begin = _after(FENCE, text, _after(_AFTER_NAME, text, name.end(), end), end)
    mark = text[begin : begin + 1]
    if mark == "{":
        value, finish = read_value(text, begin, end, steps)
        return Call(written, value, finish)
    if mark == "(" and begin == name.end():
        return _read_brackets(text, written, begin, end, tools, steps)
    if mark == "[" and begin == name.end():
        return _read_square(text, written, begin, end, tools)
    if text.startswith("<arg_key>", begin):
        given, finish = _read_parameters(text, begin, end, _tool(written, tools), steps)
        return Call(written, given, finish)
    return None


def _read_brackets(text: str, name: str, at: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    try:
        given, finish = read_pairs(text, at, end, steps)
        return Call(name, given, finish)
    except CutOff:
        raise
    except Unreadable:
        # python(print(2)): the bracket holds plain text. It must close at the end of the line.
        line = text.find("\n", at, end)
        closing = text.rfind(")", at, line if line >= 0 else end)
        if same_tool(name, tools) is None or text.count("(", at, closing + 1) != text.count(")", at, closing + 1):
            raise
        return Call(name, text[at + 1 : closing].strip(), closing + 1)


def _read_square(text: str, name: str, at: int, end: int, tools: Sequence[ToolSpec]) -> Call | None:
    """`Search[Oslo]`, as in the paper on ReAct."""
    if (same_tool(name, tools) is None and not finishes(name)) or text.startswith(("[CALL_ID]", "[ARGS]"), at):
        return None
    line = text.find("\n", at, end)
    closing = text.rfind("]", at, line if line >= 0 else end)
    if closing < 0:
        raise CutOff("a bracket does not close")
    return Call(name, text[at + 1 : closing].strip(), closing + 1)


def _read_element(text: str, at: int, end: int, tools: Sequence[ToolSpec], steps: Steps) -> Call | None:
    """`<function=name>…</function>`, `<invoke name="…">`, `<tool_name>…</tool_name>`, `<name>…</name>`."""
    if opening := _ELEMENT.match(text, at, end) or _NAMED_BY_ELEMENT.match(text, at, end):
        name = opening["name"].removesuffix(">")
    elif (opening := _TAG.match(text, at, end)) and same_tool(opening["name"], tools):
        name = opening["name"]
        if f"</{name}>" not in text[opening.end() : end]:
            return None
    else:
        return None
    begin = _after(FENCE, text, _after(_WRAPPER, text, opening.end(), end), end)
    if text[begin : begin + 1] == "{":
        given, finish = read_value(text, begin, end, steps)
        if isinstance(given, dict) and (call := call_in(given, tools)) and fold(call.name) == fold(name):
            given = call.given
    else:
        given, finish = _read_parameters(text, begin, end, _tool(name, tools), steps)
    return Call(name, given, finish)


def _tool(name: str, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    found = match_tool(name, tools)
    return next((tool for tool in tools if tool.name == found), None)


def _read_parameters(text: str, at: int, end: int, tool: ToolSpec | None, steps: Steps) -> tuple[Any, int]:
    """The parameters written as elements, and where the last one ends; the text itself, where there is none."""
    given: dict[str, Any] = {}
    own = [re.escape(name) for name in properties(tool)] if tool else []
    tag = re.compile(rf"\s*<({'|'.join(own)})>") if own else None
    begin = at
    while True:
        steps.take(PARAMETER_STEPS)
        at = _after(_SPACE, text, at, end)
        closers: tuple[str, ...]
        if found := _PARAMETER.match(text, at, end):
            key = found["short"] or found["long"]
            if found["tag"].lower() == "arg_key":
                pair = _ARG_VALUE.match(text, found.end(), end)
                if pair is None:
                    raise CutOff("an element in it does not end")
                key, at = pair["key"], pair.end()
                closers = ("</arg_value>", "<arg_key>")
            elif key is None:
                break
            else:
                at = found.end()
                dsml = "｜DSML｜" if "｜" in found[0] else ""
                closers = (
                    f"</{dsml}{found['tag']}>",
                    f"<{dsml}{found['tag']}=",
                    "</function>",
                    "</invoke>",
                    "</tool_call>",
                )
        elif tag and (own_tag := tag.match(text, at, end)):
            key, at = own_tag[1], own_tag.end()
            closers = (f"</{key}>",)
        else:
            break
        finish, closing = _first_closer(text, at, end, closers)
        given[key] = _element_value(text[at:finish], key, tool)
        at = finish + (len(closing) if closing.startswith("</") and closing == closers[0] else 0)
    if given:
        return given, at
    last = _CLOSING_ELEMENT.search(text, begin, end)
    if last is None:
        raise CutOff("an element in it does not end")
    return text[begin : last.start()].strip() or None, last.start()


def _first_closer(text: str, at: int, end: int, closers: Sequence[str]) -> tuple[int, str]:
    """Where a parameter ends: at its own closing tag, or where that was forgotten at the next of the others."""
    found = text.find(closers[0], at, end)
    for other in closers[1:]:
        forgotten = text.find(other, at, found if found >= 0 else end)
        if forgotten >= 0 and (found < 0 or other == closers[1]):
            return forgotten, other
    if found < 0:
        raise CutOff("an element in it does not end")
    return found, closers[0]


def _element_value(written: str, key: str, tool: ToolSpec | None) -> Any:
    written = written.removeprefix("\n").removesuffix("\n")
    return typed(written, key, tool)


def typed(written: str, key: str, tool: ToolSpec | None) -> Any:
    """A text as the value that a parameter wants; as it is, where it may be text, or is no value."""
    if tool is None or takes_text(tool, key):
        return written
    try:
        return whole_value(written.strip(), Steps(1000))
    except Unreadable:
        return written


def call_in(value: Any, tools: Sequence[ToolSpec]) -> Call | None:
    """The first call that a value holds; None where it holds none."""
    if isinstance(value, list):
        return call_in(value[0], tools) if value and isinstance(value[0], dict | list) else None
    if not isinstance(value, dict):
        return None
    keys = {_key(key): key for key in value}
    thought = next((value[keys[k]] for k in ("thought", "thoughts", "reasoning", "thinking") if k in keys), "")
    thought = thought if isinstance(thought, str) else ""
    for wanted in _LIST_KEYS:
        if wanted in keys and (inner := call_in(value[keys[wanted]], tools)):
            return Call(inner.name, inner.given, thought=thought or inner.thought)
    call = _named_call(value, keys, tools) or _keyed_call(value, keys, tools)
    if call is None:
        for wanted in _ANSWER_KEYS:
            if wanted in keys and not keys.keys() - _BESIDE_KEYS - {wanted, "action", "action_input"}:
                return Call("final_answer", value[keys[wanted]], thought=thought)
        return None
    return Call(call.name, call.given, thought=thought)


def _key(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def _named_call(value: Mapping[str, Any], keys: Mapping[str, str], tools: Sequence[ToolSpec]) -> Call | None:
    """{"name": "python", "arguments": {…}}, by any of the words that are used for the two."""
    for wanted in _NAME_KEYS:
        if wanted not in keys:
            continue
        name = value[keys[wanted]]
        if isinstance(name, dict):
            if inner := call_in(name, tools):
                return inner
            continue
        if not isinstance(name, str) or not name.strip():
            continue
        given = next((k for k in _ARGUMENT_KEYS if k in keys), None)
        tool = _tool(name, tools)
        if given is not None and (tool or wanted != "name" or given in ("arguments", "parameters", "args")):
            return Call(name, value[keys[given]])
        beside = {
            key: each for folded, key in keys.items() if folded not in (*_BESIDE_KEYS, wanted) for each in [value[key]]
        }
        if tool and set(beside) <= set(properties(tool)):
            return Call(name, beside)
        if wanted == "action" and finishes(name):
            return Call(name, next(iter(beside.values()), None))
    return None


def _keyed_call(value: Mapping[str, Any], keys: Mapping[str, str], tools: Sequence[ToolSpec]) -> Call | None:
    """{"python": {"code": …}}: the tool's name as the only key."""
    others = [key for folded, key in keys.items() if folded not in _BESIDE_KEYS]
    if len(others) == 1 and same_tool(others[0], tools) and isinstance(value[others[0]], dict):
        return Call(others[0], value[others[0]])
    return None
