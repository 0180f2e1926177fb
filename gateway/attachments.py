"""Files that come with a chat request: parts of a form, and content parts of type `file`."""

import asyncio
import hashlib
import os
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gateway.errors import bad_request, from_validation, too_large
from gateway.files import Files
from gateway.openai.request import ChatRequest, ContentPart, FileContent, MessageIn
from gateway.store.files import FileRecord
from gateway.store.sessions import SessionRecord
from gateway.uploads import Form, Upload
from models.messages import Image

SEEN = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Pictures that models take."""
LARGEST_PICTURE = 20 * 1024**2
"""Bytes of a picture that is shown to a model at once; OpenAI's own limit."""

PIECE = 4 * 2**18
"""Characters of base64 that are decoded at once."""


def body_of(form: Form) -> ChatRequest:
    """The request that a form makes: `messages` as JSON, other fields as JSON where they are such, else as text.

    Raises:
        ApiError: 400, a field is wrong.
    """
    fields: dict[str, object] = {name: _value(name, text) for name, text in form.fields.items() if text != ""}
    try:
        return msgspec.convert(fields, ChatRequest, strict=False)
    except msgspec.ValidationError as error:
        raise from_validation(error) from error


TEXTS = ("model", "agent_type", "session_id", "reasoning_effort", "keep_alive")
"""Fields that are text even where they look like something else."""


def _value(name: str, text: str) -> object:
    if name in TEXTS:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        if name == "messages":
            raise bad_request("Invalid value for 'messages': it must be JSON.", "messages") from None
        return text


def has_files(body: ChatRequest) -> bool:
    """Whether any message has a part of type `file`."""
    contents = [message.content for message in body.messages or () if isinstance(message.content, list)]
    return any(part.type == "file" for content in contents for part in content)


async def named(files: Files, session: SessionRecord, messages: Sequence[MessageIn]) -> list[MessageIn]:
    """Puts the files of messages into the session; gives the messages with their names instead.

    Raises:
        ApiError: 400, a part is wrong; 404, there is no such file; 413, a quota.
    """
    found = []
    for i, message in enumerate(messages):
        if isinstance(message.content, list):
            parts = [
                await _named(files, session, part, f"messages[{i}].content[{j}]") if part.type == "file" else part
                for j, part in enumerate(message.content)
            ]
            message = replace(message, content=parts)
        found.append(message)
    return found


async def _named(files: Files, session: SessionRecord, part: ContentPart, path: str) -> ContentPart:
    file = part.file or FileContent()
    if file.file_id:
        record = await files.attach(await files.get(file.file_id, session.user_id), session)
    else:
        record = await _added(files, session, file, path)
    return ContentPart("text", f"[File: {record.name}]")


async def _added(files: Files, session: SessionRecord, file: FileContent, path: str) -> FileRecord:
    """A file whose bytes stand in the request. Clients send them again with each turn; they are kept once."""
    data, digest = await asyncio.to_thread(_bytes_of, file.file_data or "", f"{path}.file.file_data")
    if len(data) > files.file_bytes:
        raise too_large("The file", files.file_bytes)
    if (found := await files.same(session, digest)) is not None:
        return found
    upload = await asyncio.to_thread(_written, files.folder, file.filename or "file", data, digest)
    try:
        return await files.add(upload, session)
    finally:
        upload.path.unlink(missing_ok=True)


def _bytes_of(text: str, path: str) -> tuple[bytes, str]:
    """The bytes of a data: URI in base64, or of base64 alone, and their SHA-256."""
    head, comma, data = text.partition(",") if text.startswith("data:") else ("data:;base64", ",", text)
    try:
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError
        # In pieces: the interpreter stands still while one is decoded.
        found = b"".join(b64decode(data[i : i + PIECE], validate=True) for i in range(0, len(data), PIECE))
    except ValueError:
        raise bad_request(f"Invalid value for '{path}': it is not valid base64.", path) from None
    return found, hashlib.sha256(found).hexdigest()


def _written(folder: Path, filename: str, data: bytes, digest: str) -> Upload:
    descriptor, name = tempfile.mkstemp(prefix="tmp-", dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return Upload("file", filename, Path(name), len(data), digest)


async def pictures(files: Files, records: Sequence[FileRecord]) -> tuple[Image, ...]:
    """Those of some files that a model can look at."""
    seen = [record for record in records if record.type in SEEN and record.bytes <= LARGEST_PICTURE]
    return tuple([await asyncio.to_thread(_image, files.path(record.id), record.type) for record in seen])


def _image(path: Path, kind: str) -> Image:
    return Image(b64encode(path.read_bytes()).decode(), kind)
