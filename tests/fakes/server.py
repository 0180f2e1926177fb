"""A real HTTP server that answers by a script and remembers what it was asked."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Self

import msgspec
from aiohttp import web
from msgspec import Struct


class Turn(Enum):
    """What may stand between the pieces of a body."""

    HANG = "says nothing more until the client is gone"
    CUT = "cuts the connection"
    WAIT = "waits until the test sets `Fake.go_on`"


class Whole(Struct):
    """A response in one piece."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = {}
    raw: bytes | None = None


class Stream(Struct):
    """A response in pieces, each flushed by itself."""

    pieces: Sequence[bytes | Turn]
    content_type: str = "text/event-stream"


class Asked(Struct):
    """A request as it was received."""

    path: str
    body: Any
    headers: dict[str, str]


Response = Whole | Stream | Turn


class Fake:
    """A server on a free port. The last response of a path's script is repeated."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.gone = asyncio.Event()
        """A client went away before it had the whole answer."""
        self.begun = asyncio.Event()
        """A request has come in."""
        self.go_on = asyncio.Event()
        self.connections: set[Any] = set()
        self._scripts: dict[str, deque[Response]] = defaultdict(deque)
        self.url = ""

    def script(self, path: str, *responses: Response) -> None:
        """What to answer to requests for `path`, one after the other."""
        self._scripts[path] = deque(responses)

    def bodies(self, path: str) -> list[Any]:
        """The bodies of all requests for `path`."""
        return [asked.body for asked in self.asked if asked.path == path]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.listen(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def listen(self, port: int) -> None:
        """Begins to serve."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = msgspec.json.decode(content) if content else None
        self.asked.append(Asked(request.path, body, dict(request.headers)))
        self.connections.add(request.transport)
        self.begun.set()
        script = self._scripts[request.path]
        if not script:
            return _whole(Whole({"error": f"no script for {request.path}"}, 500))
        response = script.popleft() if len(script) > 1 else script[0]
        try:
            return await self._respond(request, response)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    async def _respond(self, request: web.Request, response: Response) -> web.StreamResponse:
        if isinstance(response, Whole):
            return _whole(response)
        if isinstance(response, Turn):
            await self._turn(request, response)
            return await self._respond(request, self._scripts[request.path][0])
        stream = web.StreamResponse(headers={"Content-Type": response.content_type})
        await stream.prepare(request)
        for piece in response.pieces:
            if isinstance(piece, Turn):
                await self._turn(request, piece)
            else:
                await stream.write(piece)
        await stream.write_eof()
        return stream

    async def _turn(self, request: web.Request, turn: Turn) -> None:
        match turn:
            case Turn.HANG:
                await asyncio.Event().wait()
            case Turn.WAIT:
                await self.go_on.wait()
            case Turn.CUT:
                assert request.transport is not None
                await asyncio.sleep(0.01)
                request.transport.abort()
                raise ConnectionResetError


def _whole(response: Whole) -> web.Response:
    body = msgspec.json.encode(response.body) if response.raw is None else response.raw
    return web.Response(
        body=body, status=response.status, headers={"Content-Type": "application/json", **response.headers}
    )
