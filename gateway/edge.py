"""The edge: what holds for every response, errors of the web framework included.

A request id, security headers, CORS, HEAD for every GET, an end to bodies that never end, one log line, and the
request's metrics. A plain ASGI wrapper around the application, so that nothing can be answered without it.
"""

import asyncio
import time
from typing import Any

import structlog
from litestar.types import ASGIApp, Message, Receive, Send

from gateway.errors import cancelled, stalled
from gateway.ids import new_id
from gateway.metrics import Metrics
from gateway.runs import Run

access_log: Any = structlog.get_logger()

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
HSTS = (b"strict-transport-security", b"max-age=31536000")
EXPOSED = b"x-request-id, retry-after, retry-after-ms, x-should-retry, x-run-id, x-ratelimit-remaining-requests"
METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"


class Edge:
    """Wraps the application.

    Args:
        origins: origins whose pages may call; `*` for all.
        credentials: whether they may send cookies.
        patience: seconds that a request's body may pause.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        origins: tuple[str, ...],
        credentials: bool,
        patience: float = 60.0,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._origins = frozenset(origin.encode() for origin in origins)
        self._credentials = credentials
        self._patience = patience

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = new_id("req_")
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        headers = [(b"x-request-id", request_id.encode()), *SECURITY]
        if scope["scheme"] == "https":
            headers.append(HSTS)
        origin = self._allowed_origin(scope)
        if origin:
            headers += self._cors(origin)
        method = scope["method"]
        if method == "OPTIONS":
            await self._preflight(scope, headers, allowed=bool(origin), send=send)
            return
        status = 0
        if method == "HEAD":
            head = _Head(receive, send)
            # A copy: uvicorn reads the method again when it is sent the answer.
            scope = {**scope, "method": "GET"}
            receive, send = head.receive, head.send
        elif method != "GET":
            receive = _Upload(receive, self._patience).receive

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        try:
            await self._app(scope, receive, add_headers)
        finally:
            self._account(scope, method, status, time.monotonic() - began)

    def _allowed_origin(self, scope: Any) -> bytes | None:
        if not self._origins:
            return None
        origin = _header(scope, b"origin")
        return origin if origin and (origin in self._origins or b"*" in self._origins) else None

    def _cors(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"access-control-allow-origin", origin),
            (b"vary", b"Origin"),
            (b"access-control-expose-headers", EXPOSED),
        ]
        if self._credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    async def _preflight(self, scope: Any, headers: list[tuple[bytes, bytes]], *, allowed: bool, send: Send) -> None:
        """Answers a browser's question before its request; never asks who it is. A foreign origin learns nothing."""
        headers = [*headers, (b"allow", METHODS)]
        if allowed:
            wanted = _header(scope, b"access-control-request-headers") or b"authorization, content-type"
            headers += [
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", b"600"),
            ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _account(self, scope: Any, method: str, status: int, seconds: float) -> None:
        state: dict[str, Any] = scope["state"]
        route = str(scope.get("path_template") or "(none)")
        self._metrics.request(method, route, status, seconds)
        access_log.info(
            "request",
            logger="drover.access",
            request_id=state["request_id"],
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            **_who(scope),
            **_what(state.get("run")),
        )


def _who(scope: Any) -> dict[str, Any]:
    principal = scope.get("user")
    return {"user": principal.user_id, "key": principal.key_id} if principal is not None else {}


def _what(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {}
    return {
        "run": run.id,
        "mode": run.origin.mode,
        "model": run.origin.model,
        "first_token_ms": run.first_token_ms and round(run.first_token_ms, 1),
        "prompt_tokens": run.usage.prompt_tokens,
        "completion_tokens": run.usage.completion_tokens,
        "run_status": run.status,
    }


class _Head:
    """Turns a GET's answer into a HEAD's: the same headers, no body. A stream is told that its reader has left."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ended = False

    async def receive(self) -> Any:
        return {"type": "http.disconnect"} if self._ended else await self._receive()

    async def send(self, message: Message) -> None:
        if not self._ended:
            self._ended = True
            await self._send(message)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Upload:
    """A request's body, which must come without long pauses; who leaves in the middle of it is sent no answer."""

    def __init__(self, receive: Receive, patience: float) -> None:
        self._receive = receive
        self._patience = patience
        self._complete = False
        self._stalled = False

    async def receive(self) -> Any:
        if self._complete:
            return await self._receive()
        message = await self._within_patience()
        if message["type"] == "http.disconnect":
            raise cancelled()
        self._complete = not message.get("more_body", False)
        return message

    async def _within_patience(self) -> Any:
        """What comes next. A timer of the loop costs a fifth of a timeout scope, and every request passes here."""
        reader = asyncio.current_task()
        assert reader is not None
        timer = asyncio.get_running_loop().call_later(self._patience, self._give_up, reader)
        try:
            return await self._receive()
        except asyncio.CancelledError as error:
            if not self._stalled:
                raise
            reader.uncancel()
            raise stalled(self._patience) from error
        finally:
            timer.cancel()

    def _give_up(self, reader: asyncio.Task[Any]) -> None:
        self._stalled = True
        reader.cancel()


def _header(scope: Any, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
