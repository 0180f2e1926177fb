"""Chat in batches: a step computes one batch for all requests at work, and draws the next token of each."""

import traceback
from collections.abc import Iterable, Sequence
from itertools import accumulate
from time import perf_counter
from typing import cast

from models.llama_cpp import protocol
from models.llama_cpp.cache import Cache
from models.llama_cpp.context import Context, DecodeFailed, NoRoom, Part, StopFlag, Stopped
from models.llama_cpp.generation import Generation, Generator
from models.llama_cpp.sampling import Logits
from models.llama_cpp.scheduler import Scheduler, Share, Stream
from models.messages import Delta

_NOTHING = Delta()


class Chats:
    """The chat requests of an engine."""

    def __init__(self, context: Context, load: protocol.Load, stop: StopFlag, send: protocol.Send) -> None:
        self._context = context
        self._stop = stop
        self._send = send
        self._generator = Generator(context, load.image_pixels)
        self._cache = Cache(
            context, context.cells, context.sequences, compact=context.compact, divisible=context.divisible
        )
        self._scheduler = Scheduler(self._cache, load.slots)
        self._all: dict[int, Generation] = {}
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = self._steps = 0
        self.computing = 0.0
        """Seconds spent inside llama.cpp's computation so far."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._all)

    def prepare(self, request: protocol.Chat) -> Generation:
        """What is to be generated for a request; called in another thread. Raises what `Generator.prepare` does."""
        return self._generator.prepare(request.id, request.request)

    def add(self, generation: Generation) -> None:
        """Takes in a request that was prepared."""
        self._all[generation.number] = generation
        self._scheduler.add(generation)

    def cancel(self, number: int) -> None:
        """Lets go of a request, if it is still here; its slot is free for the next step."""
        if number in self._all:
            self._end(self._all[number])

    def step(self) -> None:
        """Computes one batch, and sends what it brought."""
        for stream in self._scheduler.admit():
            self._send(protocol.Started(stream.number))
        shares = self._scheduler.plan()
        if not shares:
            return
        try:
            seconds = self._decode(shares)
        except Stopped:
            self._scheduler.undone(shares)
        except NoRoom:
            self._scheduler.undone(shares)
            self._squeeze(shares)
        except DecodeFailed as error:
            self._fail([share.stream for share in shares], error)
            self._cache.clear()
        else:
            self._scheduler.done(shares, seconds)
            self._draw(shares)

    def report(self, overhead: float) -> protocol.Report:
        """What is done now, and what has been done since the start; `overhead`: seconds of work outside llama.cpp."""
        return protocol.Report(
            slots=self._scheduler.slots,
            active=len(self._scheduler.active),
            waiting=len(self._scheduler.waiting),
            cells=self._cache.size,
            cells_used=self._cache.used,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            computing=self.computing,
            overhead=overhead,
        )

    def _decode(self, shares: Sequence[Share]) -> float:
        """Computes a batch; returns the seconds that it took."""
        start = perf_counter()
        try:
            with self._stop.watching(share.stream.number for share in shares):
                if shares[0].picture:
                    self._show(shares[0])
                else:
                    self._context.decode([self._part(share) for share in shares])
        finally:
            seconds = perf_counter() - start
            self.computing += seconds
        self._steps += 1
        return seconds

    def _part(self, share: Share) -> Part:
        line = share.line
        return Part(line.sequence, self._context.position(line.tokens, line.length), share.tokens, share.last)

    def _show(self, share: Share) -> None:
        line, generation = share.line, cast(Generation, share.stream)
        position = self._context.position(line.tokens, line.length)
        self._context.show(generation.seen[line.length], line.sequence, position)

    def _draw(self, shares: Sequence[Share]) -> None:
        ends = accumulate(share.count for share in shares)
        drawn = [
            (cast(Generation, share.stream), end - 1) for share, end in zip(shares, ends, strict=True) if share.last
        ]
        if drawn:
            rows = self._context.logits(len(drawn))
            for (generation, index), row in zip(drawn, rows, strict=True):
                self._write(generation, Logits(index, row))

    def _write(self, generation: Generation, logits: Logits) -> None:
        try:
            delta = generation.draw(logits)
        except Exception as error:
            self._fail([generation], error)
            return
        if delta != _NOTHING:
            self._send(protocol.Piece(generation.number, delta))
        if delta.usage:
            self._prompt_tokens += delta.usage.prompt_tokens
            self._cached_tokens += delta.usage.cached_tokens
            self._generated_tokens += delta.usage.completion_tokens
            self._end(generation)
            self._send(protocol.Done(generation.number))

    def _squeeze(self, shares: Sequence[Share]) -> None:
        """Makes room where llama.cpp has less of it than it was asked for."""
        if not self._cache.clear():  # Who was only sent back to wait would be here again with the next step.
            self._fail([shares[-1].stream], DecodeFailed("the cache has no room"))

    def _fail(self, streams: Iterable[Stream], error: Exception) -> None:
        traceback.print_exception(error)
        for stream in streams:
            self._send(protocol.Broke(stream.number, f"{type(error).__name__}: {error}"))
            self._end(self._all[stream.number])

    def _end(self, generation: Generation) -> None:
        self._scheduler.remove(generation)
        generation.close()
        del self._all[generation.number]
