"""Knowledge in the database: collections, documents, chunks and vectors."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row as DatabaseRow
from sqlalchemy import and_, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.tables import ChunkRow, CollectionRow, DocumentRow, VectorRow
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

_COLLECTIONS, _DOCUMENTS = CollectionRow.__table__, DocumentRow.__table__
_CHUNKS, _VECTORS = ChunkRow.__table__, VectorRow.__table__
_COLLECTION = [
    _COLLECTIONS.c[name]
    for name in ("id", "user_id", "name", "description", "created_at", "generation", "model", "dimensions", "epoch")
]
_DOCUMENT = [_DOCUMENTS.c[name] for name in Document.__struct_fields__]
_CHUNK = [
    *(_CHUNKS.c[name] for name in ("number", "document_id")),
    _DOCUMENTS.c.name,
    *(_CHUNKS.c[name] for name in ("text", "begins", "ends", "tokens", "headings", "page")),
]
_WITH_NAMES = _CHUNKS.join(_DOCUMENTS, _DOCUMENTS.c.id == _CHUNKS.c.document_id)

BATCH = 250
"""Chunks that are written by one statement."""

_headings = msgspec.json.Decoder(tuple[str, ...]).decode
_encode = msgspec.json.Encoder().encode

_KEEP_VECTOR = text(
    "INSERT INTO knowledge_vectors (collection_id, number, model, dimensions, data) "
    "VALUES (:collection_id, :number, :model, :dimensions, :data) ON CONFLICT DO NOTHING"
)


class KnowledgeStore:
    """`tools.knowledge.store.Store` on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, collection: Collection, most: int) -> None:
        """Keeps a new collection."""
        row = CollectionRow(
            id=collection.id,
            user_id=collection.user_id,
            name=collection.name,
            description=collection.description,
            created_at=collection.created_at,
            generation=collection.generation,
            epoch=collection.epoch,
        )
        theirs = select(CollectionRow.name).where(CollectionRow.user_id == collection.user_id)
        async with self._database.exclusive() as session:
            names = set(await session.scalars(theirs))
            if collection.name in names:
                raise NameTaken(f"You have a collection named {collection.name!r} already.")
            if len(names) >= most:
                raise TooMuch(f"You have {most} collections, and may not have more.")
            session.add(row)

    async def get(self, collection_id: str, user_id: str) -> Collection | None:
        """The collection, if it is this user's."""
        return await self._collection(_COLLECTIONS.c.id == collection_id, _COLLECTIONS.c.user_id == user_id)

    async def named(self, name: str, user_id: str) -> Collection | None:
        """The user's collection of that name."""
        return await self._collection(_COLLECTIONS.c.name == name, _COLLECTIONS.c.user_id == user_id)

    async def page(self, user_id: str, *, limit: int, before: Collection | None = None) -> list[Collection]:
        """This user's collections, newest first."""
        when, number = _COLLECTIONS.c.created_at, _COLLECTIONS.c.id
        query = select(*_COLLECTION).where(_COLLECTIONS.c.user_id == user_id)
        if before is not None:
            query = query.where((when < before.created_at) | ((when == before.created_at) & (number < before.id)))
        async with self._database.tx() as session:
            rows = await session.execute(query.order_by(when.desc(), number.desc()).limit(limit))
            return [_read_collection(row) for row in rows]

    async def sizes(self, collection_id: str) -> Sizes:
        """What the collection holds."""
        documents = select(func.count()).where(_DOCUMENTS.c.collection_id == collection_id)
        chunks = select(func.count()).where(_CHUNKS.c.collection_id == collection_id)
        same_space = and_(_VECTORS.c.model == _COLLECTIONS.c.model, _VECTORS.c.dimensions == _COLLECTIONS.c.dimensions)
        embedded = (
            select(func.count())
            .select_from(_VECTORS.join(_COLLECTIONS, same_space))
            .where(_VECTORS.c.collection_id == collection_id, _COLLECTIONS.c.id == collection_id)
        )
        async with self._database.tx() as session:
            return Sizes(*[int(await session.scalar(query) or 0) for query in (documents, chunks, embedded)])

    async def delete(self, collection_id: str) -> None:
        """Deletes a collection; all that is in it goes too, by the foreign keys."""
        async with self._database.tx() as session:
            await session.execute(delete(CollectionRow).where(_COLLECTIONS.c.id == collection_id))

    async def ids(self) -> set[str]:
        """The ids of all collections."""
        async with self._database.tx() as session:
            return set(await session.scalars(select(CollectionRow.id)))

    async def begin(self, document: Document, most: int) -> None:
        """Keeps a new document."""
        count = select(func.count()).where(_DOCUMENTS.c.collection_id == document.collection_id)
        async with self._database.exclusive() as session:
            if await session.get(CollectionRow, document.collection_id) is None:
                raise NotFound("The collection was deleted.")
            if int(await session.scalar(count) or 0) >= most:
                raise TooMuch(f"The collection has {most} documents, and may not have more.")
            await session.execute(insert(DocumentRow), [msgspec.structs.asdict(document)])

    async def restart(self, document: Document) -> None:
        """Makes `document.attempt` the ingestion that counts."""
        changes = {"attempt": document.attempt, "status": "ingesting", "error": "", "updated_at": document.updated_at}
        change = update(DocumentRow).where(_DOCUMENTS.c.id == document.id).values(changes).returning(DocumentRow.id)
        async with self._database.tx() as session:
            if await session.scalar(change) is None:
                raise NotFound("The document was deleted.")

    async def publish(
        self, document: Document, chunks: Sequence[Chunk], vectors: Sequence[bytes], space: Space | None, most: int
    ) -> Document:
        """Makes chunks visible in place of those that the document had."""
        characters = sum(chunk.end - chunk.start for chunk in chunks)
        async with self._database.tx() as session:
            # First of all, since it locks the collection: whoever changes the same one waits here.
            generation = await _grow(session, document.collection_id)
            if generation is None or not await _counts(session, document):
                raise Superseded("The document was deleted or replaced meanwhile.")
            if await _characters_beside(session, document) + characters > most:
                raise TooMuch(f"Your documents would have more than {most} characters together.")
            await session.execute(delete(ChunkRow).where(_CHUNKS.c.document_id == document.id))
            others = select(ChunkRow.number).where(_CHUNKS.c.collection_id == document.collection_id).limit(1)
            if await session.scalar(others) is None:
                await session.execute(_to_space(document.collection_id, space, generation))
            # In pieces: to prepare thousands of rows in one would hold up the event loop.
            for start in range(0, len(chunks), BATCH):
                first = (generation << CHUNK_BITS) + start
                some = enumerate(chunks[start : start + BATCH], first)
                await session.execute(insert(ChunkRow), [_write(number, document, chunk) for number, chunk in some])
                if space is not None:
                    theirs = list(enumerate(vectors[start : start + BATCH], first))
                    await session.execute(insert(VectorRow), _vectors(document.collection_id, space, theirs))
            done = msgspec.structs.replace(
                document,
                status="ready",
                error="",
                revision=generation,
                chunks=len(chunks),
                tokens=sum(chunk.tokens for chunk in chunks),
                characters=characters,
            )
            values = msgspec.structs.asdict(done)
            await session.execute(update(DocumentRow).where(_DOCUMENTS.c.id == document.id).values(values))
        return done

    async def fail(self, document: Document, error: str) -> None:
        """Notes why an ingestion failed."""
        change = update(DocumentRow).where(
            _DOCUMENTS.c.id == document.id,
            _DOCUMENTS.c.attempt == document.attempt,
            _DOCUMENTS.c.status == "ingesting",
        )
        async with self._database.tx() as session:
            await session.execute(change.values(status="failed", error=error))

    async def interrupt(self, before: float) -> int:
        """Fails all ingestions that were begun before a time."""
        change = (
            update(DocumentRow)
            .where(_DOCUMENTS.c.status == "ingesting", _DOCUMENTS.c.updated_at < before)
            .values(
                status="failed", error="The server stopped before the document was read. Send it again.", attempt=""
            )
            .returning(DocumentRow.id)
        )
        async with self._database.tx() as session:
            return len((await session.scalars(change)).all())

    async def document(self, document_id: str, collection_id: str) -> Document | None:
        """The document, if it is in this collection."""
        query = select(*_DOCUMENT).where(_DOCUMENTS.c.id == document_id, _DOCUMENTS.c.collection_id == collection_id)
        async with self._database.tx() as session:
            row = (await session.execute(query)).one_or_none()
        return Document(*row) if row else None

    async def documents(self, collection_id: str, *, limit: int, before: Document | None = None) -> list[Document]:
        """The collection's documents, newest first."""
        when, number = _DOCUMENTS.c.created_at, _DOCUMENTS.c.id
        query = select(*_DOCUMENT).where(_DOCUMENTS.c.collection_id == collection_id)
        if before is not None:
            query = query.where((when < before.created_at) | ((when == before.created_at) & (number < before.id)))
        async with self._database.tx() as session:
            rows = await session.execute(query.order_by(when.desc(), number.desc()).limit(limit))
            return [Document(*row) for row in rows]

    async def remove(self, document: Document) -> None:
        """Deletes a document; its chunks go too, by the foreign key."""
        async with self._database.tx() as session:
            await _grow(session, document.collection_id)
            await session.execute(delete(DocumentRow).where(_DOCUMENTS.c.id == document.id))

    async def contents(self, collection_id: str) -> Contents | None:
        """What can be found in a collection."""
        collection = select(*_COLLECTION).where(_COLLECTIONS.c.id == collection_id)
        revisions = select(_DOCUMENTS.c.revision).where(
            _DOCUMENTS.c.collection_id == collection_id, _DOCUMENTS.c.revision > 0
        )
        async with self._database.tx() as session:
            # In this order: where something is published in between, the generation is too old, and one looks again.
            row = (await session.execute(collection)).one_or_none()
            known = frozenset(await session.scalars(revisions))
        if row is None:
            return None
        found = _read_collection(row)
        return Contents(found.generation, found.space, found.epoch, known)

    async def rows(self, collection_id: str, space: Space | None, *, first: int, last: int, limit: int) -> list[Row]:
        """Chunks with numbers from `first` to `last`, with their vectors in `space`."""
        in_range = _CHUNKS.c.number.between(first, last)
        query = _select(collection_id, space).where(in_range).order_by(_CHUNKS.c.number).limit(limit)
        async with self._database.tx() as session:
            return [_read(row) for row in await session.execute(query)]

    async def found(self, collection_id: str, numbers: Sequence[int]) -> dict[int, Row]:
        """The chunks with these numbers."""
        query = _select(collection_id, None).where(_CHUNKS.c.number.in_(numbers))
        async with self._database.tx() as session:
            return {row.number: _read(row) for row in await session.execute(query)}

    async def lacking(self, collection_id: str, space: Space, *, after: int, limit: int) -> list[Row]:
        """Chunks without a vector in a space."""
        query = _select(collection_id, space).where(_VECTORS.c.number.is_(None), _CHUNKS.c.number > after)
        async with self._database.tx() as session:
            return [_read(row) for row in await session.execute(query.order_by(_CHUNKS.c.number).limit(limit))]

    async def embed(self, collection_id: str, space: Space, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Keeps vectors of chunks."""
        try:
            async with self._database.tx() as session:
                await session.execute(_KEEP_VECTOR, _vectors(collection_id, space, vectors))
        except IntegrityError:
            # A chunk is gone; the others still want theirs.
            if len(vectors) > 1:
                for each in vectors:
                    await self.embed(collection_id, space, [each])

    async def adopt(self, collection_id: str, space: Space) -> bool:
        """Makes a space that of the collection."""
        others = and_(
            _VECTORS.c.collection_id == collection_id,
            (_VECTORS.c.model != space.model) | (_VECTORS.c.dimensions != space.dimensions),
        )
        async with self._database.tx() as session:
            if (generation := await _grow(session, collection_id)) is None:
                return True
            lacks = await session.execute(_select(collection_id, space).where(_VECTORS.c.number.is_(None)).limit(1))
            if lacks.first() is not None:
                await session.rollback()
                return False
            await session.execute(_to_space(collection_id, space, generation))
            await session.execute(delete(VectorRow).where(others))
        return True

    async def _collection(self, *conditions: Any) -> Collection | None:
        async with self._database.tx() as session:
            row = (await session.execute(select(*_COLLECTION).where(*conditions))).one_or_none()
        return _read_collection(row) if row else None


async def _grow(session: AsyncSession, collection_id: str) -> int | None:
    """Takes the collection a generation on, and holds it until the transaction ends; None where it is gone."""
    change = update(CollectionRow).where(_COLLECTIONS.c.id == collection_id)
    grown = change.values(generation=_COLLECTIONS.c.generation + 1).returning(CollectionRow.generation)
    generation: int | None = await session.scalar(grown)
    return generation


async def _counts(session: AsyncSession, document: Document) -> bool:
    """Whether the ingestion is the one that counts."""
    query = select(DocumentRow.attempt).where(_DOCUMENTS.c.id == document.id).with_for_update()
    return await session.scalar(query) == document.attempt


async def _characters_beside(session: AsyncSession, document: Document) -> int:
    """Characters of all documents of the owner but this one."""
    owner = select(_COLLECTIONS.c.user_id).where(_COLLECTIONS.c.id == document.collection_id).scalar_subquery()
    query = (
        select(func.coalesce(func.sum(_DOCUMENTS.c.characters), 0))
        .select_from(_DOCUMENTS.join(_COLLECTIONS, _COLLECTIONS.c.id == _DOCUMENTS.c.collection_id))
        .where(_COLLECTIONS.c.user_id == owner, _DOCUMENTS.c.id != document.id)
    )
    return int(await session.scalar(query) or 0)


def _to_space(collection_id: str, space: Space | None, generation: int) -> Any:
    model, dimensions = (space.model, space.dimensions) if space else (None, None)
    change = update(CollectionRow).where(_COLLECTIONS.c.id == collection_id)
    return change.values(model=model, dimensions=dimensions, epoch=generation)


def _select(collection_id: str, space: Space | None) -> Any:
    """Chunks with their documents' names, and their vectors in a space if one is given."""
    if space is None:
        return select(*_CHUNK).select_from(_WITH_NAMES).where(_CHUNKS.c.collection_id == collection_id)
    of_space = and_(
        _VECTORS.c.collection_id == _CHUNKS.c.collection_id,
        _VECTORS.c.number == _CHUNKS.c.number,
        _VECTORS.c.model == space.model,
        _VECTORS.c.dimensions == space.dimensions,
    )
    joined = _WITH_NAMES.outerjoin(_VECTORS, of_space)
    return select(*_CHUNK, _VECTORS.c.data).select_from(joined).where(_CHUNKS.c.collection_id == collection_id)


def _read_collection(row: DatabaseRow[Any]) -> Collection:
    space = Space(row.model, row.dimensions) if row.model is not None else None
    id_, user_id, name, description, created_at, generation, *_, epoch = row
    return Collection(id_, user_id, name, description, created_at, generation, space, epoch)


def _read(row: DatabaseRow[Any]) -> Row:
    number, document_id, name, body, begins, ends, tokens, headings, page, *vector = row
    chunk = Chunk(body, begins, ends, tokens, _headings(headings), page)
    return Row(number, document_id, name, chunk, vector[0] if vector else None)


def _write(number: int, document: Document, chunk: Chunk) -> dict[str, Any]:
    return {
        "collection_id": document.collection_id,
        "number": number,
        "document_id": document.id,
        "text": chunk.text,
        "begins": chunk.start,
        "ends": chunk.end,
        "tokens": chunk.tokens,
        "headings": _encode(chunk.headings).decode(),
        "page": chunk.page,
    }


def _vectors(collection_id: str, space: Space, vectors: Sequence[tuple[int, bytes]]) -> list[dict[str, Any]]:
    fixed = {"collection_id": collection_id, "model": space.model, "dimensions": space.dimensions}
    return [{**fixed, "number": number, "data": data} for number, data in vectors]
