"""Knowledge: collections of documents that are searched by words and by meaning.

knowledge = Knowledge()
notes = await knowledge.create("me", "notes")
await knowledge.take(await knowledge.add(notes, "moon.txt", "The moon is not made of cheese."))
found = await knowledge.search([notes], "What is the moon made of?", 3)

A store holds the truth: collections, documents, chunks, vectors (`Store`; `MemoryStore` is one, a server has one on its
database). Indexes on disk are made from it, and made again where they are missing, damaged or behind.
"""

from tools.knowledge.chunks import Chunk, divide
from tools.knowledge.embedding import Embedder, Find
from tools.knowledge.ingestion import Cutting, Ingestion, Read, Step
from tools.knowledge.knowledge import Crowded, Knowledge
from tools.knowledge.memory import MemoryStore
from tools.knowledge.search import Found, Passage
from tools.knowledge.store import (
    BadName,
    CannotEmbed,
    Collection,
    Document,
    KnowledgeError,
    NameTaken,
    NotFound,
    Space,
    Store,
    Superseded,
    TooMuch,
)
from tools.knowledge.tool import knowledge_search

__all__ = [
    "BadName",
    "CannotEmbed",
    "Chunk",
    "Collection",
    "Crowded",
    "Cutting",
    "Document",
    "Embedder",
    "Find",
    "Found",
    "Ingestion",
    "Knowledge",
    "KnowledgeError",
    "MemoryStore",
    "NameTaken",
    "NotFound",
    "Passage",
    "Read",
    "Space",
    "Step",
    "Store",
    "Superseded",
    "TooMuch",
    "divide",
    "knowledge_search",
]
