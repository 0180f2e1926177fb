"""Knowledge: each user's collections of documents, filled, searched and kept in order."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from msgspec.structs import replace

from tools.documents.text import one_line
from tools.knowledge.embedding import Embedder, Find, no_model
from tools.knowledge.files import SessionFiles
from tools.knowledge.index import Shelf
from tools.knowledge.ingestion import LONGEST_TEXT, Cutting, Ingestion, Read, Step, read_text
from tools.knowledge.memory import MemoryStore
from tools.knowledge.rerank import Reranker
from tools.knowledge.search import Found, Source, embeddable, search
from tools.knowledge.store import (
    BadName,
    CannotEmbed,
    Collection,
    Document,
    KnowledgeError,
    NotFound,
    Sizes,
    Store,
    TooMuch,
)
from tools.session import Session

logger = logging.getLogger(__name__)

MOST_COLLECTIONS = 1000
"""Collections of a user."""
MOST_DOCUMENTS = 100_000
"""Documents of a collection."""
MOST_SEARCHED = 50
"""Collections that are searched at once where none is named: the newest."""
LONGEST_NAME = 200
"""Characters of a collection's or document's name."""
LONGEST_QUERY = 4000
"""Characters of a query that count."""


class Crowded(KnowledgeError):
    """A user has too many documents on the way at once."""


class Knowledge:
    """All collections.

    knowledge = Knowledge()
    notes = await knowledge.create("me", "notes")
    await knowledge.take(await knowledge.add(notes, "moon.txt", "The moon is not made of cheese."))
    found = await knowledge.search([notes], "What is the moon made of?", 3)

    Args:
        store: what all is kept in; None: memory.
        folder: where indexes lie; None: in memory.
        read: gives the sections of a file; by itself, those of text.
        embedding: finds the embedding model; by itself there is none, and search is by words alone.
        ranking: finds the chat model that puts what is found into a better order; None: nothing does.
        cutting: how documents are cut.
        user_characters: text that a user's documents may hold together.
        at_once: documents that are taken in at once; others wait.
        waiting: documents of one user that may be on the way.
    """

    def __init__(
        self,
        store: Store | None = None,
        folder: Path | None = None,
        *,
        read: Read = read_text,
        embedding: Find = no_model,
        ranking: Find | None = None,
        cutting: Cutting = Cutting(),  # noqa: B008 - frozen
        user_characters: int = 1 << 30,
        at_once: int = 2,
        waiting: int = 20,
    ) -> None:
        self._store: Store = store or MemoryStore()
        self._shelf = Shelf(self._store, folder)
        self._embedder = Embedder(embedding)
        self._reranker = Reranker(ranking) if ranking else None
        self._files = SessionFiles(read, self._embedder, cutting)
        self._read = read
        self._cutting = cutting
        self._user_characters = user_characters
        self._turns = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._on_the_way: Counter[str] = Counter()
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self, patience: float = 0.0) -> None:
        """Puts in order what a server that died has left.

        Args:
            patience: seconds that an ingestion may have been under way and still be somebody else's who lives.
        """
        if interrupted := await self._store.interrupt(time.time() - patience):
            logger.warning("%d documents were being read when the server stopped", interrupted)
        await self._shelf.sweep()

    async def close(self) -> None:
        """Writes what is not yet on disk."""
        if self._endings:
            await asyncio.wait(self._endings)
        await self._shelf.close()

    async def create(self, user_id: str, name: str, description: str = "") -> Collection:
        """A new collection.

        Raises:
            BadName, NameTaken, TooMuch: the name is none, the user has one of that name, or too many.
        """
        collection = Collection(
            f"kn_{secrets.token_urlsafe(18)}", user_id, _named(name), one_line(description, 2000), time.time()
        )
        await self._store.add(collection, MOST_COLLECTIONS)
        return collection

    async def get(self, collection_id: str, user_id: str) -> Collection:
        """A user's collection.

        Raises:
            NotFound: there is none, or it is someone else's.
        """
        if (found := await self._store.get(collection_id, user_id)) is None:
            raise NotFound(f"No collection found with id {one_line(collection_id, 64)!r}.")
        return found

    async def called(self, name: str, user_id: str) -> Collection:
        """A user's collection by its id or name.

        Raises:
            NotFound: there is none.
        """
        found = await self._store.get(name, user_id) or await self._store.named(name, user_id)
        if found is None:
            raise NotFound(f"There is no collection {one_line(name, 64)!r}.")
        return found

    async def page(self, user_id: str, *, limit: int, before: Collection | None = None) -> list[Collection]:
        """Some of a user's collections, the newest first."""
        return await self._store.page(user_id, limit=limit, before=before)

    async def sizes(self, collection: Collection) -> Sizes:
        """What a collection holds."""
        return await self._store.sizes(collection.id)

    async def delete(self, collection: Collection) -> None:
        """Deletes a collection, with its documents and indexes."""
        await self._store.delete(collection.id)
        await self._shelf.forget(collection.id)

    async def document(self, document_id: str, collection: Collection) -> Document:
        """A document of a collection.

        Raises:
            NotFound: there is none.
        """
        if (found := await self._store.document(document_id, collection.id)) is None:
            raise NotFound(f"No document found with id {one_line(document_id, 64)!r}.")
        return found

    async def documents(self, collection: Collection, *, limit: int, before: Document | None = None) -> list[Document]:
        """Some of a collection's documents, the newest first."""
        return await self._store.documents(collection.id, limit=limit, before=before)

    async def remove(self, document: Document) -> None:
        """Deletes a document. From now on nothing of it is found."""
        await self._store.remove(document)

    async def add(
        self, collection: Collection, name: str, source: Path | str, *, instead_of: Document | None = None
    ) -> Ingestion:
        """Begins to take in a document. What `instead_of` holds can be found until the new one is there.

        Args:
            collection: where to.
            name: the document's name; its ending helps to read it.
            source: a file that stays as it is meanwhile, or a text.
            instead_of: the document of this collection that it replaces.

        Raises:
            NotFound: the collection or document is gone.
            Crowded, TooMuch: the user has too many on the way, or too much in all.
        """
        if isinstance(source, str) and len(source) > LONGEST_TEXT:
            raise TooMuch(f"The text has more than {LONGEST_TEXT} characters. Upload it as a file.")
        if self._on_the_way[collection.user_id] >= self._waiting:
            raise Crowded(f"You have {self._waiting} documents on the way. Wait until one of them is done.")
        attempt, now = secrets.token_urlsafe(18), time.time()
        self._on_the_way[collection.user_id] += 1
        try:
            if instead_of is None:
                document = Document(f"doc_{secrets.token_urlsafe(18)}", collection.id, _named(name), attempt, now, now)
                await self._store.begin(document, MOST_DOCUMENTS)
            else:
                document = replace(
                    instead_of, name=_named(name), attempt=attempt, updated_at=now, status="ingesting", error=""
                )
                await self._store.restart(document)
        except BaseException:
            self._leave(collection.user_id)
            raise

        def ended(ingestion: Ingestion) -> None:
            self._leave(collection.user_id)
            if ingestion.document.status == "ingesting":
                self._end(ingestion)

        return Ingestion(
            document,
            source,
            store=self._store,
            embedder=self._embedder,
            read=self._read,
            cutting=self._cutting,
            turns=self._turns,
            most=self._user_characters,
            ended=ended,
        )

    async def take(self, ingestion: Ingestion) -> Document:
        """Takes in a document to its end; for whoever does not want to see the steps."""
        async with aclosing(self.steps(ingestion)) as steps:
            async for _ in steps:
                pass
        return ingestion.document

    async def steps(self, ingestion: Ingestion) -> AsyncGenerator[Step, None]:
        """Takes in a document, step by step. At its end it can be found.

        Raises:
            KnowledgeError: it could not be done; the text says why.
            ModelError: the embedding model failed.
        """
        async with aclosing(ingestion.steps()) as steps:
            async for step in steps:
                yield step
        yield Step("Indexing")
        document = ingestion.document
        async with self._shelf.use(document.collection_id) as index:
            await index.reach(document.revision)

    async def reindex(self, collection: Collection) -> AsyncGenerator[Step, None]:
        """Makes the vectors of a collection with the model that is set now; those that there are already are used.

        Until its end it is searched as before. It may be broken off and begun again.

        Raises:
            CannotEmbed: no embedding model is set.
            ModelError: the embedding model failed.
        """
        if await self._embedder.model() is None:
            raise CannotEmbed("No embedding model is set: search is by words alone. Set EMBEDDING_MODEL.")
        total = (await self._store.sizes(collection.id)).chunks
        space, _ = await self._embedder.embed(["dimensions"])
        adopted = False
        while not adopted:
            after, done = -1, 0
            while rows := await self._store.lacking(collection.id, space, after=after, limit=self._embedder.batch):
                texts = [embeddable(row.name, row.chunk.headings, row.chunk.text) for row in rows]
                now, vectors = await self._embedder.embed(texts)
                if now != space:
                    raise KnowledgeError(f"The embedding model was changed from {space} to {now} meanwhile. Try again.")
                numbers = [row.number for row in rows]
                await self._store.embed(collection.id, space, list(zip(numbers, vectors, strict=True)))
                after, done = numbers[-1], done + len(rows)
                yield Step("Embedding", done, max(done, total))
            adopted = await self._store.adopt(collection.id, space)
        yield Step("Indexing")
        if (contents := await self._store.contents(collection.id)) is None:
            raise NotFound("The collection was deleted.")
        async with self._shelf.use(collection.id) as index:
            await index.reach(contents.generation)

    async def search(self, collections: Sequence[Collection], query: str, k: int) -> Found:
        """The passages of some collections that fit a query best.

        Args:
            collections: as they are now.
            query: a question or words; nothing in it has a special meaning.
            k: how many passages.
        """
        return await self._search(collections, None, query, k)

    async def search_session(self, session: Session, query: str, k: int) -> Found:
        """The same in the files of a session, and in all collections of its owner."""
        collections = await self._store.page(session.user_id, limit=MOST_SEARCHED)
        return await self._search(collections, session, query, k)

    def forget(self, session_id: str) -> None:
        """Lets go of what is held ready of a session's files."""
        self._files.forget(session_id)

    async def _search(self, collections: Sequence[Collection], session: Session | None, query: str, k: int) -> Found:
        query = one_line(query, LONGEST_QUERY)
        async with AsyncExitStack() as stack:
            sources, notes = [], list[str]()
            if session is not None:
                source, notes = await stack.enter_async_context(self._files.use(session))
                sources.append(source)
            for collection in collections:
                index = await stack.enter_async_context(self._shelf.use(collection.id))
                await index.usable(collection.generation)
                sources.append(Source(collection, self._store, index))
            found = await search(sources, query, k, self._embedder, self._reranker)
        return replace(found, notes=(*found.notes, *notes))

    def _leave(self, user_id: str) -> None:
        self._on_the_way[user_id] -= 1
        if not self._on_the_way[user_id]:
            del self._on_the_way[user_id]

    def _end(self, ingestion: Ingestion) -> None:
        """Notes that an ingestion was given up. In a task of its own: whoever gave it up may not wait."""
        task = asyncio.create_task(self._store.fail(ingestion.document, "It was stopped before it was done."))
        self._endings.add(task)
        task.add_done_callback(self._noted)

    def _noted(self, task: "asyncio.Task[None]") -> None:
        self._endings.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("it could not be noted that a document failed: %s", error)


def _named(name: str) -> str:
    """A name that fits on a line.

    Raises:
        BadName: nothing is left of it.
    """
    if not (clean := one_line(name, LONGEST_NAME)):
        raise BadName("It needs a name.")
    return clean
