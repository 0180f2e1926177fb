"""The lexical index of a collection: BM25 by tantivy, in a folder or in memory."""

import math
import shutil
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import tantivy
from msgspec import Struct
from tantivy import Occur, Query

from tools.knowledge.disk import Damaged, load, save
from tools.knowledge.store import CHUNK_BITS, Ranking, Row
from tools.knowledge.words import asked, terms

HEAP = 64_000_000
"""Bytes that a writer may use."""
MOST_TERMS = 1_000_000
"""Terms that a writer holds. When its heap is full it writes a segment, and who adds a chunk meanwhile waits without
letting go of Python's lock, for 200 ms; a commit lets go of it."""

FORM = 1
"""Of the index and of the terms in it; one of another form is made anew."""


class Seal(Struct, frozen=True):
    """What the index on disk holds, and how its files must look."""

    form: int
    revisions: frozenset[int]
    files: dict[str, int]
    """Their CRC-32, by name."""


class Lexical:
    """Chunks to be found by their words.

    A change is `remove`, any number of `add`, and `commit` or `abandon`; one at a time. Searching meanwhile finds what
    was there before.
    """

    def __init__(self, folder: Path | None) -> None:
        self.revisions: frozenset[int] = frozenset()
        """Those whose chunks it holds."""
        self._folder = folder
        self._sums: dict[str, int] = {}
        self._writer: tantivy.IndexWriter | None = None
        self._held = 0
        self._schema = _schema()
        self._index = self._open()
        self._searcher = self._index.searcher()

    def remove(self, gone: Collection[int]) -> None:
        """Begins a change: takes out the chunks of some revisions."""
        self._writer = self._index.writer(HEAP, 1)
        for revision in gone:
            self._writer.delete_documents_by_term("revision", revision)

    def add(self, rows: Sequence[Row]) -> None:
        """Puts chunks in."""
        assert self._writer is not None
        for row in rows:
            found = terms("\n".join((row.name, *row.chunk.headings, row.chunk.text)))
            self._writer.add_document(_document(row.number, found))
            self._held += len(found)
            if self._held > MOST_TERMS:
                self._writer.commit()
                self._held = 0

    def commit(self, revisions: frozenset[int]) -> None:
        """Ends a change, and keeps its result. `revisions` are all that it holds now."""
        assert self._writer is not None
        self._writer.commit()
        self._rest()
        self._index.reload()
        self._searcher = self._index.searcher()
        self.revisions = revisions
        if self._folder is not None:
            self._sums = _sums(self._folder / "words", self._sums)
            save(self._folder / "words.seal", Seal(FORM, revisions, self._sums))

    def abandon(self) -> None:
        """Ends a change in the middle. It is to be made again, which then takes out what was put in by halves."""
        if self._writer is not None:
            self._writer.rollback()
            self._rest()

    def search(self, query: str, most: int) -> Ranking:
        """The chunks that fit the words of a query, the best first.

        A score is BM25's, as a share of what all words of the query together could give in this index: only so can it
        be compared with that of an index of another size.
        """
        searcher, wanted = self._searcher, asked(query)
        if not wanted or not searcher.num_docs:
            return []
        terms_ = [(Occur.Should, Query.term_query(self._schema, "words", term, "freq")) for term in wanted]
        hits = searcher.search(Query.boolean_query(terms_), most, count=False).hits
        whole = sum(_weight(searcher.num_docs, searcher.doc_freq("words", term)) for term in wanted)
        numbers = searcher.fast_field_values("number", [address for _, address in hits])
        # Among equals the order would be that of segments, which is any.
        ranked = sorted((-score / whole, int(number or 0)) for (score, _), number in zip(hits, numbers, strict=True))
        return [(number, -score) for score, number in ranked]

    def _rest(self) -> None:
        """Waits until the files are at rest, and gives the lock back."""
        assert self._writer is not None
        writer, self._writer, self._held = self._writer, None, 0
        writer.wait_merging_threads()

    def _open(self) -> tantivy.Index:
        if self._folder is None:
            return _prepared(tantivy.Index(self._schema))
        folder = self._folder / "words"
        try:
            seal = load(self._folder / "words.seal", Seal)
            if seal.form != FORM or not _is_whole(folder, seal.files):
                raise Damaged(str(folder))
            index = _prepared(tantivy.Index.open(str(folder)))
            self.revisions, self._sums = seal.revisions, seal.files
        except (Damaged, ValueError):
            # Where it is missing, damaged or old, one begins anew: all that it held is in the store.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            index = _prepared(tantivy.Index(self._schema, str(folder), reuse=False))
        return index


def _weight(chunks: int, having: int) -> float:
    """What a word that so many chunks have can give at most: tantivy's BM25, with its k1 of 1.2."""
    return 2.2 * math.log1p((max(chunks - having, 0) + 0.5) / (having + 0.5))


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("number", fast=True)
    builder.add_unsigned_field("revision", indexed=True)
    builder.add_text_field("words", tokenizer_name="terms", index_option="freq")
    return builder.build()


def _prepared(index: tantivy.Index) -> tantivy.Index:
    # Terms are found here, and handed over with spaces between them.
    index.register_tokenizer("terms", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    index.config_reader("manual")
    return index


def _document(number: int, found: Sequence[str]) -> tantivy.Document:
    document = tantivy.Document()
    document.add_unsigned("number", number)
    document.add_unsigned("revision", number >> CHUNK_BITS)
    document.add_text("words", " ".join(found))
    return document


def _sums(folder: Path, known: Mapping[str, int]) -> dict[str, int]:
    """The sum of each file. Those of segments never change; what begins with `meta` or a dot does."""
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".lock":
            continue
        settled = path.name in known and not path.name.startswith((".", "meta"))
        found[path.name] = known[path.name] if settled else zlib.crc32(path.read_bytes())
    return found


def _is_whole(folder: Path, files: Mapping[str, int]) -> bool:
    try:
        return _sums(folder, {}).items() >= files.items()
    except OSError:
        return False
