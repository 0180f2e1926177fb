"""The tool that a model means by a name, and the parameter that a value without a name is for."""

# ruff: noqa: RUF001 (models write curly quotes)

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.backend import ToolSpec

SHORTEST_PREFIX = 3
LONGEST_NAME = 128

_DECORATION = " \t\r\n`*\"'“”‘’«»<>[]{}.,:;!"
_CALL_INDEX = re.compile(r":\d+$")
_SCOPE = re.compile(r"::|__|[./:]")
_FILLER = frozenset(
    ("use", "using", "call", "calling", "run", "invoke", "the", "a", "tool", "function", "functions", "tools", "api")
)


def match_tool(name: str, tools: Sequence[ToolSpec]) -> str | None:
    """The name of the tool that `name` stands for; None where there is none, or more than one.

    It may differ in case, in its separators, by a namespace ("functions.python"), by words around it ("the python
    tool"), or be the beginning of one name only. A name that is merely similar matches nothing.
    """
    known = [tool.name for tool in tools]
    if name in known:
        return name
    if len(name) > LONGEST_NAME:
        return None
    bare = _CALL_INDEX.sub("", name.strip(_DECORATION).replace("\\_", "_").removesuffix("()"))
    if bare in known:
        return bare
    return _folded_match(bare, known) or _beginning(bare, known)


def same_tool(name: str, tools: Sequence[ToolSpec]) -> str | None:
    """Like `match_tool`, but not by the beginning of a name: where text may stand that names no tool."""
    known = [tool.name for tool in tools]
    if name in known:
        return name
    return _folded_match(name, known) if len(name) <= LONGEST_NAME else None


def _folded_match(name: str, known: Sequence[str]) -> str | None:
    for form in (fold(name), fold(_without_filler(name)), fold(_SCOPE.split(name)[-1])):
        matches = {each for each in known if form and fold(each) == form}
        matches = matches or {each for each in known if form and fold(_SCOPE.split(each)[-1]) == form}
        if matches:
            return matches.pop() if len(matches) == 1 else None
    return None


def _beginning(name: str, known: Sequence[str]) -> str | None:
    form = fold(name)
    if len(form) < SHORTEST_PREFIX:
        return None
    matches = {each for each in known if fold(each).startswith(form)}
    return matches.pop() if len(matches) == 1 else None


def _without_filler(name: str) -> str:
    words = [word for word in re.split(r"[\s`\"'_]+", name) if word]
    while words and words[0].lower() in _FILLER:
        words.pop(0)
    while words and words[-1].lower() in _FILLER:
        words.pop()
    return " ".join(words)


def fold(name: str) -> str:
    """The letters and digits of a name, in one case and one width."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    return "".join(filter(str.isalnum, name)).casefold()


def properties(tool: ToolSpec) -> Mapping[str, Any]:
    """The schemas of a tool's parameters. A client's tool may come with a schema of any shape."""
    found = (tool.parameters or {}).get("properties")
    return found if isinstance(found, dict) else {}


def required(tool: ToolSpec) -> Sequence[str]:
    """The parameters that a call must give."""
    found = (tool.parameters or {}).get("required")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def sole_parameter(tool: ToolSpec) -> str | None:
    """The parameter that a value without a name is for: the only required one, or the only one."""
    candidates = required(tool) or list(properties(tool))
    return candidates[0] if len(candidates) == 1 else None


def takes_text(tool: ToolSpec, parameter: str) -> bool:
    """Whether a parameter is a text, or may be."""
    schema = properties(tool).get(parameter)
    if not isinstance(schema, dict):
        return True
    options = schema.get("anyOf")
    kinds = [schema, *(options if isinstance(options, list) else ())]
    types = [kind.get("type") for kind in kinds if isinstance(kind, dict)]
    return "string" in types or any(isinstance(each, list) and "string" in each for each in types) or not any(types)


def fitting_tool(arguments: Iterable[str], tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The only tool whose parameters have these names, and all of whose required ones are among them."""
    given = set(arguments)
    fitting = [tool for tool in tools if given and set(required(tool)) <= given <= set(properties(tool))]
    return fitting[0] if len(fitting) == 1 else None
