"""A form of tool calls: JSON objects that hold a name and arguments."""

import json
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from models.backend import ToolSpec
from models.llama_cpp.reading import NAME, Argued, Brackets, Called, Closed, NoCall, Reader, Reading, call, json_object
from models.llama_cpp.rules import Rules

_ARGUMENTS = ("arguments", "parameters")
_decoder = msgspec.json.Decoder(dict[str, Raw])


class NamedJson(Struct, frozen=True):
    """One object behind an opening tag, or several, or an array of them."""

    openings: tuple[str, ...]
    closings: tuple[str, ...] = ()
    """Tags that may stand behind calls."""
    bare: tuple[str, ...] = ()
    prefix: str = ""
    between: str = ""
    suffix: str = ""
    """How the model itself writes what stands before, between and behind calls."""
    head: str = '{"name": NAME, "arguments": '
    """How the model itself begins a call."""
    name_key: str = "name"
    single: bool = False
    """Whether there is one call in an answer."""

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags."""
        return (*self.openings, *self.closings)

    def read(self, reader: Reader) -> Reading[None]:
        """Reads calls until none follows."""
        tagged = bool((yield from reader.skip(*self.openings)))
        yield from reader.space()
        array = yield from reader.skip("[")
        while True:
            yield from reader.space()
            yield from self._call(reader, tagged)
            reader.attempt("")
            yield from reader.space()
            separator = yield from reader.skip(*(",]" if array else ",;"))
            if separator == "]" or not (separator or (yield from reader.next("{"))):
                break
        yield from reader.space()
        yield from reader.skip(*self.closings)

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or many, of these tools."""
        calls = [f"{rules.text(self._head(tool.name))} {rules.arguments(tool)} {rules.text('}')}" for tool in tools]
        return rules.calls(calls, self.prefix, self.between, self.suffix, many=many and not self.single)

    def _head(self, name: str) -> str:
        return self.head.replace("NAME", json.dumps(name, ensure_ascii=False))

    def _call(self, reader: Reader, tagged: bool) -> Reading[None]:
        """A call is certain once its arguments begin behind the name of a tool, or when all of it was read."""
        if not (yield from reader.next("{")):
            raise NoCall
        brackets = Brackets(deepest=1)
        text = yield from reader.rest(brackets)
        name = self._certain_name(text, reader.tools)
        brackets.deepest = None
        if name and (yield from reader.next("{")):
            yield from call(reader, name, json_object(reader))
            yield from reader.rest(brackets)
            return
        if not (tagged or brackets.complete):
            raise NoCall
        text += yield from reader.rest(brackets)
        name, arguments = self._whole(text)
        if not brackets.complete or not (tagged or name in reader.tools):
            raise NoCall
        reader.succeed()
        yield Called(name)
        yield Argued(arguments)
        yield Closed()

    def _certain_name(self, head: str, tools: Mapping[str, ToolSpec]) -> str:
        """The name, where arguments come next and it is that of a tool."""
        try:
            keys = msgspec.json.decode(head + "0}")
        except msgspec.DecodeError:
            return ""
        name = keys.get(self.name_key)
        return name if isinstance(name, str) and name in tools and list(keys)[-1] in _ARGUMENTS else ""

    def _whole(self, text: str) -> tuple[str, str]:
        try:
            call = _decoder.decode(text)
            name = msgspec.json.decode(call.get(self.name_key, b"null"))
            arguments = next((bytes(call[key]).decode() for key in _ARGUMENTS if key in call), "{}")
            if arguments.startswith('"'):
                arguments = msgspec.json.decode(arguments, type=str)
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoCall from error
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise NoCall
        return name, arguments or "{}"
