"""Gemma: calls in a notation of its own, JSON without quotes at the keys and with tags around strings."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from models.backend import ToolSpec
from models.llama_cpp.families.family import Family
from models.llama_cpp.families.schema import fixed_values, required, resolved
from models.llama_cpp.reading import Argued, NoCall, Reader, Reading, call
from models.llama_cpp.rules import Rules

_LONGEST_NAME = 300
_DEEPEST = 8


class GemmaForm(Struct, frozen=True):
    """Calls one by one: `call:name{key:value}` between tags."""

    opening: str
    closing: str
    quote: str
    """What stands before and behind a string."""
    parts: tuple[str, ...] = ()
    """Tokens of which other tags are made."""
    bare: tuple[str, ...] = ()

    @property
    def openings(self) -> tuple[str, ...]:
        """The tag that opens a call."""
        return (self.opening,)

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags."""
        return self.opening, self.closing, self.quote, *self.parts

    def read(self, reader: Reader) -> Reading[None]:
        """Reads one call, and the tag behind it."""
        yield from reader.skip(self.opening)
        yield from reader.space()
        if not (yield from reader.skip("call:")):
            raise NoCall
        name = yield from reader.before("{", limit=_LONGEST_NAME)
        yield from call(reader, name.strip(), self._object(reader))
        yield from reader.space()
        yield from reader.skip(self.closing)

    def _object(self, reader: Reader) -> Reading[bool]:
        """The arguments as JSON, as they come."""
        opened: list[str] = []
        word, at_key = "", False
        while True:
            word += yield from reader.before(*self._signs)
            sign = yield from reader.next(*self._signs)
            if sign == self.closing:
                return False
            reader.take(len(sign))
            if sign == ":" and not at_key:
                word += sign
                continue
            if sign == self.quote:
                yield from self._string(reader)
                word = ""
                continue
            yield Argued(_key(word) if at_key else _scalar(word))
            yield Argued({":": ": ", ",": ", "}.get(sign, sign))
            if sign in "{[":
                opened.append(sign)
            elif sign in "}]":
                opened.pop()
                if not opened:
                    return True
            word, at_key = "", sign in "{," and opened[-1] == "{"

    @property
    def _signs(self) -> tuple[str, ...]:
        return self.quote, self.closing, "{", "}", "[", "]", ":", ","

    def _string(self, reader: Reader) -> Reading[None]:
        yield Argued('"')
        while True:
            piece, quote = yield from reader.upto(self.quote)
            if reader.ended and not quote:
                raise NoCall
            yield Argued(_quoted(piece)[1:-1])
            if quote:
                break
        reader.take(len(quote))
        yield Argued('"')

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or many, of these tools."""
        calls = [
            f"{rules.text(f'call:{tool.name}')} {_Notation(rules, self.quote, tool.parameters or {}).arguments()}"
            for tool in tools
        ]
        return rules.calls(calls, self.opening, self.closing + self.opening, self.closing, many=many)


class _Notation:
    """The rules for values that a schema allows, in Gemma's notation."""

    def __init__(self, rules: Rules, quote: str, root: dict[str, Any]) -> None:
        self._rules = rules
        self._quote = quote
        self._root = root

    def arguments(self) -> str:
        """The rule of the whole arguments."""
        return self._object(self._root, 0)

    def _value(self, schema: Any, depth: int) -> str:
        schema = resolved(schema, self._root)
        choices = schema.get("anyOf") or schema.get("oneOf")
        if values := fixed_values(schema):
            return self._rules.add(" | ".join(self._rules.text(_written(value, self._quote)) for value in values))
        if isinstance(choices, list) and depth < _DEEPEST:
            return self._rules.add(" | ".join(self._value(choice, depth + 1) for choice in choices))
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._rules.add(" | ".join(self._value({**schema, "type": one}, depth + 1) for one in kind))
        if kind == "object" and depth < _DEEPEST:
            return self._object(schema, depth + 1)
        if kind == "array" and depth < _DEEPEST:
            return self._array(schema, depth + 1)
        if kind in ("number", "integer", "boolean", "null"):
            return self._rules.json(schema)
        return self._rules.add(f"{self._rules.text(self._quote)} {self._rules.until(self._quote)}")

    def _array(self, schema: dict[str, Any], depth: int) -> str:
        item = self._value(schema.get("items", {}), depth)
        least, most = schema.get("minItems", 0), schema.get("maxItems", "")
        again = f'{item} ("," {item}){{{max(least - 1, 0)},{most and max(most - 1, 0)}}}'
        return self._rules.add(f'"[" {again} "]"' if least else f'"[" ({again})? "]"')

    def _object(self, schema: dict[str, Any], depth: int) -> str:
        """Keys come in order of the alphabet, as Gemma's template writes them."""
        properties = schema.get("properties")
        needed = required(schema)
        first, later = '""', '""'
        for key, value in sorted(properties.items() if isinstance(properties, dict) else (), reverse=True):
            pair = self._rules.add(f"{self._rules.text(f'{key}:')} {self._value(value, depth)}")
            if key in needed:
                first, later = f"{pair} {later}", f'"," {pair} {later}'
            else:
                first, later = f"({pair} {later} | {first})", f'("," {pair})? {later}'
            first, later = self._rules.add(first), self._rules.add(later)
        return self._rules.add(f'"{{" {first} "}}"')


def _written(value: Any, quote: str) -> str:
    return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)


def _key(word: str) -> str:
    return _quoted(word.strip()) if word.strip() else ""


def _scalar(word: str) -> str:
    """A number, true, false or null as it is; anything else becomes a string."""
    try:
        msgspec.json.decode(word)
    except msgspec.DecodeError:
        return _key(word)
    return word.strip()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


FUNCTION_GEMMA = Family(
    "function-gemma",
    ("<start_function_call>",),
    GemmaForm("<start_function_call>", "<end_function_call>", "<escape>"),
    ends=("<start_function_response>",),
)

GEMMA4 = Family(
    "gemma4",
    ("<|tool_call>call:",),
    GemmaForm("<|tool_call>", "<tool_call|>", '<|"|>', parts=("<|channel>",)),
    thought_opening="<|channel>thought",
    thought_closing="<channel|>",
    thought_anywhere=True,
    stray=("<channel|>",),
    after_thought=("",),
    turn=("<turn|>\n", "<|turn>model\n"),
)
