"""/api/sessions: conversations that the server keeps, each with its files. A session belongs to whoever began it."""

from typing import Annotated, Any, Literal

from litestar import Request, delete, get
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from gateway.errors import cancelled
from gateway.parts import Parts, parts_of
from gateway.routes.files import FileOut, file_out
from gateway.store.sessions import SessionRecord
from models.messages import Message


class SessionOut(Struct, frozen=True):
    """A session: when it was used, and what it holds."""

    id: str
    object: Literal["session"]
    created_at: float
    used_at: float
    expires_at: float | None
    messages: int
    files: int
    bytes: int


class SessionList(Struct, frozen=True):
    """A page of sessions, the last used first; the next begins `after` the last id."""

    object: Literal["list"]
    data: list[SessionOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Said(Struct, frozen=True):
    """A message of a conversation. Pictures are counted, not repeated."""

    role: str
    content: str
    pictures: int = 0


class SessionDetail(SessionOut, frozen=True, kw_only=True):
    """A session with its conversation and its files."""

    conversation: list[Said]
    file_list: list[FileOut]


class SessionDeleted(Struct, frozen=True):
    """A session is gone."""

    id: str
    object: Literal["session"]
    deleted: bool


@get(["/api/sessions", "/api/conversations"], opt={"scope": "sessions"}, operation_id="listSessions")
async def list_sessions(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    after: Annotated[str | None, QueryParameter()] = None,
) -> SessionList:
    """Lists the caller's sessions."""
    parts, user_id = parts_of(request), request.user.user_id
    before = await parts.sessions.get(after, user_id) if after else None
    records = await parts.sessions.page(user_id, limit=limit + 1, before=before)
    page = [SessionOut(**await _fields(parts, record)) for record in records[:limit]]
    return SessionList("list", page, len(records) > limit, page[0].id if page else None, page[-1].id if page else None)


@get("/api/sessions/{session_id:str}", opt={"scope": "sessions"}, operation_id="retrieveSession")
async def retrieve_session(request: Request[Any, Any, Any], session_id: FromPath[str]) -> SessionDetail:
    """Describes a session, with what was said and its files."""
    parts = parts_of(request)
    record = await parts.sessions.get(session_id, request.user.user_id)
    conversation = [_said(message) for message in await parts.sessions.conversation(record)]
    files = [file_out(file) for file in await parts.files.of_session(record.id)]
    return SessionDetail(**await _fields(parts, record), conversation=conversation, file_list=files)


@delete("/api/sessions/{session_id:str}", status_code=200, opt={"scope": "sessions"}, operation_id="deleteSession")
async def delete_session(request: Request[Any, Any, Any], session_id: FromPath[str]) -> SessionDeleted:
    """Deletes a session with its conversation, files, variables, and what its runs said. Runs under way are stopped."""
    parts = parts_of(request)
    record = await parts.sessions.get(session_id, request.user.user_id)
    for run in parts.runs.of_session(record.id):
        run.stop(cancelled())
        await run.over()
    await parts.recorder.flush()
    await parts.sessions.delete(record)
    return SessionDeleted(record.id, "session", True)


async def _fields(parts: Parts, record: SessionRecord) -> dict[str, Any]:
    sizes = await parts.sessions.sizes(record)
    days = parts.settings.session_retention_days
    return {
        "id": record.id,
        "object": "session",
        "created_at": record.created_at,
        "used_at": record.used_at,
        "expires_at": record.used_at + days * 86400 if days else None,
        "messages": sizes.messages,
        "files": sizes.files,
        "bytes": sizes.message_bytes + sizes.file_bytes,
    }


def _said(message: Message) -> Said:
    return Said(message.role, message.text, len(message.images))


HANDLERS = (list_sessions, retrieve_session, delete_session)
