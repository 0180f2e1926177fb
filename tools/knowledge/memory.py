"""A store in memory, for scripts and trying things out."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from tools.knowledge.chunks import Chunk
from tools.knowledge.store import (
    CHUNK_BITS,
    Collection,
    Contents,
    Document,
    NameTaken,
    NotFound,
    Row,
    Sizes,
    Space,
    Superseded,
    TooMuch,
)

Key = tuple[str, int]
"""A collection's id, and a chunk's number in it."""


class MemoryStore:
    """`tools.knowledge.store.Store` in dictionaries."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._documents: dict[str, Document] = {}
        self._rows: dict[Key, Row] = {}
        self._vectors: dict[Space, dict[Key, bytes]] = {}

    async def add(self, collection: Collection, most: int) -> None:
        """Keeps a new collection."""
        theirs = [each for each in self._collections.values() if each.user_id == collection.user_id]
        if any(each.name == collection.name for each in theirs):
            raise NameTaken(f"You have a collection named {collection.name!r} already.")
        if len(theirs) >= most:
            raise TooMuch(f"You have {most} collections, and may not have more.")
        self._collections[collection.id] = collection

    async def get(self, collection_id: str, user_id: str) -> Collection | None:
        """The collection, if it is this user's."""
        found = self._collections.get(collection_id)
        return found if found is not None and found.user_id == user_id else None

    async def named(self, name: str, user_id: str) -> Collection | None:
        """The user's collection of that name."""
        return next((each for each in self._collections.values() if (each.name, each.user_id) == (name, user_id)), None)

    async def page(self, user_id: str, *, limit: int, before: Collection | None = None) -> list[Collection]:
        """This user's collections, newest first."""
        theirs = [each for each in self._collections.values() if each.user_id == user_id]
        theirs.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        older = [
            each for each in theirs if before is None or (each.created_at, each.id) < (before.created_at, before.id)
        ]
        return older[:limit]

    async def sizes(self, collection_id: str) -> Sizes:
        """What the collection holds."""
        documents = sum(document.collection_id == collection_id for document in self._documents.values())
        rows = self._of(collection_id)
        space = self._collections[collection_id].space
        vectors = self._vectors.get(space, {}) if space else {}
        return Sizes(documents, len(rows), sum((collection_id, row.number) in vectors for row in rows))

    async def delete(self, collection_id: str) -> None:
        """Deletes a collection with all that is in it."""
        self._collections.pop(collection_id, None)
        self._documents = {key: each for key, each in self._documents.items() if each.collection_id != collection_id}
        self._drop([(collection_id, row.number) for row in self._of(collection_id)])

    async def ids(self) -> set[str]:
        """The ids of all collections."""
        return set(self._collections)

    async def begin(self, document: Document, most: int) -> None:
        """Keeps a new document."""
        if document.collection_id not in self._collections:
            raise NotFound("The collection was deleted.")
        if sum(each.collection_id == document.collection_id for each in self._documents.values()) >= most:
            raise TooMuch(f"The collection has {most} documents, and may not have more.")
        self._documents[document.id] = document

    async def restart(self, document: Document) -> None:
        """Makes `document.attempt` the ingestion that counts."""
        if (current := self._documents.get(document.id)) is None:
            raise NotFound("The document was deleted.")
        self._documents[document.id] = replace(document, name=current.name)

    async def publish(
        self, document: Document, chunks: Sequence[Chunk], vectors: Sequence[bytes], space: Space | None, most: int
    ) -> Document:
        """Makes chunks visible in place of those that the document had."""
        current = self._documents.get(document.id)
        if current is None or current.attempt != document.attempt:
            raise Superseded("The document was deleted or replaced meanwhile.")
        characters = sum(chunk.end - chunk.start for chunk in chunks)
        if self._characters_beside(document) + characters > most:
            raise TooMuch(f"Your documents would have more than {most} characters together.")
        collection = self._grown(document.collection_id)
        self._drop([(collection.id, row.number) for row in self._of(collection.id) if row.document_id == document.id])
        if not self._of(collection.id):
            self._collections[collection.id] = replace(collection, space=space, epoch=collection.generation)
        for place, chunk in enumerate(chunks):
            number = collection.generation << CHUNK_BITS | place
            self._rows[collection.id, number] = Row(number, document.id, document.name, chunk)
            if space is not None:
                self._vectors.setdefault(space, {})[collection.id, number] = vectors[place]
        done = replace(
            document,
            status="ready",
            error="",
            revision=collection.generation,
            chunks=len(chunks),
            tokens=sum(chunk.tokens for chunk in chunks),
            characters=characters,
        )
        self._documents[document.id] = done
        return done

    async def fail(self, document: Document, error: str) -> None:
        """Notes why an ingestion failed."""
        current = self._documents.get(document.id)
        if current is not None and (current.attempt, current.status) == (document.attempt, "ingesting"):
            self._documents[document.id] = replace(current, status="failed", error=error)

    async def interrupt(self, before: float) -> int:
        """There is never anything left of an earlier process."""
        return 0

    async def document(self, document_id: str, collection_id: str) -> Document | None:
        """The document, if it is in this collection."""
        found = self._documents.get(document_id)
        return found if found is not None and found.collection_id == collection_id else None

    async def documents(self, collection_id: str, *, limit: int, before: Document | None = None) -> list[Document]:
        """The collection's documents, newest first."""
        ours = [each for each in self._documents.values() if each.collection_id == collection_id]
        ours.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        older = [each for each in ours if before is None or (each.created_at, each.id) < (before.created_at, before.id)]
        return older[:limit]

    async def remove(self, document: Document) -> None:
        """Deletes a document with all that is in it."""
        if self._documents.pop(document.id, None) is not None:
            collection = self._grown(document.collection_id)
            rows = [row for row in self._of(collection.id) if row.document_id == document.id]
            self._drop([(collection.id, row.number) for row in rows])

    async def contents(self, collection_id: str) -> Contents | None:
        """What can be found in a collection."""
        if (collection := self._collections.get(collection_id)) is None:
            return None
        documents = [each for each in self._documents.values() if each.collection_id == collection_id]
        revisions = frozenset(each.revision for each in documents if each.revision)
        return Contents(collection.generation, collection.space, collection.epoch, revisions)

    async def rows(self, collection_id: str, space: Space | None, *, first: int, last: int, limit: int) -> list[Row]:
        """Chunks with numbers from `first` to `last`, with their vectors in `space`."""
        rows = [row for row in self._of(collection_id) if first <= row.number <= last]
        vectors = self._vectors.get(space, {}) if space else {}
        return [replace(row, vector=vectors.get((collection_id, row.number))) for row in rows[:limit]]

    async def found(self, collection_id: str, numbers: Sequence[int]) -> dict[int, Row]:
        """The chunks with these numbers."""
        rows = self._rows
        return {number: rows[collection_id, number] for number in numbers if (collection_id, number) in rows}

    async def lacking(self, collection_id: str, space: Space, *, after: int, limit: int) -> list[Row]:
        """Chunks without a vector in a space."""
        vectors = self._vectors.get(space, {})
        rows = [row for row in self._of(collection_id) if row.number > after]
        return [row for row in rows if (collection_id, row.number) not in vectors][:limit]

    async def embed(self, collection_id: str, space: Space, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Keeps vectors of chunks."""
        kept = self._vectors.setdefault(space, {})
        for number, vector in vectors:
            if (collection_id, number) in self._rows:
                kept.setdefault((collection_id, number), vector)

    async def adopt(self, collection_id: str, space: Space) -> bool:
        """Makes a space that of the collection."""
        if await self.lacking(collection_id, space, after=-1, limit=1):
            return False
        collection = self._grown(collection_id)
        self._collections[collection_id] = replace(collection, space=space, epoch=collection.generation)
        for other, vectors in self._vectors.items():
            if other != space:
                for key in [key for key in vectors if key[0] == collection_id]:
                    del vectors[key]
        return True

    def _of(self, collection_id: str) -> list[Row]:
        return list(self._each(collection_id))

    def _each(self, collection_id: str) -> Iterator[Row]:
        return (row for (collection, _), row in sorted(self._rows.items()) if collection == collection_id)

    def _grown(self, collection_id: str) -> Collection:
        """The collection, a generation on."""
        collection = self._collections[collection_id]
        self._collections[collection_id] = grown = replace(collection, generation=collection.generation + 1)
        return grown

    def _characters_beside(self, document: Document) -> int:
        owner = self._collections[document.collection_id].user_id
        theirs = {each.id for each in self._collections.values() if each.user_id == owner}
        others = (each for each in self._documents.values() if each.id != document.id)
        return sum(each.characters for each in others if each.collection_id in theirs)

    def _drop(self, keys: Sequence[Key]) -> None:
        for key in keys:
            del self._rows[key]
            for vectors in self._vectors.values():
                vectors.pop(key, None)
