"""Mistral: `[TOOL_CALLS]` and an array of calls in older models, each call's name and arguments in newer ones."""

import re
from collections.abc import Sequence

from msgspec import Struct

from models.backend import ToolSpec
from models.llama_cpp.families.family import Family
from models.llama_cpp.families.framed import FramedJson
from models.llama_cpp.families.named import NamedJson
from models.llama_cpp.reading import Reader, Reading
from models.llama_cpp.rules import Rules

_ARRAY = NamedJson(openings=("[TOOL_CALLS]",), prefix="[TOOL_CALLS][", between=", ", suffix="]")
_NAMED = FramedJson(
    openings=("[TOOL_CALLS]",),
    heads=re.compile(r"\s*(?P<name>[\w.-]+)(\[CALL_ID\]\w*)?(\[ARGS\])?\s*"),
    prefix="[TOOL_CALLS]",
    between="[TOOL_CALLS]",
    head="NAME[ARGS]",
)


_TAG = "[TOOL_CALLS]"
_BEFORE_JSON = tuple(f"{_TAG}{gap}{bracket}" for gap in ("", " ", "\n") for bracket in "[{")


class MistralForm(Struct, frozen=True):
    """Both forms are understood; the template tells which one the model was trained to write."""

    written: NamedJson | FramedJson
    bare: tuple[str, ...] = ()
    openings: tuple[str, ...] = (_TAG,)
    marks: tuple[str, ...] = (_TAG, "[CALL_ID]", "[ARGS]")

    def read(self, reader: Reader) -> Reading[None]:
        """Reads one call, or an array of them."""
        array = yield from reader.next(*_BEFORE_JSON)
        yield from (_ARRAY if array else _NAMED).read(reader)

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or many, of these tools."""
        return self.written.rule(rules, tools, many)


MISTRAL = Family("mistral", (_TAG, "[ARGS]"), MistralForm(_NAMED), "[THINK]", "[/THINK]")

OLD_MISTRAL = Family("old-mistral", (_TAG,), MistralForm(_ARRAY), "[THINK]", "[/THINK]")
