"""A form of tool calls: the name, then the arguments as JSON, between tags."""

import re
from collections.abc import Sequence

from msgspec import Struct

from models.backend import ToolSpec
from models.llama_cpp.reading import NoCall, Reader, Reading, call, json_object
from models.llama_cpp.rules import Rules

_LONGEST_HEAD = 300


class FramedJson(Struct, frozen=True):
    """Calls one by one, or several between the tags of a group."""

    openings: tuple[str, ...]
    heads: re.Pattern[str]
    """All ways to write what stands between an opening and the arguments; the group `name` is the tool's name."""
    prefix: str = ""
    between: str = ""
    suffix: str = ""
    """How the model itself writes what stands before, between and behind calls."""
    head: str = "NAME"
    """How the model itself writes the head; `NAME` stands for the tool's name, `NUMBER` for any."""
    closings: tuple[str, ...] = ()
    """Tags that may stand behind a call, in any order."""
    parts: tuple[str, ...] = ()
    """Tags inside of a call."""
    bare: tuple[str, ...] = ()
    single: bool = False
    """Whether there is one call in an answer."""

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags."""
        return (*self.openings, *self.closings, *self.parts)

    def read(self, reader: Reader) -> Reading[None]:
        """Reads one call, and the tags behind it. What may stand between calls opens the next one."""
        yield from reader.skip(*self.openings)
        head = self.heads.fullmatch((yield from reader.before("{", limit=_LONGEST_HEAD)))
        if not head:
            raise NoCall
        yield from call(reader, head["name"], json_object(reader))
        yield from reader.space()
        while (yield from reader.skip(*self.closings)):
            yield from reader.space()

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or many, of these tools."""
        calls = [f"{self._head(rules, tool.name)} {rules.arguments(tool)}" for tool in tools]
        return rules.calls(calls, self.prefix, self.between, self.suffix, many=many and not self.single)

    def _head(self, rules: Rules, name: str) -> str:
        parts = [part.replace("NAME", name) for part in self.head.split("NUMBER")]
        return " /[0-9]{1,3}/ ".join(map(rules.text, parts))
