"""Measures knowledge: how well passages are found, how fast, and what it costs.

    uv run benchmarks/knowledge.py                     all of it
    uv run benchmarks/knowledge.py --chunks 1000       speed with so many chunks alone

Quality: the documents are what Python's standard library says of itself: a module is one, a docstring a page of it. A
page is asked for by its own first sentence, of which a third of the words is left out, and half of the others are
written as synonyms that stand nowhere in the corpus. The one right answer is the page itself. The embedder is a fake of
known geometry: a text's vector is the sum of its words' random directions, a synonym has that of its word, and there is
noise. So words find what is spelled alike, vectors what means the same, and neither finds all.

Speed: pages of 200 words, drawn from that corpus as often as they stand there, in a database on disk as a server has
it, in documents of 500 pages. A query is 6 words of a page. The embedder gives vectors of 384 numbers and takes no time
of its own worth counting. Exit code 1: at the largest size half of the queries took more than 20 ms.
"""

import argparse
import asyncio
import hashlib
import inspect
import pkgutil
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.store.database import Database, migrate
from gateway.store.knowledge import KnowledgeStore
from gateway.store.tables import UserRow
from models.backend import Backend, Embedded, Health, ModelInfo, ModelRequest
from models.messages import Delta, Usage
from tools.documents import Section
from tools.knowledge import Collection, Knowledge, MemoryStore, Store
from tools.knowledge.embedding import Embedder
from tools.knowledge.index import Index
from tools.knowledge.search import DEPTH, fused
from tools.knowledge.words import terms

SIZES = (1_000, 10_000, 100_000)
GOAL = 20.0
"""Milliseconds of a query at the largest size."""
DIMENSIONS = 384
QUESTIONS = 1000
QUERIES = 200
PAGES = 500
"""Of a document, where speed is measured."""
WORDS = 200
"""Of a page there."""
SYNONYM = "zq"
"""How a word begins that is written as its synonym."""

Corpus = Mapping[str, Sequence[str]]
"""Pages by document."""


class Geometry:
    """An embedder whose vectors are known.

    Args:
        noise: how long the noise is, as a share of the vector.
        words: whether the words make the vector; else the text as a whole has a direction of its own, which is quick.
    """

    name = "geometry"

    def __init__(self, *, noise: float = 0.8, words: bool = True) -> None:
        self._noise = np.float32(noise)
        self._words = words
        self._directions: dict[str, NDArray[np.float32]] = {}

    async def find(self) -> tuple[Backend, ModelInfo]:
        """Itself, and its one model."""
        return self, ModelInfo("geometry", self.name)

    async def models(self) -> list[ModelInfo]:
        """The one."""
        return [ModelInfo("geometry", self.name)]

    def chat(self, request: ModelRequest) -> AsyncIterator[Delta]:
        """It does not chat."""
        raise NotImplementedError

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """A vector for each text."""
        return Embedded([self._vector(text).tolist() for text in inputs], Usage())

    async def check(self) -> Health:
        """Always well."""
        return Health(True, "")

    async def close(self) -> None:
        """Holds nothing."""

    def status(self) -> Mapping[str, Any]:
        """Has nothing to tell."""
        return {}

    def _vector(self, text: str) -> NDArray[np.float32]:
        if not self._words:
            return direction(text)
        words = {word.removeprefix(SYNONYM) for word in terms(text)}
        total = np.sum([self._direction(word) for word in words], axis=0, dtype=np.float32)
        noise = direction(f"noise in {text}") * self._noise * np.float32(np.linalg.norm(total))
        return np.asarray(total + noise, np.float32)

    def _direction(self, word: str) -> NDArray[np.float32]:
        if word not in self._directions:
            self._directions[word] = direction(word)
        return self._directions[word]


