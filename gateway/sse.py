"""Server-sent events: frames from a generator to a client, with keep-alives, watching for the client to leave."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

KEEP_ALIVE = b": keep-alive\n"
"""A comment with ONE line break: a blank line after it ends openai-go's stream, and Python's once an id was seen."""

HEADERS = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx would hold the stream back
}

SEND_TIMEOUT = 60.0
"""Seconds that a client may leave a full connection unread."""


class EventStream(Response[None]):
    """A response of server-sent events.

    Args:
        frames: whole frames, ready to send; each item goes out at once. It is closed when the stream ends.
        keep_alive: seconds of silence after which a comment is sent.
        left: called when the client has gone, or has stopped reading.
        headers: more headers.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        keep_alive: float,
        left: Callable[[], None] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            None, status_code=200, media_type="text/event-stream; charset=utf-8", headers={**HEADERS, **(headers or {})}
        )
        self._frames = frames
        self._keep_alive = keep_alive
        self._left = left

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIApp:  # type: ignore[override]
        """The response as an ASGI application."""
        fields = {"content-type": self.media_type, **self.headers}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        return _Sender(self._frames, headers, self._keep_alive, self._left)


class _Sender:
    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        headers: list[tuple[bytes, bytes]],
        keep_alive: float,
        left: Callable[[], None] | None,
    ) -> None:
        self._frames = frames
        self._headers = headers
        self._keep_alive = keep_alive
        self._left = left
        self._last_sent = time.monotonic()
        self._sending = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        sender = asyncio.current_task()
        assert sender is not None
        watcher = asyncio.create_task(self._watch(receive, send, sender))
        try:
            async with aclosing(self._frames):
                async for frame in self._frames:
                    self._sending, self._last_sent = True, time.monotonic()
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                    self._sending = False
        except asyncio.CancelledError:
            if not self._gone:
                raise
            sender.uncancel()
        finally:
            watcher.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive, send: Send, sender: asyncio.Task[None]) -> None:
        """Fills silences, and ends the stream when its client has gone or stopped reading."""
        while not await self._client_gone(receive):
            silence = time.monotonic() - self._last_sent
            if self._sending and silence > SEND_TIMEOUT:
                break
            if silence >= self._keep_alive and not self._sending:
                self._last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        self._gone = True
        if self._left is not None:
            self._left()
        sender.cancel()

    async def _client_gone(self, receive: Receive) -> bool:
        """Waits for the client to leave, at most until the next keep-alive is due."""
        due = self._last_sent + self._keep_alive - time.monotonic()
        try:
            return (await asyncio.wait_for(receive(), max(due, 0.05)))["type"] == "http.disconnect"
        except TimeoutError:
            return False
