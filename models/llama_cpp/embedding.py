"""Embeddings in batches: texts of all requests that wait, as many at once as fit into a batch."""

import traceback
from array import array
from collections import deque
from time import perf_counter

from models.backend import InvalidRequest
from models.llama_cpp import protocol
from models.llama_cpp.cache import Tokens
from models.llama_cpp.context import Context, DecodeFailed, NoRoom, StopFlag, Stopped, normalized
from models.llama_cpp.generation import PromptTooLong
from models.messages import Usage

_TOKENS = 2048
"""Of several texts in one batch: an encoder's work grows with the square of what is in it."""


class Texts:
    """A request for the vectors of texts."""

    def __init__(self, request: protocol.Embed, inputs: list[Tokens]) -> None:
        self.number = request.id
        self.dimensions = request.dimensions
        self.left = deque(inputs)
        self.usage = Usage(sum(map(len, inputs)))
        self.vectors: list[list[float]] = []
        self.started = False


class Embeddings:
    """The embedding requests of an engine, in the order in which they came."""

    def __init__(self, context: Context, stop: StopFlag, send: protocol.Send) -> None:
        self._context = context
        self._stop = stop
        self._send = send
        self._all: dict[int, Texts] = {}
        self._tokens = self._steps = 0
        self.computing = 0.0
        """Seconds spent inside llama.cpp's computation so far."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._all)

    def prepare(self, request: protocol.Embed) -> Texts:
        """The tokens of a request's texts; called in another thread. Raises `PromptTooLong` or `InvalidRequest`."""
        if request.dimensions is not None and request.dimensions > self._context.dimensions:
            raise InvalidRequest(f"This model's vectors have {self._context.dimensions} dimensions.", "dimensions")
        inputs = [array("i", self._context.vocabulary.input(text)) for text in request.inputs]
        if not inputs or not all(inputs):  # Of a batch without tokens llama.cpp makes nothing.
            raise InvalidRequest("There must be an input, and none without tokens.", "input")
        for tokens in inputs:
            if len(tokens) > self._context.limit:
                raise PromptTooLong(self._context.limit, len(tokens))
        return Texts(request, inputs)

    def add(self, texts: Texts) -> None:
        """Takes in a request that was prepared."""
        self._all[texts.number] = texts

    def cancel(self, number: int) -> None:
        """Lets go of a request, if it is still here."""
        self._all.pop(number, None)

    def step(self) -> None:
        """Computes one batch, and sends what is complete by it."""
        batch = self._next()
        for texts, _ in batch:
            if not texts.started:
                texts.started = True
                self._send(protocol.Started(texts.number))
        start = perf_counter()
        try:
            with self._stop.watching(texts.number for texts, _ in batch):
                vectors = self._context.embed([tokens for _, tokens in batch])
        except Stopped:
            return
        except (NoRoom, DecodeFailed) as error:
            traceback.print_exception(error)
            for number in {texts.number for texts, _ in batch}:
                self._send(protocol.Broke(number, f"{type(error).__name__}: {error}"))
                del self._all[number]
            return
        finally:
            self.computing += perf_counter() - start
        self._steps += 1
        for (texts, tokens), vector in zip(batch, vectors, strict=True):
            self._tokens += len(tokens)
            texts.left.popleft()
            cut = vector if texts.dimensions is None else normalized(vector[None, : texts.dimensions])[0]
            texts.vectors.append([float(number) for number in cut])
        for texts in [texts for texts in self._all.values() if not texts.left]:
            self._send(protocol.Vectors(texts.number, texts.vectors, texts.usage))
            self._send(protocol.Done(texts.number))
            del self._all[texts.number]

    def report(self, overhead: float) -> protocol.Report:
        """What is done now, and what has been done since the start; `overhead`: seconds of work outside llama.cpp."""
        active = sum(texts.started for texts in self._all.values())
        return protocol.Report(
            slots=self._context.sequences,
            active=active,
            waiting=len(self._all) - active,
            cells=self._context.cells,
            cells_used=0,
            prompt_tokens=self._tokens,
            cached_tokens=0,
            generated_tokens=0,
            steps=self._steps,
            computing=self.computing,
            overhead=overhead,
        )

    def _next(self) -> list[tuple[Texts, Tokens]]:
        """The texts of the next batch: at least one, and no more than fit."""
        batch: list[tuple[Texts, Tokens]] = []
        room = min(_TOKENS, self._context.batch)
        for texts in self._all.values():
            for tokens in texts.left:
                room -= len(tokens)
                if batch and (room < 0 or len(batch) == self._context.sequences):
                    return batch
                batch.append((texts, tokens))
        return batch
