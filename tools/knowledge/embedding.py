"""Texts as vectors: batches to the embedding model, again where it is busy, and back as bytes of length 1."""

import asyncio
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from sys import byteorder

from models.backend import Backend, BackendFailed, Busy, ContextTooLong, ModelInfo, Unavailable
from tools.knowledge.store import CannotEmbed, Space

Find = Callable[[], Awaitable[tuple[Backend, ModelInfo] | None]]
"""A model and the backend that has it; None where none is set. Raises ModelError where the one that is set is gone."""

LONGEST_WAIT = 10.0
"""Seconds between two tries at a busy backend, at most."""
MOST_DIMENSIONS = 65_536


async def no_model() -> tuple[Backend, ModelInfo] | None:
    """Where none is set."""
    return None


class Embedder:
    """Makes vectors.

    Args:
        find: the embedding model.
        batch: texts that are sent at once.
        patience: seconds that a busy backend is tried again.
    """

    def __init__(self, find: Find = no_model, *, batch: int = 32, patience: float = 120.0) -> None:
        self.batch = batch
        self._find = find
        self._patience = patience

    async def model(self) -> str | None:
        """The name of the embedding model; None where none is set.

        Raises:
            ModelError: it is not there.
        """
        found = await self._find()
        return found[1].id if found else None

    async def embed(self, texts: Sequence[str], *, patient: bool = True) -> tuple[Space, list[bytes]]:
        """The vectors of a few texts, and their space.

        Args:
            texts: at least one.
            patient: whether a busy backend is tried again.

        Raises:
            CannotEmbed: no embedding model is set.
            ModelError: it could not, or gave nonsense.
        """
        if (found := await self._find()) is None:
            raise CannotEmbed("No embedding model is set.")
        backend, info = found
        deadline = time.monotonic() + (self._patience if patient else 0)
        while True:
            try:
                vectors = await _fitting(backend, info.id, texts)
                break
            except (Busy, Unavailable) as error:
                wait = min(error.retry_after, LONGEST_WAIT)
                if time.monotonic() + wait > deadline:
                    raise
                await asyncio.sleep(wait)
        dimensions = len(vectors[0]) if vectors else 0
        if len(vectors) != len(texts) or not 0 < dimensions <= MOST_DIMENSIONS:
            raise BackendFailed(f"The embedding model {info.id} gave {len(vectors)} vectors for {len(texts)} texts.")
        packed = await asyncio.to_thread(lambda: [_packed(vector, dimensions, info.id) for vector in vectors])
        return Space(info.id, dimensions), packed


async def _fitting(backend: Backend, model: str, texts: Sequence[str]) -> list[list[float]]:
    """The vectors of texts, of which those that are too long for the model are cut."""
    try:
        return (await backend.embed(model, texts)).vectors
    except ContextTooLong:
        if len(texts) > 1:
            return [vector for text in texts for vector in await _fitting(backend, model, [text])]
        if len(texts[0]) < 64:
            raise
        return await _fitting(backend, model, [texts[0][: len(texts[0]) // 2]])


def _packed(vector: Sequence[float], dimensions: int, model: str) -> bytes:
    """A vector of length 1, as little-endian 32-bit floats; one of length 0 stays as it is."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    if len(vector) != dimensions or not math.isfinite(length):
        raise BackendFailed(f"The embedding model {model} gave a vector that is none.")
    floats = array("f", [x / length for x in vector] if length else vector)
    if byteorder == "big":
        floats.byteswap()
    return floats.tobytes()
