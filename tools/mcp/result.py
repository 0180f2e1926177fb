"""What an MCP server's call gave, as a tool's output: text, and pictures and other data as files."""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import msgspec
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from msgspec import Struct

from tools.folder import write_new
from tools.session import Session
from tools.tool import Output
from tools.toolbox import cut

MOST_FILES = 20
_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "audio/wav": ".wav",
    "audio/mpeg": ".mp3",
    "application/pdf": ".pdf",
    "application/json": ".json",
    "text/csv": ".csv",
}


class Data(Struct, frozen=True):
    """Something that is no text."""

    bytes: bytes
    media_type: str


async def output(result: CallToolResult, session: Session, name: str, longest: int | None) -> Output:
    """A result as an output; its data are put into the session's folder.

    Args:
        result: what the server answered.
        session: where to put files.
        name: what files are called, before their suffix.
        longest: characters of text; None: any number.
    """
    parts = list(_parts(result))
    files: list[str] = []
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
        elif len(files) < MOST_FILES:
            files.append(await asyncio.to_thread(_keep, session.folder, name, part))
        else:
            lines.append(f"({part.media_type}, {len(part.bytes)} bytes, is left out)")
    if not parts and result.structured_content is not None:
        lines.append(msgspec.json.encode(result.structured_content).decode())
    text = "\n".join(lines)
    if longest is not None:
        text = cut(text, longest)
    if result.is_error:
        return Output("", tuple(files), text or "The tool failed, and gave no reason.")
    return Output(text, tuple(files))


def _parts(result: CallToolResult) -> Iterator[str | Data]:
    for block in result.content:
        match block:
            case TextContent():
                yield block.text
            case ImageContent() | AudioContent():
                yield _data(block.data, block.mime_type)
            case ResourceLink():
                yield " ".join(filter(None, (block.title or block.name, block.uri, block.description)))
            case EmbeddedResource(resource=TextResourceContents() as resource):
                yield f"{resource.uri}:\n{resource.text}"
            case EmbeddedResource(resource=BlobResourceContents() as resource):
                yield _data(resource.blob, resource.mime_type or "")


def _data(encoded: str, media_type: str) -> str | Data:
    try:
        return Data(b64decode(encoded, validate=True), media_type[:100])
    except binascii.Error:
        return f"({media_type[:100]} that is not base64)"


def _keep(folder: Path, name: str, data: Data) -> str:
    return write_new(folder, name + _SUFFIXES.get(data.media_type, ".bin"), data.bytes)
