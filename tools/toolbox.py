"""The toolbox: runs tools by name. Time and output limits, cancellation and failures are its work, not each tool's."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from models.backend import ToolSpec
from tools.session import File, Session
from tools.tool import Output, Tool, ToolError, called

logger = logging.getLogger(__name__)


class Result(Struct, frozen=True):
    """How a call ended."""

    output: str
    """What the tool gave, cut in the middle where it was too long."""
    files: tuple[File, ...] = ()
    """Files in the session's folder that it made or changed."""
    error: str | None = None
    """Why it failed, in words for the model; None where it did not."""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """All of it as a model reads it."""
        lines = [
            f"{file.name} ({file.type}, {file.size} bytes){': ' + file.link if file.link else ''}"
            for file in self.files
        ]
        parts = [
            self.output,
            "Files:\n" + "\n".join(lines) if lines else "",
            f"Error: {self.error}" if self.error else "",
        ]
        return "\n\n".join(filter(None, parts)) or "(no output)"


class Called(Struct, frozen=True):
    """A call that has ended, for those who count."""

    tool: str
    user_id: str
    failed: bool
    seconds: float


class Source(Protocol):
    """Has tools that come and go, such as those of an MCP server."""

    def tools(self) -> Sequence[Tool]:
        """Those that there are now."""


class Toolbox:
    """Tools by name.

    result = await Toolbox([tool(weather)]).run("weather", {"city": "Oslo"}, Session(folder))

    Args:
        tools: tools, and sources of tools. The first of a name counts.
        timeout: seconds that a call may take, where the tool does not say otherwise.
        longest: characters of an output; from a longer one the middle is cut out.
        observe: told of every call that has ended.
    """

    def __init__(
        self,
        tools: Sequence[Tool | Source],
        *,
        timeout: float = 60.0,
        longest: int = 20_000,
        observe: Callable[[Called], None] = lambda _: None,
    ) -> None:
        self._tools = tuple(tools)
        self._timeout = timeout
        self._longest = longest
        self._observe = observe

    def tools(self) -> dict[str, Tool]:
        """All tools that there are now by their names, also those that cannot be used."""
        found: dict[str, Tool] = {}
        for item in self._tools:
            for each in (item,) if isinstance(item, Tool) else item.tools():
                found.setdefault(each.name, each)
        return found

    def find(self, name: str) -> Tool | None:
        """The tool of a name, its own or that by which models call it."""
        found = self.tools()
        return found.get(name) or next((each for each in found.values() if called(each.name) == name), None)

    def only(self, patterns: Sequence[str]) -> "Toolbox":
        """The same without tools whose names fit none of the patterns: `python`, `files.*`, `files__read`."""

        return Toolbox(
            [_Chosen(self, tuple(patterns))], timeout=self._timeout, longest=self._longest, observe=self._observe
        )

    def specs(self) -> tuple[ToolSpec, ...]:
        """What a model is offered: the tools that can be used now."""
        return tuple(each.spec for each in self.tools().values() if each.unavailable() is None)

    async def run(self, name: str, arguments: str | Mapping[str, Any], session: Session) -> Result:
        """Calls a tool. What goes wrong comes back as the result's error; only cancellation rises.

        Args:
            name: the tool's name, its own or that by which models call it.
            arguments: an object, or the JSON text of one, as models write it.
            session: whose workspace it works in.
        """
        began = time.monotonic()
        output = Output("")
        files: tuple[File, ...] = ()
        if (chosen := self.find(name)) is None:
            known = ", ".join(map(called, self.tools()))
            return Result("", error=f"There is no tool {name[:64]!r}. Tools are: {known or 'none'}.")
        limit = chosen.timeout or self._timeout
        try:
            if (reason := chosen.unavailable()) is not None:
                raise ToolError(f"The tool {name} is not available: {reason}")
            async with asyncio.timeout(limit):
                output = _output(await chosen.call(session, _object(name, arguments)))
                files = await session.keep(output.files)
            error = output.error
        except ToolError as failure:
            error = str(failure)
        except TimeoutError:
            error = f"{name} did not end within {limit:g} seconds and was stopped."
        except Exception:  # a bug in one tool must not end the conversation; the log has it
            logger.exception("the tool %s failed", name)
            error = f"{name} failed inside. Try something else."
        seconds = time.monotonic() - began
        self._observe(Called(chosen.name, session.user_id, error is not None, seconds))
        return Result(cut(output.text, self._longest), files, cut(error, self._longest) if error else None, seconds)


class _Chosen:
    """Some tools of a toolbox."""

    def __init__(self, toolbox: Toolbox, patterns: tuple[str, ...]) -> None:
        self._toolbox = toolbox
        self._patterns = patterns

    def tools(self) -> Sequence[Tool]:
        """Those whose names fit a pattern."""
        found = self._toolbox.tools().values()
        return [
            each
            for each in found
            if any(fnmatchcase(name, pattern) for name in (each.name, called(each.name)) for pattern in self._patterns)
        ]


def _object(name: str, arguments: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError) as error:
            raise ToolError(f"The arguments of {name} are not valid JSON: {error}.") from None
    if not isinstance(arguments, Mapping):
        raise ToolError(f"The arguments of {name} must be a JSON object.")
    return arguments


def _output(value: Any) -> Output:
    match value:
        case Output():
            return value
        case str():
            return Output(value)
        case None:
            return Output("")
    return Output(msgspec.json.encode(value).decode())


def cut(text: str, longest: int) -> str:
    """The text, without its middle where it is longer than `longest` characters: what matters stands at the ends."""
    if len(text) <= longest:
        return text
    head = longest * 2 // 3
    tail = longest - head
    return f"{text[:head]}\n[… {len(text) - longest} characters left out …]\n{text[-tail:]}"
