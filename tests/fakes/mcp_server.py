"""MCP servers, good and bad: `python -m tests.fakes.mcp_server MODE` on standard streams, and `over_http`."""

import asyncio
import base64
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

PICTURE = b"\x89PNG\r\n\x1a\nnot really"
ANYTHING: dict[str, Any] = {"type": "object"}
ECHO: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What to say.", "pattern": "^(a+)+$"},
        "times": {"type": "integer", "minimum": 1},
    },
    "required": ["text"],
    "additionalProperties": False,
}
TOOLS = {
    "good": {
        "echo": ECHO,
        **dict.fromkeys(("fail", "refuse", "mixed", "structured", "environment", "hang"), ANYTHING),
        **dict.fromkeys(("die", "large", "flood", "grow", "broken", "child"), ANYTHING),
    },
    "many": {f"tool{n}": ANYTHING for n in range(500)},
    "odd": {
        "read file!": ANYTHING,
        "read_file?": ANYTHING,
        "ünïcode": ANYTHING,
        "x" * 200: ANYTHING,
        "remote": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/schema"}}},
        "wrong": {"type": "object", "properties": {"a": {"type": "strange"}}},
        "long": {"type": "object", "description": "x" * 40_000},
        "loop": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
    },
}

Context = ServerRequestContext[Any]


class Fake:
    """A server of one mode."""

    def __init__(self, mode: str) -> None:
        self.tools = dict(TOOLS[mode])
        self.cancelled = asyncio.Event()
        """A call was given up by its caller."""
        self.server: Server[Any] = Server("fake", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, _: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        begin = int(params.cursor) if params and params.cursor else 0
        tools = [
            types.Tool(name=name, description=f"Does\x1b {name}.", input_schema=schema)
            for name, schema in list(self.tools.items())[begin : begin + 100]
        ]
        return types.ListToolsResult(
            tools=tools, next_cursor=str(begin + 100) if begin + 100 < len(self.tools) else None
        )

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        match params.name:
            case "echo":
                return _said(" ".join([arguments["text"]] * arguments.get("times", 1)))
            case "fail":
                return types.CallToolResult(content=[types.TextContent(text="It did not work.")], is_error=True)
            case "refuse":
                raise ValueError
            case "mixed":
                return _mixed()
            case "structured":
                return types.CallToolResult(content=[], structured_content={"answer": [42]})
            case "environment":
                return _said(" ".join(sorted(os.environ)))
            case "hang":
                await self._hang()
            case "die":
                os._exit(3)
            case "large":
                return _said("x" * arguments["size"])
            case "flood":
                _print(b'{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}\n' * 20_000)
            case "grow":
                self.tools["grown"] = ANYTHING
                await context.session.send_tool_list_changed()
            case "broken":
                _print(b"I am no message\n{}\n")
            case "child":
                # Outlives its parent, if nobody ends it.
                child = await asyncio.create_subprocess_exec("sleep", "600", stdin=asyncio.subprocess.DEVNULL)
                return _said(str(child.pid))
        return _said(f"{params.name} is done")

    async def _hang(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()


_wire = os.dup(1)


def _print(data: bytes) -> None:
    """Writes to where our messages go, which the SDK keeps from others."""
    with os.fdopen(_wire, "wb", closefd=False) as wire:
        wire.write(data)


def _said(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)])


def _mixed() -> types.CallToolResult:
    encoded = base64.b64encode(PICTURE).decode()
    return types.CallToolResult(
        content=[
            types.TextContent(text="Look:"),
            types.ImageContent(data=encoded, mime_type="image/png"),
            types.ImageContent(data="?", mime_type="image/png"),
            types.ResourceLink(name="page", uri="https://example.org/", description="A page."),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="note:1", text="A note.")),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="blob:1", blob=encoded)),
        ],
        structured_content={"ignored": "where there is content"},
    )


@asynccontextmanager
async def over_http(fake: Fake, port: int = 0, *, json_response: bool = False) -> AsyncIterator[int]:
    """Serves on a socket; gives its port."""
    app = fake.server.streamable_http_app(json_response=json_response)
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


async def _over_stdio(mode: str) -> None:
    server = Fake(mode).server
    async with stdio_server() as (read, write):
        await server.run(
            read,
            write,
            server.create_initialization_options(),
        )


if __name__ == "__main__":
    asyncio.run(_over_stdio(sys.argv[1]))
