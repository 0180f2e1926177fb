"""The files of sessions, searchable without any ceremony: a collection in memory for each session, as its folder is."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO

from msgspec import Struct

from models.backend import ModelError
from tools.folder import open_in
from tools.knowledge.chunks import Chunk
from tools.knowledge.embedding import Embedder
from tools.knowledge.index import Index
from tools.knowledge.ingestion import Cutting, Read, cut, embedded
from tools.knowledge.memory import MemoryStore
from tools.knowledge.search import Source, embeddable
from tools.knowledge.store import Collection, Document, KnowledgeError, Space
from tools.session import File, Session
from tools.tool import ToolError

MOST_SESSIONS = 16
"""Sessions whose files are held ready; the least recently used goes."""
MOST_FILES = 200
"""Files of a session that are searched."""
MOST_BYTES = 50_000_000
"""Size of a file that is searched."""
MOST_CHARACTERS = 5_000_000
"""Text of a session that is searched; what comes after is left out."""
MOST_EMBEDDED = 512
"""Chunks of a file that are embedded while somebody waits; a longer file is searched by words alone."""


class Known(Struct, frozen=True):
    """A file as it was when it was last read."""

    digest: str
    characters: int = 0
    document: Document | None = None
    """None: nothing of it can be searched."""


class SessionFiles:
    """What is searched of sessions.

    Args:
        read: gives the sections of a file.
        embedder: makes vectors, where a model is set.
        cutting: how files are cut.
    """

    def __init__(self, read: Read, embedder: Embedder, cutting: Cutting) -> None:
        self._read = read
        self._embedder = embedder
        self._cutting = cutting
        self._sessions: dict[str, Desk] = {}

    @asynccontextmanager
    async def use(self, session: Session) -> AsyncIterator[tuple[Source, list[str]]]:
        """A session's files to be searched, as they are now, and what is to be said of them."""
        desk = self._sessions.pop(session.id, None) or Desk(session, self._read, self._embedder, self._cutting)
        self._sessions[session.id] = desk
        while len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        async with desk.lock:
            notes = await desk.refresh(session)
            yield Source(desk.collection, desk.store, desk.index), notes

    def forget(self, session_id: str) -> None:
        """Lets go of a session."""
        self._sessions.pop(session_id, None)


class Desk:
    """The files of one session: a collection of its own in memory."""

    def __init__(self, session: Session, read: Read, embedder: Embedder, cutting: Cutting) -> None:
        self.lock = asyncio.Lock()
        self.store = MemoryStore()
        self.collection = Collection("files", session.user_id, "", "", 0.0)
        self.index = Index(self.collection.id, self.store, None)
        self._read = read
        self._embedder = embedder
        self._cutting = cutting
        self._files: dict[str, Known] = {}
        self._begun = False

    async def refresh(self, session: Session) -> list[str]:
        """Reads what is new or changed, and forgets what is gone."""
        if not self._begun:
            await self.store.add(self.collection, 1)
            self._begun = True
        files = await session.files()
        searched = [file for file in files[:MOST_FILES] if file.size <= MOST_BYTES]
        names = {file.name for file in searched}
        for name in [name for name in self._files if name not in names]:
            await self._forget(name)
        for file in sorted(searched, key=lambda file: file.size):
            await self._look_at(session, file)
        if (contents := await self.store.contents(self.collection.id)) is not None:
            await self.index.reach(contents.generation)
        left_out = len(files) - len(searched)
        return (
            [f"{left_out} files of the session were not searched: they are too large or too many."] if left_out else []
        )

    async def _look_at(self, session: Session, file: File) -> None:
        """Takes in a file, unless it is known as it is."""
        try:
            opened = await asyncio.to_thread(open_in, session.folder, file.name)
        except ToolError:
            return await self._forget(file.name)
        with opened:
            digest = await asyncio.to_thread(_digest, opened)
            if (known := self._files.get(file.name)) is None or known.digest != digest:
                await self._forget(file.name)
                self._files[file.name] = await self._taken(opened, file.name, digest)
        return None

    async def _taken(self, file: BinaryIO, name: str, digest: str) -> Known:
        file.seek(0)
        try:
            chunks = await cut(file, name, self._read, self._cutting)
        except KnowledgeError:
            return Known(digest)  # a picture, say: there is nothing to be searched
        characters = sum(chunk.end - chunk.start for chunk in chunks)
        if characters + sum(known.characters for known in self._files.values()) > MOST_CHARACTERS:
            return Known(digest)
        document = Document(name, self.collection.id, name, digest, 0.0, 0.0)
        await self.store.begin(document, MOST_FILES)
        space, vectors = await self._vectors(name, chunks)
        done = await self.store.publish(document, chunks, vectors, space, MOST_CHARACTERS)
        return Known(digest, characters, done)

    async def _vectors(self, name: str, chunks: Sequence[Chunk]) -> tuple[Space | None, list[bytes]]:
        """The vectors of chunks, where they are few and a model makes them."""
        if len(chunks) > MOST_EMBEDDED:
            return None, []
        space, vectors = None, list[bytes]()
        try:
            if await self._embedder.model() is None:
                return None, []
            texts = [embeddable(name, chunk.headings, chunk.text) for chunk in chunks]
            async for space, some in embedded(texts, self._embedder):  # noqa: B007 - the last is that of all
                vectors += some
        except (ModelError, KnowledgeError):
            return None, []  # the search itself will say what is wrong with the model
        return space, vectors

    async def _forget(self, name: str) -> None:
        known = self._files.pop(name, None)
        if known is not None and known.document is not None:
            await self.store.remove(known.document)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