def direction(name: str) -> NDArray[np.float32]:
    """A random vector of length 1, the same for the same name."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def docstrings() -> dict[str, list[str]]:
    """What each module of the standard library says of itself, its classes and functions."""
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for name in sorted(sys.stdlib_module_names):
        # Some of these do something when they are imported.
        if name in ("antigravity", "this", "idlelib") or name.startswith("_"):
            continue
        for module in modules(name):
            texts = [inspect.getdoc(thing) or "" for thing in (module, *members(module))]
            new = [text for text in dict.fromkeys(texts) if len(text.split()) >= 12 and text not in seen]
            seen.update(new)
            if new:
                found[module.__name__] = new
    return found


def modules(name: str) -> list[Any]:
    """A module and those directly in it, as far as there are on this machine."""
    found: list[Any] = []
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
        found += loaded(name)
        for path in [getattr(module, "__path__", ()) for module in found]:
            for inner in pkgutil.iter_modules(path, f"{name}."):
                if "test" not in inner.name and not inner.name.endswith("__main__"):
                    found += loaded(inner.name)
    return found


def loaded(name: str) -> list[Any]:
    """A module, if there is one on this machine."""
    with suppress(ImportError, OSError):
        return [import_module(name)]
    return []


def members(module: Any) -> list[Any]:
    """The public classes and functions of a module, and the methods of its classes."""
    found = [thing for name, thing in vars(module).items() if name[0] != "_" and is_described(thing)]
    classes = [thing for thing in found if inspect.isclass(thing)]
    return found + [
        thing for each in classes for name, thing in vars(each).items() if name[0] != "_" and is_described(thing)
    ]


def is_described(thing: Any) -> bool:
    """Whether it is a class or function."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def question(text: str, rng: random.Random) -> str:
    """The first sentence with a third of its words left out, and half of the others as synonyms."""
    words = [word for word in terms(text.split(".")[0])[:24] if len(word) > 2]
    kept = [word for word in words if rng.random() > 1 / 3]
    return " ".join(SYNONYM + word if rng.random() < 0.5 else word for word in kept)


async def filled(store: Store, corpus: Corpus, geometry: Geometry, folder: Path | None) -> tuple[Knowledge, Collection]:
    """A collection with a corpus, taken in as people's files are."""

    async def read(file: BinaryIO, name: str) -> list[Section]:
        return [Section(text, page=number) for number, text in enumerate(corpus[name], 1)]

    knowledge = Knowledge(store, folder, read=read, embedding=geometry.find)
    collection = await knowledge.create("me", "corpus")
    for name in corpus:
        await knowledge.take(await knowledge.add(collection, name, "%PDF-1.7"))
    return knowledge, await knowledge.get(collection.id, "me")


async def quality() -> dict[str, float]:
    """How often the right page is among the first five, by way of searching."""
    rng, geometry, store = random.Random(0), Geometry(), MemoryStore()
    corpus = docstrings()
    pages = [(name, number) for name, texts in corpus.items() for number in range(len(texts))]
    asked = [(page, question(corpus[page[0]][page[1]], rng)) for page in rng.sample(pages, min(QUESTIONS, len(pages)))]
    asked = [(page, text) for page, text in asked if len(text.split()) >= 3]
    _, collection = await filled(store, corpus, geometry, None)
    index = Index(collection.id, store, None)
    await index.reach(collection.generation)
    print(f"{len(pages):,} pages of {len(corpus)} documents, {len(asked)} questions")
    hits: dict[str, int] = {"lexical": 0, "dense": 0, "hybrid": 0}
    for (name, number), text in asked:
        _, (vector,) = await Embedder(geometry.find).embed([text])
        lexical, dense = ([number for number, _ in ranking] for ranking in index.search(text, vector, DEPTH))
        scores = fused([lexical, dense])
        ranked = {"lexical": lexical, "dense": dense, "hybrid": sorted(scores, key=lambda each: -scores[each])}
        for way, numbers in ranked.items():
            rows = (await store.found(collection.id, numbers[:5])).values()
            hits[way] += any((row.name, row.chunk.page) == (name, number + 1) for row in rows)
    return {way: count / len(asked) for way, count in hits.items()}


