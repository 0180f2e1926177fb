"""The indexes of a collection, brought up to what the store has; and the few collections whose indexes are open."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools.knowledge.lexical import Lexical
from tools.knowledge.store import CHUNK_BITS, Contents, NotFound, Ranking, Row, Space, Store

if TYPE_CHECKING:
    from tools.knowledge.dense import Dense

BATCH = 1000
"""Chunks that are read from the store at once."""


class Index:
    """What a collection is searched with. All of it can be made again from the store.

    Args:
        collection_id: the collection.
        store: what it is kept in.
        folder: where the indexes lie; None: in memory.
    """

    def __init__(self, collection_id: str, store: Store, folder: Path | None) -> None:
        self.generation = -1
        """The collection's generation that it is up to; -1: none yet."""
        self.users = 0
        """How many are using it."""
        self._id = collection_id
        self._store = store
        self._folder = folder
        self._lexical: Lexical | None = None
        self._dense: Dense | None = None
        self._syncing: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Memory that it takes, about."""
        return self._dense.size if self._dense is not None else 0

    @property
    def space(self) -> Space | None:
        """The space of its vectors, if it has any."""
        return self._dense.space if self._dense is not None else None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to be found."""
        return self._lexical is None or not self._lexical.revisions

    async def reach(self, generation: int) -> None:
        """Brings it up to a generation of the collection.

        Raises:
            NotFound: the collection is gone.
        """
        while self.generation < generation:
            # Whoever waits may give up; what is begun is ended, since threads cannot be stopped in the middle.
            await asyncio.shield(self._sync())

    async def usable(self, generation: int) -> None:
        """As `reach`, but where somebody else is at it already, what there was before will do."""
        if self._syncing is None or self.generation < 0:
            await self.reach(generation)

    def search(self, query: str, vector: bytes | None, most: int) -> tuple[Ranking, Ranking]:
        """Chunks by words, and by nearness if there is a vector. Takes milliseconds of CPU.

        Args:
            query: words.
            vector: the query in this index's space.
            most: how many of each.
        """
        lexical, dense = self._lexical, self._dense
        return (
            lexical.search(query, most) if lexical is not None else [],
            dense.search(vector, most) if dense is not None and vector is not None else [],
        )

    async def save(self) -> None:
        """Writes what is not yet on disk."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        if self._dense is not None:
            await asyncio.to_thread(self._dense.save)

    def _sync(self) -> "asyncio.Task[None]":
        # One that is done may not have been taken note of yet: waiting for it would not let the loop get to that.
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._catch_up(), name=f"index {self._id}")
            self._syncing.add_done_callback(self._synced)
        return self._syncing

    def _synced(self, task: "asyncio.Task[None]") -> None:
        if self._syncing is task:
            self._syncing = None
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; if all have left, nobody needs to be

    async def _catch_up(self) -> None:
        if (contents := await self._store.contents(self._id)) is None:
            raise NotFound("The collection was deleted.")
        indexes = await asyncio.to_thread(self._open, contents)
        behind = [index for index in indexes if index.revisions != contents.revisions]
        try:
            for index in behind:
                # What is to be put in is taken out before: an earlier try may have been abandoned in the middle.
                await asyncio.to_thread(index.remove, index.revisions ^ contents.revisions)
            wanted = frozenset[int]().union(*(contents.revisions - index.revisions for index in behind))
            async for rows in self._read(wanted, contents.space):
                for index in behind:
                    new = contents.revisions - index.revisions
                    await asyncio.to_thread(index.add, [row for row in rows if row.number >> CHUNK_BITS in new])
            for index in behind:
                await asyncio.to_thread(index.commit, contents.revisions)
        except BaseException:
            for index in behind:
                await asyncio.to_thread(index.abandon)
            raise
        self.generation = contents.generation

    def _open(self, contents: Contents) -> "list[Lexical | Dense]":
        """Those of the two indexes that the collection has, loaded."""
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lexical is None:
            self._lexical = Lexical(self._folder)
        if contents.space is None:
            self._dense = None
            return [self._lexical]
        if self._dense is None or (self._dense.space, self._dense.epoch) != (contents.space, contents.epoch):
            # FAISS takes a third of a second to load, which a server without an embedding model need not spend.
            from tools.knowledge.dense import Dense

            self._dense = Dense(self._folder, contents.space, contents.epoch)
        return [self._lexical, self._dense]

    async def _read(self, revisions: frozenset[int], space: Space | None) -> AsyncIterator[list[Row]]:
        """The chunks of revisions, in pieces. What lies between them is read too, and passed over."""
        if not revisions:
            return
        first, last = min(revisions) << CHUNK_BITS, ((max(revisions) + 1) << CHUNK_BITS) - 1
        while rows := await self._store.rows(self._id, space, first=first, last=last, limit=BATCH):
            yield rows
            first = rows[-1].number + 1


class Shelf:
    """The indexes that are open. Those least recently used are closed when there are too many, or they take too much.

    Args:
        store: what collections are kept in.
        folder: where indexes lie, each in a folder of its collection's id; None: in memory.
        most: how many may be open.
        most_bytes: memory that they may take together.
    """

    def __init__(self, store: Store, folder: Path | None, *, most: int = 32, most_bytes: int = 1 << 30) -> None:
        self._store = store
        self._folder = folder
        self._most = most
        self._most_bytes = most_bytes
        self._indexes: dict[str, Index] = {}

    def __len__(self) -> int:
        return len(self._indexes)

    @asynccontextmanager
    async def use(self, collection_id: str) -> AsyncIterator[Index]:
        """The index of a collection, not yet brought up to date."""
        index = self._indexes.pop(collection_id, None)
        if index is None:
            index = Index(collection_id, self._store, self._folder / collection_id if self._folder else None)
        self._indexes[collection_id] = index
        index.users += 1
        try:
            yield index
        finally:
            index.users -= 1
            await self._shrink()

    async def forget(self, collection_id: str) -> None:
        """Deletes the index of a collection that is gone."""
        if (index := self._indexes.pop(collection_id, None)) is not None:
            await index.save()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder / collection_id, ignore_errors=True)

    async def sweep(self) -> None:
        """Deletes the indexes of collections that are gone."""
        if self._folder is not None and self._folder.is_dir():
            folders = await asyncio.to_thread(lambda folder: [path.name for path in folder.iterdir()], self._folder)
            known = await self._store.ids()
            for name in set(folders) - known:
                await self.forget(name)

    async def close(self) -> None:
        """Writes what is not yet on disk."""
        for index in self._indexes.values():
            await index.save()
        self._indexes.clear()

    async def _shrink(self) -> None:
        for collection_id, index in list(self._indexes.items()):
            if len(self._indexes) <= self._most and self._size() <= self._most_bytes:
                return
            if index.users or self._folder is None:
                continue
            index.users += 1
            await index.save()
            index.users -= 1
            if not index.users and self._indexes.get(collection_id) is index:
                del self._indexes[collection_id]

    def _size(self) -> int:
        return sum(index.size for index in self._indexes.values())
