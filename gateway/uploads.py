"""Uploads: a multipart body, streamed to disk while it comes, each file hashed and held to a limit."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from litestar import Request
from msgspec import Struct
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from gateway.errors import bad_request, too_large

BLOCK = 1 << 20
"""Bytes that are written and hashed at once, off the event loop."""
MOST_PARTS = 1000
FIELDS = 32 * 1024**2
"""Bytes of all that is not a file, which is kept in memory: `messages` may hold pictures."""


class Upload(Struct, frozen=True):
    """A file that has come, under a name that nobody has checked."""

    field: str
    filename: str
    path: Path
    """Where it lies until it is taken from there."""
    size: int
    sha256: str


class Form(Struct, frozen=True):
    """A multipart body."""

    fields: dict[str, str]
    """The last value of each."""
    files: list[Upload]


def is_multipart(request: Request[Any, Any, Any]) -> bool:
    """Whether a request's body is a form with files."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


@asynccontextmanager
async def received(
    request: Request[Any, Any, Any], folder: Path, *, file_bytes: int, total_bytes: int
) -> AsyncIterator[Form]:
    """The form that a request brings. Files that nobody took are deleted at the end of the block.

    Args:
        request: its body must not have been read.
        folder: where files are put meanwhile; exists.
        file_bytes: the largest file.
        total_bytes: the largest body.

    Raises:
        ApiError: 400, it is not a form, or broken; 413, it is too large.
        OSError: the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise bad_request("The body must be multipart/form-data with a boundary.", "content-type")
    if int(request.headers.get("content-length") or 0) > total_bytes:
        raise too_large("The request", total_bytes)
    reader = _Reader(folder, file_bytes)
    try:
        with PushMultipartParser(
            boundary, max_segment_count=MOST_PARTS, max_segment_size=max(file_bytes, FIELDS) + 1
        ) as parser:
            taken = 0
            async for chunk in request.stream():
                taken += len(chunk)
                if taken > total_bytes:
                    raise too_large("The request", total_bytes)
                for item in parser.parse(chunk):
                    await reader.take(item)
            for item in parser.parse(b""):
                await reader.take(item)
        yield Form(reader.fields, reader.files)
    except ParserLimitReached as error:
        raise bad_request(f"The form is too large: {error}.", None, "invalid_form") from error
    except MultipartError as error:
        raise bad_request(f"The form cannot be read: {error}.", None, "invalid_form") from error
    finally:
        await asyncio.to_thread(reader.discard)


class _Reader:
    """Puts the parts of a form together."""

    def __init__(self, folder: Path, file_bytes: int) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[Upload] = []
        self._folder = folder
        self._file_bytes = file_bytes
        self._segment: MultipartSegment | None = None
        self._file: _Writer | None = None
        self._buffer = bytearray()
        self._room = FIELDS

    async def take(self, item: MultipartSegment | bytes | bytearray | None) -> None:
        """One item of the parser: a part begins, a piece of it, or (None) its end."""
        if isinstance(item, MultipartSegment):
            self._segment = item
            self._buffer.clear()
            self._file = await asyncio.to_thread(_Writer, self._folder) if item.filename is not None else None
        elif item:
            await self._add(item)
        elif item is None and self._segment is not None:
            await self._end(self._segment)
            self._segment = None

    async def _add(self, data: bytes | bytearray) -> None:
        self._buffer += data
        if self._file is None:
            self._room -= len(data)
            if self._room < 0:
                raise too_large("What the form holds besides its files", FIELDS)
            return
        if self._file.size + len(self._buffer) > self._file_bytes:
            raise too_large("The file", self._file_bytes)
        if len(self._buffer) >= BLOCK:
            await self._write(self._file)

    async def _end(self, segment: MultipartSegment) -> None:
        if self._file is None:
            try:
                self.fields[segment.name] = self._buffer.decode()
            except UnicodeDecodeError:
                raise bad_request(
                    f"The field '{segment.name[:40]}' is not UTF-8.", segment.name[:40], "invalid_form"
                ) from None
            return
        await self._write(self._file)
        file = self._file
        digest = await asyncio.to_thread(file.close)
        self._file = None
        self.files.append(Upload(segment.name, segment.filename or "", file.path, file.size, digest))

    async def _write(self, file: "_Writer") -> None:
        data, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(file.write, data)

    def discard(self) -> None:
        """Deletes what nobody took."""
        if self._file is not None:
            self._file.discard()
        for file in self.files:
            file.path.unlink(missing_ok=True)


class _Writer:
    """A file being written and hashed. Its methods block."""

    def __init__(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(prefix="tmp-", dir=folder)
        self.path = Path(name)
        self.size = 0
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        self._hash = hashlib.sha256()

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()

    def close(self) -> str:
        """Brings it to the disk, and gives its SHA-256."""
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()
