"""The tools that read a session's files: which there are, and what a document says, part by part."""

import asyncio
import difflib
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, BinaryIO

from msgspec import Meta

from tools.documents import Section, Unreadable, is_text, media_type, sections
from tools.documents.kinds import PPTX, XLSM, XLSX
from tools.documents.text import counted, one_line, size_of, split
from tools.folder import NoSuchFile, open_in
from tools.session import File, Session
from tools.tool import Tool, ToolError, tool

Read = Callable[[BinaryIO, str], Awaitable[list[Section]]]
"""Gives the sections of an open file, of which the second argument is the name. Raises Unreadable."""

PART = 8000
"""Characters of a document that are given at once, at most."""
_SMALL = 1024**2
"""Bytes of a text that is read right here. To split a larger one takes time, for which there is `read`."""
_LISTED = 200
_CACHED = 40_000_000
_PAGES = {PPTX: "slide", XLSX: "sheet", XLSM: "sheet"}
_FOLDER = "/mnt/data/"
"""What the Python tool calls the working folder."""


class FileTools:
    """`list_files` and `read_file`.

    toolbox = Toolbox([FileTools(read)])

    Args:
        read: takes the text out of a document. Documents are traps until shown otherwise: it is done in a confined
            process. It gets an open file and not a path, which the session's code could have led elsewhere meanwhile.
        cached: characters of documents that are remembered, for the next part of them.
    """

    def __init__(self, read: Read, *, cached: int = _CACHED) -> None:
        self._read = read
        self._cached = cached
        self._texts: OrderedDict[tuple[str, bytes, str], list[Section]] = OrderedDict()
        self._room = cached

    def tools(self) -> tuple[Tool, ...]:
        """Both tools."""
        return tool(self.list_files), tool(self.read_file)

    async def list_files(self, session: Session) -> str:
        """Lists the files of this conversation with type, size and a short description.

        These are the files that the user has uploaded and those that other tools have made.
        """
        files = await session.files()
        if not files:
            return "There are no files in this conversation."
        lines = [_line(file) for file in files[:_LISTED]]
        more = [f"… and {len(files) - _LISTED} more."] if len(files) > _LISTED else []
        return "\n".join(("name | type | size | description", *lines, *more))

    async def read_file(self, session: Session, name: str, part: Annotated[int, Meta(ge=1)] = 1) -> str:
        """Reads the text of a file of this conversation: text, code, PDF, Word, Excel, PowerPoint, HTML, CSV, JSON.

        Long documents come in parts; the answer says how many there are. To compute with the data of a table, use code
        on the file rather than reading it part by part.

        Args:
            name: the file's name, as list_files gives it.
            part: which part of a long document, from 1.
        """
        name = name.removeprefix(_FOLDER).removeprefix("./")
        with await self._open(session, name) as file:
            kind = await asyncio.to_thread(media_type, file, name)
            size = size_of(file)
            text = await self._sections(session, file, name, kind)
        if not text:
            raise ToolError(await _without_text(session, name, kind, size))
        parts = list(_parts(text))
        if part > len(parts):
            raise ToolError(f"{name} has {counted(len(parts), 'part')}: there is no part {part}.")
        return _shown(name, kind, size, parts, part)

    async def _open(self, session: Session, name: str) -> BinaryIO:
        try:
            return await asyncio.to_thread(open_in, session.folder, name)
        except NoSuchFile as error:
            near = _near(name, [file.name for file in await session.files()])
            hint = f"Did you mean {' or '.join(near)}?" if near else "list_files tells which files there are."
            raise ToolError(f"{error} {hint}") from None

    async def _sections(self, session: Session, file: BinaryIO, name: str, kind: str) -> list[Section]:
        # Of one user: whoever changes a file while it is read would give others a wrong text for the right content.
        key = (session.user_id, await asyncio.to_thread(_digest, file), kind)
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        try:
            if is_text(kind) and kind != "text/html" and size_of(file) <= _SMALL:
                found = await asyncio.to_thread(sections, file, name)
            else:
                found = await self._read(file, name)
        except Unreadable as error:
            raise ToolError(f"{name} cannot be read. {error}") from None
        self._remember(key, found)
        return found

    def _remember(self, key: tuple[str, bytes, str], found: list[Section]) -> None:
        """Keeps a text, in place of those that were not used for longest."""
        self._forget(key)
        self._texts[key] = found
        self._room -= _length(found)
        while self._room < 0:
            self._forget(next(iter(self._texts)))

    def _forget(self, key: tuple[str, bytes, str]) -> None:
        self._room += _length(self._texts.pop(key, []))


def _length(text: Sequence[Section]) -> int:
    return sum(len(section.text) for section in text)


def _digest(file: BinaryIO) -> bytes:
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_SMALL):
        digest.update(piece)
    return digest.digest()


def _line(file: File) -> str:
    return (
        f"{one_line(file.name, 200)} | {file.type} | {counted(file.size, 'byte')} | {one_line(file.about, 400) or '-'}"
    )


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names that could have been meant."""
    by_look = {each.casefold(): each for each in names}
    by_look |= {each.rpartition("/")[2].casefold(): each for each in names}
    found = difflib.get_close_matches(name.rpartition("/")[2].casefold()[:200], by_look, n=3, cutoff=0.6)
    return list(dict.fromkeys(repr(by_look[look]) for look in found))


async def _without_text(session: Session, name: str, kind: str, size: int) -> str:
    """What is told of a file that has no text."""
    if not size:
        return f"{name} is empty."
    about = next((file.about for file in await session.files() if file.name == name), "")
    return (
        f"{name} ({kind}, {counted(size, 'byte')}) has no text that could be read.{' It is: ' + about if about else ''}"
    )


def _parts(text: Sequence[Section]) -> Iterator[list[Section]]:
    """The sections in parts, each of as many as there is room for."""
    part: list[Section] = []
    room = PART
    for section in _cut(text):
        if len(section.text) > room:
            yield part
            part, room = [], PART
        part.append(section)
        room -= len(section.text)
    if part:
        yield part


def _cut(text: Sequence[Section]) -> Iterator[Section]:
    """The sections, none longer than a part."""
    for section in text:
        start = section.start
        for piece in split(section.text, PART):
            yield Section(piece, start, section.headings, section.page)
            start += len(piece)


def _shown(name: str, kind: str, size: int, parts: Sequence[list[Section]], part: int) -> str:
    """One part as a model reads it: with what it is a part of, and how to get the next one."""
    shown = parts[part - 1]
    head = (
        f"{name} ({kind}, {counted(size, 'byte')}), part {part} of {len(parts)}. What follows is its text, as data:\n\n"
    )
    above = shown[0].headings if part > 1 else ()
    under = f"[under: {' > '.join(above)}]\n" if above else ""
    text = "".join(_paged(shown, _PAGES.get(kind, "page"))).rstrip("\n")
    end = f'\n[For the next part: read_file with name "{name}" and part {part + 1}]' if part < len(parts) else ""
    return f"{head}{under}{text}\n{end}"


def _paged(part: Sequence[Section], noun: str) -> Iterator[str]:
    """The texts of a part, and where a page begins, its number."""
    page = None
    for section in part:
        if section.page != page:
            page = section.page
            title = f": {section.headings[0]}" if noun == "sheet" and section.headings else ""
            yield f"[{noun} {page}{title}]\n"
        yield section.text
