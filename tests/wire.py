"""Responses checked for what holds for all of them, the server's doors listed, and requests sent byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from litestar.routes import HTTPRoute
from msgspec import Struct

from gateway.app import Server
from tests.live import Live

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}

UNPARSABLE = {
    "error": {
        "message": "We could not parse the JSON body of your request.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
}

TELLING = ("www-authenticate", "retry-after", "retry-after-ms", "x-should-retry", "allow", "connection")
"""Headers that make a difference to what a client does about an error."""

SECURITY = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}

Failure = tuple[int, Any, dict[str, str]]


def failure(response: httpx.Response) -> Failure:
    """The status, body and telling headers of an error, which has all that every error must have."""
    check_headers(response)
    assert 400 <= response.status_code < 600, response.text[:200]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    check_envelope(body)
    return response.status_code, body, {name: response.headers[name] for name in TELLING if name in response.headers}


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a response that must have this status."""
    found, body, _ = failure(response)
    assert found == status, body
    error: dict[str, Any] = body["error"]
    return error


def check_headers(response: httpx.Response) -> None:
    """Every response has an id, and forbids browsers to guess."""
    assert response.headers["x-request-id"].startswith("req_")
    assert {name: response.headers.get(name) for name in SECURITY} == SECURITY


def check_envelope(body: Any) -> None:
    """OpenAI's error object, all four keys and no other."""
    assert isinstance(body, dict) and list(body) == ["error"], body
    error = body["error"]
    assert isinstance(error, dict) and list(error) == ["message", "type", "param", "code"], body
    assert isinstance(error["message"], str) and 0 < len(error["message"]) <= 2000
    assert isinstance(error["type"], str) and error["type"]
    assert error["param"] is None or (isinstance(error["param"], str) and error["param"])
    assert error["code"] is None or (isinstance(error["code"], str) and error["code"])


def frames(body: str) -> list[Any]:
    """The data of a stream, which must be nothing but data lines with an empty line after each."""
    assert body.endswith("\n\n")
    lines = body[:-2].split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [data if (data := line[6:]) == "[DONE]" else json.loads(data) for line in lines]


class Door(Struct, frozen=True, order=True):
    """A method on a route, its parameters filled in with something that does not exist."""

    method: str
    path: str
    public: bool
    scope: str | None


def doors_of(server: Server) -> list[Door]:
    """Every method of every route that the server has."""
    routes = [route for route in server._app.routes if isinstance(route, HTTPRoute)]
    return sorted(
        Door(method, _filled(route), bool(handler.opt.get("public")), handler.opt.get("scope"))
        for route in routes
        for method, (handler, *_) in route.route_handler_map.items()
        if method != "OPTIONS"
    )


def _filled(route: HTTPRoute) -> str:
    return "".join(f"/{part if isinstance(part, str) else 'nothing'}" for part in route.path_components) or "/"


class Answer(Struct, frozen=True):
    """A response, read from a socket."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection on which anything can be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Sends some bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, of known length."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, _ = head[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        length = 0 if method == "HEAD" or status == "100" else int(headers.get("content-length", 0))
        return Answer(int(status), headers, await self._reader.readexactly(length))

    async def closed(self) -> bool:
        """Waits until the server closes; whether it had nothing more to say."""
        try:
            return await self._reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def wire(live: Live) -> AsyncIterator[Wire]:
    """A connection to the server, given up after ten seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rsplit(":", 1)[1]))
    try:
        async with asyncio.timeout(10):
            yield Wire(reader, writer)
    finally:
        writer.close()


def head(line: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([line, "Host: drover", *headers, "", ""]).encode("latin-1")
