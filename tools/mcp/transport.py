"""The ways to an MCP server: a process's standard streams, or streamable HTTP. What the server sends is bounded.

The SDK's own transport for processes keeps a line in memory however long it is, and its HTTP client a whole answer.
"""

import asyncio
import logging
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Protocol, Self

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from tools.mcp.config import ServerConfig

LARGEST_MESSAGE = 8 * 1024**2
"""Bytes of a message: a picture of 6 MB."""
MOST_MESSAGES = 10_000
"""Messages in PERIOD seconds; a server that sends more is given up, since each costs some 0.2 ms."""
PERIOD = 10.0
CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand."""
PATIENCE = 2.0
"""Seconds that a process gets to end by itself, and again when it was asked to."""

KNOWN = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")
"""What a server's process may know of our environment: nothing that could be a secret."""

logger = logging.getLogger(__name__)

Message = SessionMessage | Exception


TOO_LARGE = f"it sent a message of more than {LARGEST_MESSAGE:,} bytes"


class TooMuch(Exception):
    """A server sent more than anybody wants. The text says what."""


class Readable(Protocol):
    """The part of the SDK's read streams that is used here."""

    async def receive(self) -> Message: ...

    async def aclose(self) -> None: ...


class Writable(Protocol):
    """The SDK's write streams."""

    async def send(self, item: SessionMessage, /) -> None: ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Incoming:
    """What a server sends, until it sends too much."""

    def __init__(self, inner: Readable) -> None:
        self._inner = inner
        self._since = 0.0
        self._taken = 0
        self.ended = asyncio.Event()
        """Nothing more will come."""
        self.reason = ""
        """Why the server was given up; empty where it was not."""
        self.last_words: deque[str] = deque(maxlen=3)
        """The last lines that its process wrote on stderr. They may hold secrets."""

    async def receive(self) -> Message:
        """The next message. Raises anyio.EndOfStream."""
        try:
            message = await self._inner.receive()
            self._count()
            if isinstance(message, TooMuch):
                raise message
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self.ended.set()
            raise
        except TooMuch as error:
            self.reason = str(error)
            self.ended.set()
            raise anyio.EndOfStream from error
        return message

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._since >= PERIOD:
            self._since, self._taken = now, 0
        self._taken += 1
        if self._taken > MOST_MESSAGES:
            raise TooMuch(f"it sent more than {MOST_MESSAGES:,} messages in {PERIOD:g} seconds")

    async def aclose(self) -> None:
        """Closes the stream."""
        self.ended.set()
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def connection(config: ServerConfig) -> AbstractAsyncContextManager[tuple[Incoming, Writable]]:
    """The way to a server, open for as long as the context. To be entered and left in the same task.

    Raises:
        OSError: its process cannot be started.
    """
    return _to_process(config) if config.command else _over_http(config)


@asynccontextmanager
async def _over_http(config: ServerConfig) -> AsyncIterator[tuple[Incoming, Writable]]:
    client = httpx2.AsyncClient(
        headers={**config.headers, "Accept-Encoding": "identity"},
        # A call's own limit comes first; this one ends what nobody waits for any more.
        timeout=httpx2.Timeout(30.0, connect=CONNECT_TIMEOUT, read=config.timeout + 300.0),
        transport=_Bounded(httpx2.AsyncHTTPTransport()),
        trust_env=False,
    )
    async with (
        client,
        streamable_http_client(config.url, http_client=client, max_sse_event_size=LARGEST_MESSAGE) as (read, write),
    ):
        yield Incoming(read), write


class _Bounded(httpx2.AsyncBaseTransport):
    """Limits what an answer may have. Events are limited one by one, by the SDK."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("compressed, though it was not to be", request=request)
        is_events = response.headers.get("Content-Type", "").lower().startswith("text/event-stream")
        if not is_events and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedBody(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if size > LARGEST_MESSAGE:
                # Of all errors the one by which the SDK lets a single request fail, and not the connection.
                raise httpx2.StreamError(TOO_LARGE)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def _to_process(config: ServerConfig) -> AsyncIterator[tuple[Incoming, Writable]]:
    """A server's process, in a group of its own, which is ended with all that it has started."""
    process = await asyncio.create_subprocess_exec(
        config.command,
        *config.args,
        cwd=config.cwd or None,
        env={name: os.environ[name] for name in KNOWN if name in os.environ} | config.env,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=LARGEST_MESSAGE,
        start_new_session=True,
    )
    from_server, received = anyio.create_memory_object_stream[Message](0)
    outgoing, to_server = anyio.create_memory_object_stream[SessionMessage](0)
    incoming = Incoming(received)
    listening = asyncio.create_task(_listen(config.name, process, incoming.last_words))
    moving = (
        asyncio.create_task(_read(config.name, process, from_server)),
        asyncio.create_task(_write(process, to_server)),
    )
    try:
        yield incoming, outgoing
    finally:
        for stream in (from_server, received, outgoing, to_server):
            stream.close()
        await _cancelled(*moving)
        # A process that cannot get rid of its output cannot end.
        draining = asyncio.create_task(_drain(process))
        await _end(config.name, process)
        await _cancelled(draining, listening)
        # Nothing public closes the pipes that a descendant, in a group of its own, may still hold.
        process._transport.close()  # type: ignore[attr-defined]


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(process: Process) -> None:
    assert process.stdout
    while await process.stdout.read(2**16):
        pass


async def _read(name: str, process: Process, incoming: MemoryObjectSendStream[Message]) -> None:
    """The process's messages, a line each. A line that is none is passed over: many servers print such."""
    assert process.stdout
    with incoming, suppress(asyncio.IncompleteReadError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            try:
                line = await process.stdout.readuntil(b"\n")
                await incoming.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
            except asyncio.LimitOverrunError:
                await incoming.send(TooMuch(TOO_LARGE))
                return
            except ValueError:
                logger.debug("MCP server %s: not a message: %.200r", name, line)


async def _write(process: Process, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
    assert process.stdin
    # A process that is gone is seen by its other stream.
    with outgoing, suppress(ConnectionError):
        async for message in outgoing:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()


async def _listen(name: str, process: Process, last_words: deque[str]) -> None:
    """What a process says on stderr goes to the log."""
    assert process.stderr
    while chunk := await process.stderr.read(4096):
        for line in chunk.decode("utf-8", "replace").splitlines():
            logger.debug("MCP server %s: %s", name, line)
            last_words.append(line)


async def _end(name: str, process: Process) -> None:
    """Ends a process as the specification says: its input ends, then it is asked to, then it is killed.

    https://modelcontextprotocol.io/specification/2025-06-18/basic/lifecycle#shutdown
    """
    assert process.stdin
    process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
            break
        _signal_group(process, number)
    else:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
    # What it has started may live on, also when it has ended by itself.
    _signal_group(process, signal.SIGKILL)
    if process.returncode is None:
        logger.warning("MCP server %s: process %d cannot be ended", name, process.pid)


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
