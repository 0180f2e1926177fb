"""A form of tool calls: the name and each argument between tags, strings as they are and other values as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from models.backend import ToolSpec
from models.llama_cpp.families.schema import fixed_values, json_value, kinds, parameters, required, resolved
from models.llama_cpp.reading import Argued, NoCall, Reader, Reading, call
from models.llama_cpp.rules import Rules

_LONGEST_HEAD = 300
_STRING = frozenset({"string"})
_LINE = r'"\n"'


class Tagged(Struct, frozen=True):
    """Calls one by one, or several between the tags of a group."""

    openings: tuple[str, ...]
    """Tags of groups and of calls."""
    closings: tuple[str, ...]
    """Tags that may stand behind a call."""
    name: tuple[str, str]
    """What stands before and behind the name; nothing behind it: the next tag."""
    key: tuple[str, str]
    """What stands before and behind the name of an argument."""
    value: tuple[str, str]
    """What stands before and behind its value, as the model itself writes it."""
    end: str
    """What stands behind the last argument."""
    prefix: str
    between: str
    suffix: str
    """How the model itself writes what stands before, between and behind calls."""
    tells_strings: bool = False
    """Whether the name of an argument is followed by `string="true"` or `string="false"`."""
    parts: tuple[str, ...] = ()
    """Tokens of which tags are made."""
    bare: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags."""
        inner = (tag.strip() for tag in (*self.name, *self.key, *self.value, self.end))
        return (*self.openings, *self.closings, *self.parts, *filter(None, inner))

    def read(self, reader: Reader) -> Reading[None]:
        """Reads one call, and the tags behind it. What may stand between calls opens the next one."""
        before, behind = self.name
        opening = yield from reader.skip(*self.openings)
        if before and opening != before:
            yield from reader.space()
            if not (yield from reader.skip(before)):
                raise NoCall
        name = (yield from reader.before(behind or "<", limit=_LONGEST_HEAD)).strip()
        reader.take(len(behind))
        yield from call(reader, name, self._arguments(reader, reader.tools.get(name, ToolSpec(name))))
        yield from reader.space()
        while (yield from reader.skip(*self.closings)):
            yield from reader.space()

    def _arguments(self, reader: Reader, tool: ToolSpec) -> Reading[bool]:
        before = "{"
        yield from reader.space()
        while (yield from reader.skip(self.key[0])):
            key = (yield from reader.before(self.key[1], limit=_LONGEST_HEAD)).strip()
            reader.take(len(self.key[1]))
            key, _, attributes = key.partition('"')
            text, complete = yield from self._value(reader)
            allowed = self._kinds(tool, key, attributes)
            yield Argued(f"{before}{_string(key)}: ")
            if not complete:
                yield Argued(_string(text)[:-1] if allowed == _STRING else "")
                raise NoCall
            yield Argued(json_value(text, allowed))
            before = ", "
            yield from reader.space()
        ended = yield from reader.skip(*self._ends)
        if not ended and reader.ended:
            raise NoCall
        yield Argued("{}" if before == "{" else "}")
        return bool(ended)

    @property
    def _ends(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.end, *self.closings) if mark)

    def _kinds(self, tool: ToolSpec, key: str, attributes: str) -> frozenset[str]:
        if self.tells_strings and "true" in attributes:
            return _STRING
        schema = tool.parameters or {}
        return kinds(parameters(tool).get(key), schema)

    def _value(self, reader: Reader) -> Reading[tuple[str, bool]]:
        """The text of a value, and whether all of it was there. Its tag counts only if more tags follow."""
        before, behind = (mark.strip() for mark in self.value)
        if before:
            yield from reader.space()
            yield from reader.skip(before)
        found = ""
        while True:
            piece, mark = yield from reader.upto(behind)
            closing = ""
            if mark:
                found += piece
                closing = reader.take(len(mark)) + (yield from reader.space())
                if (yield from reader.next(self.key[0], *self._ends)):
                    return self._without_lines(found), True
            if reader.ended:
                return self._without_lines(found), False
            found += closing or piece

    def _without_lines(self, value: str) -> str:
        return value.removeprefix("\n").removesuffix("\n") if self.value[0] == "\n" else value

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or many, of these tools."""
        calls = [self._call_rule(rules, tool) for tool in tools]
        return rules.calls(calls, self.prefix, self.between, self.suffix, many=many)

    def _call_rule(self, rules: Rules, tool: ToolSpec) -> str:
        needed = required(tool.parameters or {})
        arguments = [
            self._argument_rule(rules, key, schema, tool.parameters or {}) + ("" if key in needed else "?")
            for key, schema in parameters(tool).items()
        ]
        head = rules.text(f"{self.name[0]}{tool.name}{self.name[1]}\n")
        return " ".join([head, *arguments, rules.text(self.end)])

    def _argument_rule(self, rules: Rules, key: str, schema: Any, root: dict[str, Any]) -> str:
        text = "string" in kinds(schema, root)
        kind = f'" string="{json.dumps(text)}"' if self.tells_strings else ""
        head = rules.text(f"{self.key[0]}{key}{kind}{self.key[1]}{self.value[0]}")
        values = fixed_values(resolved(schema, root))
        if values and all(isinstance(value, str) for value in values):
            body = rules.add(" | ".join(map(rules.text, values))) + f" {rules.text(self.value[1])}"
        elif text:
            body = rules.until(self.value[1])
        else:
            definitions: dict[str, Any] = {name: root[name] for name in ("$defs", "definitions") if name in root}
            body = f"{rules.json(schema | definitions)} {rules.text(self.value[1])}"
        return rules.add(f"{head} {body} {_LINE}")


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
