"""/api/tools: which tools there are, calling one by hand, and how often they were called."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Struct, field

from gateway.errors import bad_request, decode, not_found
from gateway.parts import parts_of
from gateway.presence import unless_gone
from gateway.responses import JsonResponse
from tools.toolbox import Result


class ToolDescription(Struct, frozen=True):
    """A tool, and whether it can be used now."""

    name: str
    object: Literal["tool"]
    description: str
    parameters: dict[str, Any]
    available: bool
    reason: str | None
    """Why it cannot be used."""


class ToolList(Struct, frozen=True):
    """All tools."""

    object: Literal["list"]
    data: list[ToolDescription]


class ToolArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/tools/{name}."""

    arguments: dict[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    """The session in whose workspace it works; absent: a new one."""


class MadeFile(Struct, frozen=True):
    """A file that a tool made or changed."""

    id: str
    name: str
    type: str
    bytes: int
    about: str
    url: str


class ToolResult(Struct, frozen=True):
    """How a call ended."""

    output: str
    files: list[MadeFile]
    error: str | None
    """Why it failed, in words for a model; null where it did not."""
    seconds: float
    x_session_id: str


class ToolUse(Struct, frozen=True):
    """How often a user's conversations have called a tool."""

    user_id: str
    tool: str
    calls: int
    failures: int
    seconds: float
    last_used_at: float


class ToolUses(Struct, frozen=True):
    """The use of tools, by user and tool."""

    object: Literal["list"]
    data: list[ToolUse]


_call = msgspec.json.Decoder(ToolArguments)


@get("/api/tools", opt={"scope": "tools"}, operation_id="listTools")
async def list_tools(request: Request[Any, Any, Any]) -> ToolList:
    """Lists the tools that agents may use, with the schemas of their arguments."""
    tools = parts_of(request).toolbox.tools().values()
    return ToolList(
        "list",
        [
            ToolDescription(each.name, "tool", each.description, each.parameters, reason is None, reason)
            for each in tools
            for reason in (each.unavailable(),)
        ],
    )


@post("/api/tools/{name:str}", status_code=200, opt={"scope": "tools"}, operation_id="callTool")
async def call_tool(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[Any]:
    """Calls a tool. What goes wrong in it is told in `error`; leaving stops it."""
    parts = parts_of(request)
    body = decode(_call, await request.body())
    if (chosen := parts.toolbox.find(name)) is None:
        raise not_found(f"There is no tool '{name[:64]}'.", "tool_not_found", "name")
    if (reason := chosen.unavailable()) is not None:
        raise bad_request(f"The tool '{name}' is not available: {reason}", "name", "tool_unavailable")
    headers = await parts.limits.enter(request.user.caller)
    try:
        named = body.session_id or request.headers.get("x-session-id")
        session = await parts.sessions.enter(named, request.user.user_id)
        work = asyncio.create_task(parts.toolbox.run(name, body.arguments, parts.sessions.workspace(session)))
        result = await unless_gone(request, work)
    finally:
        parts.limits.leave(request.user.caller, 0)
    return JsonResponse(_out(result, session.id), {**headers, "x-session-id": session.id})


@get("/api/tools/usage", opt={"scope": "tools"}, operation_id="listToolUses")
async def list_uses(
    request: Request[Any, Any, Any], all_users: Annotated[bool, QueryParameter(name="all")] = False
) -> ToolUses:
    """Counts the caller's calls by tool; with `all`, for admins, those of all users."""
    parts = parts_of(request)
    await parts.recorder.flush()
    everybody = all_users and request.user.role == "admin"
    records = await parts.run_store.uses(None if everybody else request.user.user_id)
    return ToolUses("list", [ToolUse(**msgspec.structs.asdict(record)) for record in records])


@get("/api/tools/python/status", opt={"scope": "tools"}, operation_id="pythonStatus")
async def python_status(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Tells how the Python tool is confined, what it may use, and how many sessions have variables now."""
    return parts_of(request).toolset.sandbox.status()


def _out(result: Result, session_id: str) -> ToolResult:
    files = [MadeFile(file.id, file.name, file.type, file.size, file.about, file.link) for file in result.files]
    return ToolResult(result.output, files, result.error, round(result.seconds, 6), session_id)


HANDLERS = (list_tools, call_tool, list_uses, python_status)
