"""The dense index of a collection: vectors in FAISS, in memory, with a copy on disk.

Few vectors are compared one by one. Many are sorted into clusters, of which a search looks into the nearest (IVF), and
kept as 16-bit floats. HNSW would answer as fast, but takes nothing out again and builds ten times slower.

To be imported where it is needed: FAISS takes a third of a second to load.
"""

import math
import threading
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tools.knowledge.disk import Damaged, load, save, write
from tools.knowledge.store import CHUNK_BITS, Ranking, Row, Space

FLAT = 10_000
"""Vectors up to which all are compared: 100,000 of 384 dimensions take 44 ms so, and 0.4 ms in clusters."""
PROBES = 32
"""Clusters that a search looks into. Of some 4 times the square root as many vectors it finds 99 neighbours of 100."""
SAMPLE = 40
"""Vectors for each cluster that clusters are found by."""
GROWTH = 4
"""How many times larger it may grow before the clusters are found anew."""

FORM = 1
"""Of the files; those of another form are made anew."""

Vectors = NDArray[np.float32]


class Seal(Struct, frozen=True):
    """What the index on disk holds, and how its file must look."""

    form: int
    space: Space
    epoch: int
    revisions: frozenset[int]
    trained: int
    file: str
    crc: int


class Dense:
    """Vectors of one space, to be found by their nearness.

    A change is `remove`, any number of `add`, and `commit` or `abandon`; one at a time. Others may search meanwhile.

    Args:
        folder: where it is kept; None: nowhere.
        space: that of all vectors.
        epoch: a collection's epoch. An index of another space or epoch is not used.
    """

    def __init__(self, folder: Path | None, space: Space, epoch: int) -> None:
        self.space = space
        self.epoch = epoch
        self.revisions: frozenset[int] = frozenset()
        """Those whose chunks it holds."""
        self._folder = folder
        self._lock = threading.Lock()
        self._trained = 0
        self._unsaved = 0
        self._index: Any = self._load()

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def size(self) -> int:
        """Memory that the vectors take."""
        return len(self) * self.space.dimensions * (2 if self._trained else 4)

    def remove(self, gone: Collection[int]) -> None:
        """Begins a change: takes out the vectors of some revisions."""
        if not gone or not len(self):
            return
        numbers = self._numbers()
        old = numbers[np.isin(numbers >> CHUNK_BITS, np.fromiter(gone, np.int64))]
        if old.size:
            with self._lock:
                self._index.remove_ids(old)
            self._unsaved += int(old.size)

    def add(self, rows: Sequence[Row]) -> None:
        """Puts the vectors of chunks in; chunks without one are passed over."""
        embedded = [(row.number, row.vector) for row in rows if row.vector is not None]
        if not embedded:
            return
        numbers = np.array([number for number, _ in embedded], np.int64)
        vectors = _matrix([vector for _, vector in embedded], self.space.dimensions)
        with self._lock:
            self._index.add_with_ids(vectors, numbers)
        self._unsaved += len(embedded)
        if len(self) > (self._trained * GROWTH or FLAT):
            self._cluster()

    def commit(self, revisions: frozenset[int]) -> None:
        """Ends a change. `revisions` are all that it holds now."""
        self.revisions = revisions
        if self._unsaved > max(1000, len(self) // 10):
            self.save()

    def abandon(self) -> None:
        """Ends a change in the middle. It is to be made again, which then takes out what was put in by halves."""

    def search(self, vector: bytes, most: int) -> Ranking:
        """The chunks that are nearest to a vector of the same space, with the cosine of the angle between."""
        wanted = _matrix([vector], self.space.dimensions)
        with self._lock:
            if self._trained:
                self._index.nprobe = PROBES
            scores, found = self._index.search(wanted, most)
        return [(int(number), float(score)) for number, score in zip(found[0], scores[0], strict=True) if number >= 0]

    def save(self) -> None:
        """Writes what is not yet on disk. What is lost without it is read from the store again."""
        if self._folder is None or not self._unsaved:
            return
        data = faiss.serialize_index(self._index).data
        crc = zlib.crc32(data)
        file = f"vectors-{crc:08x}.faiss"
        write(self._folder / file, data)
        save(
            self._folder / "vectors.seal",
            Seal(FORM, self.space, self.epoch, self.revisions, self._trained, file, crc),
        )
        self._unsaved = 0
        for other in self._folder.glob("vectors-*"):
            if other.name != file:
                other.unlink(missing_ok=True)

    def _load(self) -> Any:
        empty = faiss.IndexIDMap2(faiss.IndexFlatIP(self.space.dimensions))
        if self._folder is None:
            return empty
        try:
            seal = load(self._folder / "vectors.seal", Seal)
            if (seal.form, seal.space, seal.epoch) != (FORM, self.space, self.epoch):
                return empty
            data = (self._folder / seal.file).read_bytes()
            if zlib.crc32(data) != seal.crc:
                return empty
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except (Damaged, OSError, RuntimeError):
            return empty  # all that it held is in the store
        self.revisions, self._trained = seal.revisions, seal.trained
        return index

    def _cluster(self) -> None:
        """Finds clusters for what there is now."""
        numbers, vectors = self._numbers(), self._vectors()
        clusters = 4 * math.isqrt(len(numbers))
        sample = np.random.default_rng(0).permutation(len(numbers))[: clusters * SAMPLE]
        quantizer = faiss.IndexFlatIP(self.space.dimensions)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer,
            self.space.dimensions,
            clusters,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,  # the vectors themselves, not how they differ from the clusters' centres: they can be read again
        )
        index.cp.niter = 10
        index.cp.min_points_per_centroid = 1  # below it, FAISS prints a warning to the server's console
        index.train(vectors[np.sort(sample)])
        index.add_with_ids(vectors, numbers)
        with self._lock:
            self._index, self._trained = index, len(numbers)

    def _numbers(self) -> NDArray[np.int64]:
        """The numbers of all chunks, in the order of `_vectors`."""
        if not self._trained:
            return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)
        lists = self._index.invlists
        return np.concatenate([_ids(lists, i) for i in range(lists.nlist)])

    def _vectors(self) -> Vectors:
        if not self._trained:
            return np.asarray(faiss.downcast_index(self._index.index).reconstruct_n(0, len(self)), np.float32)
        lists, dimensions = self._index.invlists, self.space.dimensions
        return np.concatenate([_floats(lists, i, dimensions) for i in range(lists.nlist)])


def _matrix(vectors: Sequence[bytes], dimensions: int) -> Vectors:
    return np.frombuffer(b"".join(vectors), "<f4").astype(np.float32, copy=False).reshape(-1, dimensions)


def _ids(lists: Any, which: int) -> NDArray[np.int64]:
    size = lists.list_size(which)
    if not size:
        return np.empty(0, np.int64)
    return np.array(faiss.rev_swig_ptr(lists.get_ids(which), size), np.int64)


def _floats(lists: Any, which: int, dimensions: int) -> Vectors:
    size = lists.list_size(which)
    if not size:
        return np.empty((0, dimensions), np.float32)
    codes = np.array(faiss.rev_swig_ptr(lists.get_codes(which), size * lists.code_size))
    return codes.view(np.float16).reshape(size, dimensions).astype(np.float32)
