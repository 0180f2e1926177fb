"""/v1/files, as OpenAI has it, and /api/upload for many files at once. A file belongs to whoever uploaded it."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gateway.errors import bad_request, missing
from gateway.files import Files
from gateway.parts import Parts, parts_of
from gateway.responses import JsonResponse
from gateway.store.files import FileRecord
from gateway.uploads import Form, received

BLOCK = 256 * 1024
OVERHEAD = 1024 * 1024
"""Bytes that a form may have besides its file."""
MAX_PURPOSE = 64
EXPIRY = (3600, 2_592_000)
"""Least and most seconds until a file expires, as OpenAI has them."""


class FileOut(Struct, frozen=True):
    """A file, in OpenAI's form; what begins with `x_` is ours."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    x_session_id: str
    x_type: str
    x_about: str


class FileList(Struct, frozen=True):
    """A page of files."""

    object: Literal["list"]
    data: list[FileOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FileDeleted(Struct, frozen=True):
    """A file is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class Uploaded(Struct, frozen=True):
    """Files that came together, and the session that they are in."""

    object: Literal["list"]
    data: list[FileOut]
    x_session_id: str


@post("/v1/files", status_code=200, opt={"scope": "files"}, operation_id="createFile", request_max_body_size=None)
async def create_file(request: Request[Any, Any, Any]) -> Response[Any]:
    """Uploads a file: a form with `file`, `purpose`, and, to put it into a session, `session_id`."""
    parts = parts_of(request)
    limit = parts.files.file_bytes
    async with received(request, parts.files.folder, file_bytes=limit, total_bytes=limit + OVERHEAD) as form:
        if not form.files:
            raise missing("file")
        records = await _keep(request, parts, Form(form.fields, form.files[:1]))
    return JsonResponse(file_out(records[0]), {"x-session-id": records[0].session_id})


@post("/api/upload", status_code=200, opt={"scope": "files"}, operation_id="uploadFiles", request_max_body_size=None)
async def upload(request: Request[Any, Any, Any]) -> Response[Any]:
    """Uploads any number of files into a session: that of `session_id`, else a new one. All are kept, or none."""
    parts = parts_of(request)
    limits = {"file_bytes": parts.files.file_bytes, "total_bytes": parts.files.session_bytes + OVERHEAD}
    async with received(request, parts.files.folder, **limits) as form:
        if not form.files:
            raise missing("files")
        records = await _keep(request, parts, form)
    session_id = records[0].session_id
    return JsonResponse(
        Uploaded("list", [file_out(record) for record in records], session_id), {"x-session-id": session_id}
    )


async def _keep(request: Request[Any, Any, Any], parts: Parts, form: Form) -> list[FileRecord]:
    purpose = form.fields.get("purpose") or "user_data"
    if len(purpose) > MAX_PURPOSE:
        raise bad_request(f"Invalid value for 'purpose': it has more than {MAX_PURPOSE} characters.", "purpose")
    expires_at = _expiry(form)
    named = form.fields.get("session_id") or request.headers.get("x-session-id")
    session = await parts.sessions.enter(named, request.user.user_id)
    records: list[FileRecord] = []
    try:
        for file in form.files:
            # One by one: when one fails, those before it are known.
            records.append(  # noqa: PERF401
                await parts.files.add(file, session, purpose=purpose, expires_at=expires_at)
            )
    except BaseException:
        for record in records:
            await parts.files.delete(record)
        raise
    return records


def _expiry(form: Form) -> float | None:
    """When a file is to be deleted, by OpenAI's `expires_after[anchor]` and `expires_after[seconds]`."""
    seconds = form.fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    least, most = EXPIRY
    if not re.fullmatch(r"[0-9]{1,10}", seconds) or not least <= int(seconds) <= most:
        raise bad_request(
            f"Invalid value for 'expires_after[seconds]': it must be between {least} and {most}.", "expires_after"
        )
    return time.time() + int(seconds)


@get("/v1/files", opt={"scope": "files"}, operation_id="listFiles")
async def list_files(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
    after: Annotated[str | None, QueryParameter()] = None,
    purpose: Annotated[str | None, QueryParameter()] = None,
    order: Annotated[Literal["asc", "desc"], QueryParameter()] = "desc",
) -> FileList:
    """Lists the caller's files."""
    parts, user_id = parts_of(request), request.user.user_id
    last = await parts.files.get(after, user_id) if after else None
    records = await parts.files.page(user_id, limit=limit + 1, after=last, purpose=purpose, oldest_first=order == "asc")
    page = [file_out(record) for record in records[:limit]]
    return FileList("list", page, len(records) > limit, page[0].id if page else None, page[-1].id if page else None)


@get("/v1/files/{file_id:str}", opt={"scope": "files"}, operation_id="retrieveFile")
async def retrieve_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> FileOut:
    """Describes a file."""
    return file_out(await parts_of(request).files.get(file_id, request.user.user_id))


@delete("/v1/files/{file_id:str}", status_code=200, opt={"scope": "files"}, operation_id="deleteFile")
async def delete_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> FileDeleted:
    """Deletes a file. The copy in its session's working folder goes too, unless a tool has changed it."""
    files = parts_of(request).files
    record = await files.get(file_id, request.user.user_id)
    await files.delete(record)
    return FileDeleted(record.id, "file", True)


@get(
    "/v1/files/{file_id:str}/content",
    opt={"scope": "files"},
    operation_id="downloadFile",
    media_type="application/octet-stream",
)
async def download_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> Stream:
    """Gives a file's bytes, as they were uploaded or made."""
    files = parts_of(request).files
    record = await files.get(file_id, request.user.user_id)
    headers = {
        "content-type": record.type,
        "content-length": str(record.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(Path(record.name).name, safe='')}",
        "etag": f'"{record.sha256}"',
        # What models write may be a page with scripts.
        "content-security-policy": "sandbox; default-src 'none'",
    }
    blocks = _blocks(files, record)
    await anext(blocks)  # a file that cannot be opened must be told of before the head is sent
    return Stream(blocks, headers=headers)


async def _blocks(files: Files, record: FileRecord) -> AsyncGenerator[bytes, None]:
    """Nothing when the file is open, then its bytes."""
    with await files.open(record) as file:
        yield b""
        while block := await asyncio.to_thread(file.read, BLOCK):
            yield block


def file_out(record: FileRecord) -> FileOut:
    """A file as clients see it."""
    return FileOut(
        record.id,
        "file",
        record.bytes,
        int(record.created_at),
        int(record.expires_at) if record.expires_at else None,
        record.name,
        record.purpose,
        "processed",
        record.session_id,
        record.type,
        record.about,
    )


HANDLERS = (create_file, upload, list_files, retrieve_file, delete_file, download_file)
