"""One MCP server: a task that keeps the connection and knows the tools, and calls by whoever has one to make."""

import asyncio
import fnmatch
import logging
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from mcp import MCPError
from mcp import types as wire
from mcp.client.session import ClientSession, IncomingMessage
from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, METHOD_NOT_FOUND
from pydantic import ValidationError

from tools.mcp import result, schema
from tools.mcp.config import FIRST_DELAY, ServerConfig
from tools.mcp.transport import Incoming, connection
from tools.session import Session
from tools.tool import Output, Tool, ToolError

START_TIMEOUT = 60.0
"""Seconds until a server must have introduced itself: `npx` and `uvx` may have to load it first."""
QUESTION_TIMEOUT = 10.0
"""Seconds for a short question, such as which tools there are."""
PING_EVERY = 60.0
"""Seconds without work after which a server on HTTP is asked whether it is there: no stream of it would end."""
LONGEST_DELAY = 60.0
CLOSE_TIMEOUT = 15.0
"""Seconds after which the end of a connection is asked for again."""
"""Seconds between attempts to connect: twice as many after each that failed."""
STEADY = 60.0
"""Seconds that a connection must have held for the next attempt to count as the first."""
MOST_TOOLS = 128
"""Tools of a server, of those that are allowed: OpenAI's own limit of tools in a request."""
MOST_PAGES = 50
LONGEST_DESCRIPTION = 2_000
_LONGEST_NAME = 63
"""OpenAI's limit is 64 characters, and the point may become two of them."""

logger = logging.getLogger(__name__)


