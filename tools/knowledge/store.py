"""What knowledge is kept as, and what a store of it must do. The store is the truth; indexes are made from it."""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from tools.knowledge.chunks import Chunk

CHUNK_BITS = 20
"""A chunk's number is its revision, and in the lowest bits its place in the document: so many chunks one may have."""

Status = Literal["ingesting", "ready", "failed"]

Ranking = list[tuple[int, float]]
"""Numbers of chunks with their scores, the best first."""


class KnowledgeError(Exception):
    """The root of what goes wrong here by whoever asked. The text is fit to show to them."""


class NotFound(KnowledgeError):
    """There is no such collection or document, or it is someone else's."""


class NameTaken(KnowledgeError):
    """The user has a collection of that name."""


class BadName(KnowledgeError):
    """Nothing is left of a name when what cannot be seen is taken out."""


class TooMuch(KnowledgeError):
    """It is more than a user may have, or than one document may be."""


class Superseded(KnowledgeError):
    """Meanwhile the document was deleted or replaced again."""


class CannotEmbed(KnowledgeError):
    """There is no embedding model."""


class Space(Struct, frozen=True):
    """Where vectors can be compared: those of one model, of one length."""

    model: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.model} ({self.dimensions} dimensions)"


class Collection(Struct, frozen=True):
    """Documents that are searched together. Times are unix seconds."""

    id: str
    user_id: str
    name: str
    description: str
    created_at: float
    generation: int = 0
    """Grows with every change of what can be found."""
    space: Space | None = None
    """That of its vectors; None: it has none, and is searched by words alone."""
    epoch: int = 0
    """The generation in which all vectors were last made."""


class Document(Struct, frozen=True):
    """A document of a collection. Times are unix seconds."""

    id: str
    collection_id: str
    name: str
    attempt: str
    """Names the ingestion that counts; a later one has another."""
    created_at: float
    updated_at: float
    status: Status = "ingesting"
    error: str = ""
    """Why the last ingestion failed."""
    revision: int = 0
    """The collection's generation that made its chunks visible; 0: none are."""
    chunks: int = 0
    """Of the version that is visible."""
    tokens: int = 0
    characters: int = 0


class Row(Struct, frozen=True):
    """A chunk as it is kept."""

    number: int
    """Unlike all others of its collection, and never given again."""
    document_id: str
    name: str
    """The document's."""
    chunk: Chunk
    vector: bytes | None = None
    """Little-endian 32-bit floats of length 1; None where there is none in the space that was asked for."""


class Contents(Struct, frozen=True):
    """What can be found in a collection now."""

    generation: int
    space: Space | None
    epoch: int
    revisions: frozenset[int]
    """Of all documents that are visible. A document that is replaced has a new one."""


class Sizes(Struct, frozen=True):
    """What a collection holds."""

    documents: int
    chunks: int
    embedded: int
    """Chunks that have a vector in the collection's space."""


class Store(Protocol):
    """Keeps collections, documents, chunks and vectors. Each method is a whole transaction."""

    async def add(self, collection: Collection, most: int) -> None:
        """Keeps a new collection.

        Raises:
            NameTaken: its owner has one of that name.
            TooMuch: its owner has `most` already.
        """

    async def get(self, collection_id: str, user_id: str) -> Collection | None:
        """The collection, if it is this user's."""

    async def named(self, name: str, user_id: str) -> Collection | None:
        """The user's collection of that name."""

    async def page(self, user_id: str, *, limit: int, before: Collection | None = None) -> list[Collection]:
        """This user's collections, newest first, those older than `before`."""

    async def sizes(self, collection_id: str) -> Sizes:
        """What the collection holds."""

    async def delete(self, collection_id: str) -> None:
        """Deletes a collection with all that is in it."""

    async def ids(self) -> set[str]:
        """The ids of all collections of all users."""

    async def begin(self, document: Document, most: int) -> None:
        """Keeps a new document, of which nothing is visible yet.

        Raises:
            NotFound: the collection is gone.
            TooMuch: it has `most` documents already.
        """

    async def restart(self, document: Document) -> None:
        """Makes `document.attempt` the ingestion that counts. What is visible stays so, under the name that it has.

        Raises:
            NotFound: the document is gone.
        """

    async def publish(
        self, document: Document, chunks: Sequence[Chunk], vectors: Sequence[bytes], space: Space | None, most: int
    ) -> Document:
        """Makes chunks, with their vectors if there is a space, visible in place of those that the document had.

        The first vectors of a collection without other chunks decide its space.

        Args:
            document: as it was begun.
            chunks: all of them.
            vectors: one for each, or none.
            space: that of the vectors.
            most: characters that the documents of its owner may have together.

        Raises:
            Superseded: this ingestion no longer counts.
            TooMuch: there would be more than `most` characters.
        """

    async def fail(self, document: Document, error: str) -> None:
        """Notes why an ingestion failed, if it still counts and is still under way."""

    async def interrupt(self, before: float) -> int:
        """Fails all ingestions that were begun before a time; gives their number."""

    async def document(self, document_id: str, collection_id: str) -> Document | None:
        """The document, if it is in this collection."""

    async def documents(self, collection_id: str, *, limit: int, before: Document | None = None) -> list[Document]:
        """The collection's documents, newest first, those older than `before`."""

    async def remove(self, document: Document) -> None:
        """Deletes a document with all that is in it."""

    async def contents(self, collection_id: str) -> Contents | None:
        """What can be found in a collection; None where it is gone."""

    async def rows(self, collection_id: str, space: Space | None, *, first: int, last: int, limit: int) -> list[Row]:
        """Chunks with numbers from `first` to `last`, in their order, with their vectors in `space`."""

    async def found(self, collection_id: str, numbers: Sequence[int]) -> dict[int, Row]:
        """The chunks with these numbers, as far as they are still there, without vectors."""

    async def lacking(self, collection_id: str, space: Space, *, after: int, limit: int) -> list[Row]:
        """Chunks without a vector in a space, with a number above `after`, in order of their numbers."""

    async def embed(self, collection_id: str, space: Space, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Keeps vectors of chunks, by number; those of chunks that are gone, or have one, are dropped."""

    async def adopt(self, collection_id: str, space: Space) -> bool:
        """Makes a space that of the collection, and deletes all vectors of others.

        Returns:
            False, with nothing changed, where a chunk has no vector in it.
        """
