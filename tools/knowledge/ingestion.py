"""A document on its way into a collection: read, cut into chunks, embedded, and made visible all at once."""

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from models.backend import ModelError
from tools.documents import Section, Unreadable, is_text, media_type, sections
from tools.documents.text import one_line, size_of
from tools.knowledge.chunks import Chunk, divide
from tools.knowledge.embedding import Embedder
from tools.knowledge.search import embeddable
from tools.knowledge.store import CHUNK_BITS, Document, KnowledgeError, Space, Store, TooMuch

Read = Callable[[BinaryIO, str], Awaitable[list[Section]]]
"""The sections of an open file of a name. Raises Unreadable and nothing else of its own."""

LONGEST_TEXT = 2_000_000
"""Characters of a document that is given as text: it waits in memory. A longer one is to be a file."""

SHORT = 1024**2
"""Bytes of a text that is read right here."""


class Step(Struct, frozen=True):
    """How far a work has come."""

    text: str
    done: int | None = None
    total: int | None = None


class Cutting(Struct, frozen=True):
    """How documents are cut."""

    tokens: int = 400
    overlap: int = 60


async def read_text(file: BinaryIO, name: str) -> list[Section]:
    """A `Read` for texts alone, which can be read right here. Other documents need a confined process."""
    if not is_text(await asyncio.to_thread(media_type, file, name)):
        raise Unreadable("it is no text, and nothing is set up here that reads other files.")
    return await asyncio.to_thread(sections, file, name)


async def cut(source: BinaryIO | Path | str, name: str, read: Read, cutting: Cutting) -> list[Chunk]:
    """The chunks of a file or text.

    Raises:
        KnowledgeError: it cannot be read, holds no text, or too much.
    """
    try:
        with await asyncio.to_thread(_opened, source) as file:
            found = await _sections(file, name, read)
    except Unreadable as error:
        raise KnowledgeError(f"{name} cannot be read: {error}") from error
    except OSError as error:
        raise KnowledgeError(f"{name} cannot be read: {error.strerror}") from error
    chunks = await asyncio.to_thread(lambda: divide(found, size=cutting.tokens, overlap=cutting.overlap))
    if not chunks:
        raise KnowledgeError(f"{name} holds no text.")
    if len(chunks) > 1 << CHUNK_BITS:
        raise TooMuch(f"{name} is too long.")
    return chunks


async def _sections(file: BinaryIO, name: str, read: Read) -> list[Section]:
    """A short text is read right here, anything else by `read`. HTML is none: its parser is native code."""
    kind = await asyncio.to_thread(media_type, file, name)
    if is_text(kind) and kind != "text/html" and size_of(file) <= SHORT:
        return await asyncio.to_thread(sections, file, name)
    return await read(file, name)


def _opened(source: BinaryIO | Path | str) -> BinaryIO:
    if isinstance(source, str):
        return io.BytesIO(source.encode())
    return source.open("rb") if isinstance(source, Path) else source


async def embedded(texts: Sequence[str], embedder: Embedder) -> AsyncGenerator[tuple[Space, list[bytes]], None]:
    """The vectors of texts, batch by batch, all in one space.

    Raises:
        ModelError: the embedding model failed.
        KnowledgeError: it was changed meanwhile.
    """
    first: Space | None = None
    for start in range(0, len(texts), embedder.batch):
        space, vectors = await embedder.embed(texts[start : start + embedder.batch])
        first = first or space
        if space != first:
            raise KnowledgeError(f"The embedding model was changed from {first} to {space} meanwhile. Try again.")
        yield space, vectors


class Ingestion:
    """A document that is being taken in.

    Args:
        document: as the store has begun it.
        source: its file, or its text.
        store: where to.
        embedder: makes its vectors, where a model is set.
        read: gives its sections.
        cutting: how it is cut.
        turns: how many are taken in at once.
        most: characters that its owner may have in all.
        ended: called once, when it is over or was given up.
    """

    def __init__(
        self,
        document: Document,
        source: Path | str,
        *,
        store: Store,
        embedder: Embedder,
        read: Read,
        cutting: Cutting,
        turns: asyncio.Semaphore,
        most: int,
        ended: Callable[["Ingestion"], None],
    ) -> None:
        self.document = document
        """At the end as it is visible."""
        self._source: Path | str = source
        self._store = store
        self._embedder = embedder
        self._read = read
        self._cutting = cutting
        self._turns = turns
        self._most = most
        self._ended: Callable[[Ingestion], None] | None = ended

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Does it.

        Raises:
            KnowledgeError: it could not be done; the text says why.
            ModelError: the embedding model failed.
        """
        try:
            if self._turns.locked():
                yield Step("Waiting for other documents")
            async with self._turns:
                yield Step("Reading")
                chunks = await cut(self._source, self.document.name, self._read, self._cutting)
                space, vectors = None, list[bytes]()
                if await self._embedder.model() is not None:
                    yield Step("Embedding", 0, len(chunks))
                    texts = [embeddable(self.document.name, chunk.headings, chunk.text) for chunk in chunks]
                    async for space, some in embedded(texts, self._embedder):  # noqa: B007 - the last is that of all
                        vectors += some
                        yield Step("Embedding", len(vectors), len(chunks))
                yield Step("Storing", 0, len(chunks))
                self.document = await self._store.publish(self.document, chunks, vectors, space, self._most)
        except (KnowledgeError, ModelError) as error:
            await self._store.fail(self.document, one_line(str(error), 500))
            self.document = replace(self.document, status="failed")
            raise
        finally:
            self.end()

    def end(self) -> None:
        """Gives back what it holds. To be called where `steps` may never have begun; may be called again."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)
