"""Searching collections: by words and by nearness, joined by reciprocal rank fusion, re-ranked if a model does that."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from models.backend import ModelError
from tools.knowledge.embedding import Embedder
from tools.knowledge.index import Index
from tools.knowledge.rerank import NoOrder, Reranker
from tools.knowledge.store import Collection, Ranking, Row, Space, Store

DEPTH = 50
"""Places of each ranking that count."""
FUSION = 60
"""The constant of reciprocal rank fusion, as in Cormack, Clarke and Buettcher (2009)."""
MOST_NOTES = 3
"""Sources of which it is said that they were searched by words alone."""
CANDIDATES = 20
"""Passages that are put into a better order."""


Place = tuple[int, int]
"""Which source, and the number of a chunk there."""
Thing = TypeVar("Thing")


class Passage(Struct, frozen=True):
    """A passage that was found, with where it stands."""

    text: str
    document: str
    """Its document's name."""
    document_id: str
    collection: str
    """Its collection's name; empty for a file of a session."""
    collection_id: str
    page: int | None
    headings: tuple[str, ...]
    start: int
    """Where it begins in the document's whole text, in characters."""
    end: int
    score: float
    """Larger is better; to be compared within one search only."""

    @property
    def source(self) -> str:
        """Where it stands, in a line: document, page, headings."""
        page = f"page {self.page}" if self.page is not None else ""
        return ", ".join(filter(None, (self.document, page, " > ".join(self.headings))))


class Found(Struct, frozen=True):
    """What a search has found, and how."""

    passages: tuple[Passage, ...]
    """The best first."""
    dense: bool
    """Whether vectors were searched too; by words it is always."""
    reranked: bool
    """Whether a model has put them in order."""
    notes: tuple[str, ...]
    """What was not done, and why."""


class Source(Struct, frozen=True):
    """A collection to be searched, with its index, which is up to date."""

    collection: Collection
    store: Store
    index: Index


class Hit(Struct, frozen=True):
    """A chunk that was found."""

    source: Source
    row: Row
    score: float


async def search(sources: Sequence[Source], query: str, k: int, embedder: Embedder, reranker: Reranker | None) -> Found:
    """The passages of some collections that fit a query best.

    Args:
        sources: where to search.
        query: a question or words. Nothing in it has a special meaning.
        k: how many passages.
        embedder: makes the query's vector.
        reranker: puts them into a better order; None: nothing does.
    """
    filled = [source for source in sources if query and not source.index.is_empty]
    space, vector, notes = await _embedded(filled, query, embedder)
    hits = await _hits(filled, query, space, vector, max(k, CANDIDATES) if reranker else k)
    reranked = False
    if reranker is not None and len(hits) > 1:
        try:
            order = await reranker.order(query, [_shown(hit.row) for hit in hits])
            hits, reranked = [hits[place] for place in order], True
        except NoOrder as error:
            notes = [*notes, f"The passages were not re-ranked: {error}."]
    return Found(tuple(_passage(hit) for hit in hits[:k]), vector is not None, reranked, tuple(notes))


async def _embedded(
    sources: Sequence[Source], query: str, embedder: Embedder
) -> tuple[Space | None, bytes | None, list[str]]:
    """The query's space and vector where some of the sources can be searched with it, and what is to be said."""
    try:
        if (model := await embedder.model()) is None:
            return None, None, ["Searched by words alone: no embedding model is set."]
        fitting = [source for source in sources if source.index.space and source.index.space.model == model]
        if not fitting:
            return None, None, _refusals(sources, model)
        space, (vector,) = await embedder.embed([query], patient=False)
    except ModelError as error:
        return None, None, [f"Searched by words alone: the query could not be embedded. {error.message}"]
    others = [source for source in sources if source.index.space != space]
    notes = _refusals(others, str(space))
    return (space, vector, notes) if len(others) < len(sources) else (None, None, notes)


def _refusals(sources: Sequence[Source], model: str) -> list[str]:
    notes = [_refusal(source, model) for source in sources[:MOST_NOTES]]
    return [*notes, f"So it is with {len(sources) - MOST_NOTES} more."] if len(sources) > MOST_NOTES else notes


def _refusal(source: Source, model: str) -> str:
    name = repr(source.collection.name) if source.collection.name else "the session's files"
    space = source.index.space
    made = f"vectors were made by {space}, and queries now are by {model}" if space else "there are no vectors"
    again = f" POST /api/knowledge/{source.collection.id}/reindex makes them anew." if source.collection.name else ""
    return f"Searched {name} by words alone: {made}.{again}"


async def _hits(
    sources: Sequence[Source], query: str, space: Space | None, vector: bytes | None, most: int
) -> list[Hit]:
    """The best chunks of all sources, by the sum of what their places by words and by nearness are worth."""
    rankings = await asyncio.to_thread(
        lambda: [
            source.index.search(query, vector if source.index.space == space else None, DEPTH) for source in sources
        ]
    )
    scores = fused([_merged([lexical for lexical, _ in rankings]), _merged([dense for _, dense in rankings])])
    # More than are wanted: some may be gone by now.
    best = sorted(scores, key=lambda place: (-scores[place], place))[: 2 * most]
    rows = [
        await source.store.found(source.collection.id, [number for which, number in best if which == place])
        for place, source in enumerate(sources)
    ]
    hits = [
        Hit(sources[which], rows[which][number], scores[which, number])
        for which, number in best
        if number in rows[which]
    ]
    return hits[:most]


def _merged(rankings: Sequence[Ranking]) -> list[Place]:
    """One ranking of several sources' of the same kind."""
    every = [(-score, (which, number)) for which, ranking in enumerate(rankings) for number, score in ranking]
    return [place for _, place in sorted(every)[:DEPTH]]


def fused(rankings: Iterable[Sequence[Thing]]) -> dict[Thing, float]:
    """Reciprocal rank fusion: what each is worth for its places in some rankings."""
    scores: dict[Thing, float] = {}
    for ranking in rankings:
        for place, thing in enumerate(ranking, 1):
            scores[thing] = scores.get(thing, 0.0) + 1 / (FUSION + place)
    return scores


def embeddable(name: str, headings: Sequence[str], text: str) -> str:
    """A chunk as it is embedded: with what it is part of."""
    return "\n".join((" > ".join((name, *headings)), text))


def _shown(row: Row) -> str:
    return embeddable(row.name, row.chunk.headings, row.chunk.text)


def _passage(hit: Hit) -> Passage:
    chunk, collection = hit.row.chunk, hit.source.collection
    return Passage(
        chunk.text,
        hit.row.name,
        hit.row.document_id,
        collection.name,
        collection.id,
        chunk.page,
        chunk.headings,
        chunk.start,
        chunk.end,
        round(hit.score, 6),
    )