def pages_of(count: int) -> dict[str, list[str]]:
    """Documents of so many pages, of words as often as they stand in the docstrings."""
    words = np.array(" ".join(text for texts in docstrings().values() for text in texts).split())
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, WORDS)) for _ in range(count)]
    return {f"document {start}": texts[start : start + PAGES] for start in range(0, count, PAGES)}


async def speed(count: int) -> bool:
    """Measures one size, and prints its row; whether the goal is reached."""
    corpus = pages_of(count)
    with tempfile.TemporaryDirectory(prefix="drover-benchmark-") as name:
        folder = Path(name)
        url = f"sqlite+aiosqlite:///{folder / 'drover.db'}"
        await asyncio.to_thread(migrate, url)
        database = Database(url)
        async with database.tx() as session:
            session.add(UserRow(id="me", name="me", name_key="me", role="user", disabled=False, created_at=0.0))
        geometry = Geometry(words=False)
        store = KnowledgeStore(database)
        before = resident()
        began = time.perf_counter()
        knowledge, collection = await filled(store, corpus, geometry, folder / "knowledge")
        ingested = time.perf_counter() - began
        took = await queries(knowledge, collection, corpus)
        memory = resident() - before
        await knowledge.close()
        opened = await first_query(store, geometry, folder / "knowledge", collection)
        for file in (folder / "knowledge").rglob("*.seal"):
            file.unlink()
        rebuilt = await first_query(store, geometry, folder / "knowledge", collection)
        stored = sum(path.stat().st_size for path in (folder / "knowledge").rglob("*") if path.is_file())
        await database.close()
    p50, p95 = statistics.median(took), statistics.quantiles(took, n=20)[-1]
    print(
        f"{count:>8,} {count / ingested:>12,.0f} {p50:>9.1f} {p95:>9.1f} {memory / 2**20:>10,.0f}"
        f" {stored / 2**20:>10,.0f} {opened:>8.2f} {rebuilt:>10.2f}",
        flush=True,
    )
    return count < max(SIZES) or p50 <= GOAL


async def queries(knowledge: Knowledge, collection: Collection, corpus: Corpus) -> list[float]:
    """Milliseconds of each query."""
    rng = random.Random(0)
    took = []
    for _ in range(QUERIES):
        words = rng.choice(corpus[rng.choice(list(corpus))]).split()
        query = " ".join(rng.sample(words, 6))
        began = time.perf_counter()
        found = await knowledge.search([collection], query, 5)
        took.append((time.perf_counter() - began) * 1000)
        assert len(found.passages) == 5 and found.dense, found.notes
    return took


async def first_query(store: Store, geometry: Geometry, folder: Path, collection: Collection) -> float:
    """Seconds of a query right after a start."""
    knowledge = Knowledge(store, folder, embedding=geometry.find)
    began = time.perf_counter()
    await knowledge.search([collection], "the first words after a start", 5)
    took = time.perf_counter() - began
    await knowledge.close()
    return took


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chunks", type=int, help="measure speed with so many chunks alone")
    chunks = parser.parse_args().chunks
    if chunks:
        return 0 if asyncio.run(speed(chunks)) else 1
    for way, recall in asyncio.run(quality()).items():
        print(f"  recall@5 {way:<8} {recall:.3f}")
    heads = ("chunks", "ingested/s", "p50 ms", "p95 ms", "memory MiB", "disk MiB", "open s", "rebuild s")
    print("\n{:>8} {:>12} {:>9} {:>9} {:>10} {:>10} {:>8} {:>10}".format(*heads), flush=True)
    # Each in a process of its own, for the sake of its memory.
    codes = [subprocess.call([sys.executable, __file__, "--chunks", str(size)]) for size in SIZES]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