class Server:
    """A server that is kept connected from `start` to `close`.

    Args:
        config: how to reach it, and what may be used of it.
        first_delay: seconds after which it is tried again for the first time.
    """

    def __init__(self, config: ServerConfig, *, first_delay: float = FIRST_DELAY) -> None:
        self.config = config
        self.tools: tuple[Tool, ...] = ()
        """Those that it had when it was last asked, also while it is down."""
        self.refused: dict[str, str] = {}
        """Why tools that it has are not offered, by their own names."""
        self.tried = asyncio.Event()
        """The first attempt to connect has ended, well or not."""
        self.reason = "it is still starting"
        """Why it is not connected; empty while it is."""
        self._first_delay = first_delay
        self._closing = False
        self._session: ClientSession | None = None
        self._incoming: Incoming | None = None
        self._calls = 0
        self._wake = asyncio.Event()
        self._changed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to connect, in the background."""
        self._task = asyncio.create_task(self._keep(), name=f"mcp {self.config.name}")

    async def close(self) -> None:
        """Ends the connection, and the process with it."""
        self._closing = True
        while self._task is not None and not self._task.done():
            # A cancellation that comes while a connection breaks can be lost in what that raises. A second one must not
            # come before the process has had its time to end.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT)

    def unavailable(self) -> str | None:
        """Why its tools cannot be used now. What exactly is wrong is not a model's business: see `reason`."""
        return None if self._live() else f"the MCP server {self.config.name} is down; it is tried again."

    def status(self) -> dict[str, Any]:
        """What there is to know of it, for operators."""
        return {
            "connected": self._live() is not None,
            "place": self.config.place,
            "reason": self.reason,
            "tools": len(self.tools),
            "refused": self.refused,
        }

    def _live(self) -> ClientSession | None:
        """The connection, as long as it stands."""
        return None if self._incoming is None or self._incoming.ended.is_set() else self._session

    async def _keep(self) -> None:
        """Connects, again and again."""
        delay = self._first_delay
        while True:
            began = time.monotonic()
            try:
                await self._attend()
            except Exception as error:  # whatever a server does wrong is its own downtime, never ours
                self._log_failure(error)
            finally:
                self.tried.set()
            if self._closing:
                return
            if time.monotonic() - began > STEADY:
                delay = self._first_delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    def _log_failure(self, error: Exception) -> None:
        self.reason = (self._incoming and self._incoming.reason) or _reason(error)
        words = " | ".join(self._incoming.last_words) if self._incoming else ""
        logger.warning("MCP server %s: %s%s", self.config.name, self.reason, words and f"; it said: {words[-1000:]}")

    async def _attend(self) -> None:
        """Connects, and stays connected for as long as it goes. Raises whatever ends it."""
        self._incoming = None
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(START_TIMEOUT):
                incoming, outgoing = await stack.enter_async_context(connection(self.config))
                self._incoming = incoming
                session = await stack.enter_async_context(ClientSession(incoming, outgoing, message_handler=self._hear))
                await session.initialize()
                await self._list(session)
            try:
                self._session, self.reason = session, ""
                self.tried.set()
                logger.info("MCP server %s: connected, %d tools", self.config.name, len(self.tools))
                await self._listen(session, incoming)
            finally:
                self._session = None

    async def _listen(self, session: ClientSession, incoming: Incoming) -> None:
        """Lists the tools again when they have changed. Raises when the connection has ended, or answers no more."""
        while not incoming.ended.is_set():
            await self._woken(incoming.ended)
            if self._changed:
                self._changed = False
                await self._list(session)
                await asyncio.sleep(self._first_delay)  # a server may say so again and again
            elif not self._calls and not incoming.ended.is_set():
                await _ping(session)
        raise ConnectionError("it ended the connection")

    async def _woken(self, ended: asyncio.Event) -> None:
        """Waits for news: of the tools, of the connection's end, of a call that failed; or a while, on HTTP."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wake, ended)]
        try:
            await asyncio.wait(
                waits, timeout=PING_EVERY if self.config.url else None, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        self._wake.clear()

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, wire.ToolListChangedNotification):
            self._changed = True
            self._wake.set()

    async def _list(self, session: ClientSession) -> None:
        listed: list[wire.Tool] = []
        cursor: str | None = None
        async with asyncio.timeout(QUESTION_TIMEOUT):
            for _ in range(MOST_PAGES):
                params = wire.PaginatedRequestParams(cursor=cursor)
                page = await session.send_request(wire.ListToolsRequest(params=params), wire.ListToolsResult)
                listed += page.tools
                if (cursor := page.next_cursor) is None:
                    break
        allowed = [each for each in listed if any(fnmatch.fnmatchcase(each.name, may) for may in self.config.tools)]
        refused = {each.name[:100]: f"a server may have {MOST_TOOLS} tools; name those that are needed in `tools`"
                   for each in allowed[MOST_TOOLS:]}  # fmt: skip
        made: dict[str, Tool] = {}
        for each in allowed[:MOST_TOOLS]:
            name = self._name(each.name)
            if name in made:
                refused[each.name[:100]] = f"there is another tool {name}"
                continue
            try:
                made[name] = self._tool(name, each, await schema.checked(each.input_schema))
            except schema.BadSchema as error:
                refused[each.name[:100]] = str(error)
        self.tools, self.refused = tuple(made.values()), refused
        if refused:
            logger.warning("MCP server %s: %d tools are not offered", self.config.name, len(refused))

    def _name(self, name: str) -> str:
        return f"{self.config.name}.{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"[:_LONGEST_NAME]

    def _tool(self, name: str, listed: wire.Tool, parameters: dict[str, Any]) -> Tool:
        async def call(session: Session, arguments: Mapping[str, Any]) -> Output:
            await schema.check(name, parameters, arguments)
            answer = await self._call(listed.name, dict(arguments))
            return await result.output(answer, session, name.replace(".", "-"), self.config.max_output)

        description = "".join(c for c in listed.description or "" if c.isprintable() or c == "\n")
        return Tool(name, description[:LONGEST_DESCRIPTION], parameters, call, self.config.timeout, self.unavailable)

    async def _call(self, tool: str, arguments: dict[str, Any]) -> wire.CallToolResult:
        if (session := self._live()) is None:
            raise ToolError(f"The MCP server {self.config.name} is down. Do without, or try again later.")
        # Not by `session.call_tool`, which holds results to the server's own schema, with its patterns, in our loop.
        request = wire.CallToolRequest(params=wire.CallToolRequestParams(name=tool, arguments=arguments))
        self._calls += 1
        try:
            return await session.send_request(request, wire.CallToolResult)
        except MCPError as error:
            if self._live() is not session:
                raise ToolError(f"The MCP server {self.config.name} went away during the call.") from None
            if error.code in (CONNECTION_CLOSED, INVALID_REQUEST):
                self._wake.set()  # perhaps it knows us no more
            raise ToolError(f"{self.config.name} failed: {error.message[:1000] or 'no reason given'}") from None
        except ValidationError:
            raise ToolError(f"The MCP server {self.config.name} sent an answer that is not one.") from None
        finally:
            self._calls -= 1


async def _ping(session: ClientSession) -> None:
    """Asks whether the server is there. Raises MCPError or TimeoutError."""
    async with asyncio.timeout(QUESTION_TIMEOUT):
        try:
            await session.send_request(wire.PingRequest(), wire.EmptyResult)
        except MCPError as error:
            if error.code != METHOD_NOT_FOUND:
                raise


def _reason(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return " ".join(f"{error}".split())[:300] or type(error).__name__
