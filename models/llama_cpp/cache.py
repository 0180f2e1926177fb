"""Which tokens the key-value cache holds, for whom, and what a new prompt can take over from it.

Each sequence of llama.cpp is a `Line` of tokens here. A line that nobody works on any more is remembered until its
cells are needed. Lines with a common beginning share its cells: copying costs no memory and no computation.
"""

from array import array
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy

CHUNK = 64
"""Tokens of a prompt that are computed at once where the outcome must not depend on earlier requests."""

Tokens: TypeAlias = "array[int]"


class Memory(Protocol):
    """What the cache needs of llama.cpp."""

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Lets a sequence share the cells of another from one position to before another."""
        ...

    def cut(self, sequence: int, position: int) -> None:
        """Frees what a sequence holds from a position on."""
        ...

    def position(self, tokens: Tokens, index: int) -> int:
        """The position of the token at an index: the index itself, where no pictures come before it."""
        ...


class Line:
    """The tokens that one sequence of llama.cpp holds."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.tokens: Tokens = array("i")
        self.cells = array("i")
        """The cells of the tokens, numbered by us."""
        self.exact = 0
        """How many tokens at the beginning were computed in whole chunks, and in batches of their own."""
        self.busy = True
        self.used = 0
        """The step in which it was left."""

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return len(self.tokens)


class Cache:
    """The lines of one llama.cpp context, which has room for `cells` tokens in `sequences` sequences.

    A line that nobody works on is remembered for `patience` steps of others, and as long as there is room.
    Where it is not `divisible` only whole lines can be taken over: recurrent models keep a state for a line, not a cell
    for each token.
    """

    def __init__(
        self, memory: Memory, cells: int, sequences: int, *, patience: int = 1000, divisible: bool = True
    ) -> None:
        self._memory = memory
        self.divisible = divisible
        self._lines: list[Line] = []
        self._sequences = list(reversed(range(sequences)))
        self._owners = [0] * cells
        self._free = list(range(cells))
        self._patience = patience
        self._step = 0

    @property
    def size(self) -> int:
        """Tokens that fit in."""
        return len(self._owners)

    @property
    def used(self) -> int:
        """Cells that hold a token."""
        return self.size - len(self._free)

    @property
    def lines(self) -> Iterator[Line]:
        """All lines, at work and remembered."""
        return iter(self._lines)

    def open(self, tokens: Tokens, room: int, *, exact: bool = False) -> Line | None:
        """A line that holds as much as possible of a prompt, at most all but its last token.

        `room` is how many cells must stay free for those who are at work. None where the prompt does not fit beside.
        """
        source, shared = self._best(tokens, len(tokens) - 1, exact)
        if self._held(source, shared) + len(tokens) - shared + room > self.size:
            return None
        line = self._take_over(source, shared) if source else self._new()
        if source:
            source.used = self._step
        if line:
            line.busy = True
        return line

    def advance(self, line: Line, tokens: Tokens, least: int) -> int:
        """Lets a line go on from what another one has of the prompt by now, if that is enough; returns how many."""
        if not self.divisible:
            return 0
        source, shared = self._best(tokens, len(tokens) - 1, False)
        gained = shared - line.length
        if not source or gained < least:
            return 0
        self._share(source, line, line.length, shared)
        return gained

    def extend(self, line: Line, tokens: Tokens, *, exact: bool = False) -> None:
        """Notes that a line goes on by tokens, for which there is room; `exact`: in a batch of their own."""
        if exact and line.exact == line.length and len(tokens) == CHUNK:
            line.exact += CHUNK
        for _ in tokens:
            cell = self._free.pop()
            self._owners[cell] = 1
            line.cells.append(cell)
        line.tokens.extend(tokens)

    def age(self) -> None:
        """Notes that a batch was computed. Cells that nobody works on slow each one down: at some time they go."""
        self._step += 1
        for line in [line for line in self._lines if not line.busy and line.used + self._patience < self._step]:
            self.drop(line)

    def make_room(self, cells: int) -> bool:
        """Forgets lines, the least recently used first, until that many cells are free. False if they cannot be."""
        while len(self._free) < cells:
            if not self._forget_oldest():
                return False
        return True

    def close(self, line: Line) -> None:
        """Remembers a line that nobody works on any more. What another line holds as well is not kept twice."""
        line.busy, line.used = False, self._step
        for other in [other for other in self._lines if other is not line]:
            if not other.busy and _covers(line, other):
                self.drop(other)
            elif not line.length or _covers(other, line):
                self.drop(line)
                return

    def drop(self, line: Line) -> None:
        """Forgets a line."""
        self._cut(line, 0)
        self._lines.remove(line)
        self._sequences.append(line.sequence)

    def clear(self) -> bool:
        """Forgets all lines that nobody works on; False if there were none."""
        forgotten = self._forget_oldest()
        while self._forget_oldest():
            pass
        return forgotten

    def _best(self, tokens: Tokens, most: int, exact: bool) -> tuple[Line | None, int]:
        best, longest = None, 0
        for line in self._lines:
            shared = min(common_prefix(line.tokens, tokens), most)
            if exact:
                shared = min(shared, line.exact) // CHUNK * CHUNK
            if not self.divisible and (line.busy or shared < line.length):
                continue
            if shared > longest or (shared == longest and best and best.busy and not line.busy):
                best, longest = line, shared
        return best, longest

    def _held(self, source: Line | None, shared: int) -> int:
        """Cells that would be at work if the beginning of a line were so too."""
        held = set(source.cells[:shared]) if source else set()
        return len(held.union(*(line.cells for line in self._lines if line.busy)))

    def _take_over(self, source: Line, shared: int) -> Line | None:
        """The line itself where nothing is lost by that or no other is left, else a new one that shares its cells."""
        if not source.busy and shared == source.length:
            return source
        source_was_busy, source.busy = source.busy, True
        line = self._new()
        source.busy = source_was_busy
        if line:
            self._share(source, line, 0, shared)
            line.exact = min(source.exact, shared // CHUNK * CHUNK)
            return line
        if source.busy:
            return None
        self._cut(source, shared)
        return source

    def _new(self) -> Line | None:
        if not self._sequences and not self._forget_oldest():
            return None
        line = Line(self._sequences.pop())
        self._lines.append(line)
        return line

    def _share(self, source: Line, target: Line, start: int, end: int) -> None:
        first, last = (self._memory.position(source.tokens, index) for index in (start, end))
        self._memory.copy(source.sequence, target.sequence, first, last)
        cells = source.cells[start:end]
        for cell in cells:
            self._owners[cell] += 1
        target.cells.extend(cells)
        target.tokens.extend(source.tokens[start:end])

    def _cut(self, line: Line, length: int) -> None:
        self._memory.cut(line.sequence, self._memory.position(line.tokens, length))
        cells = line.cells[length:]
        for cell in cells:
            self._owners[cell] -= 1
            if not self._owners[cell]:
                self._free.append(cell)
        del line.cells[length:], line.tokens[length:]
        line.exact = min(line.exact, length // CHUNK * CHUNK)

    def _forget_oldest(self) -> bool:
        idle = [line for line in self._lines if not line.busy]
        if idle:
            self.drop(min(idle, key=lambda line: line.used))
        return bool(idle)


def _covers(line: Line, other: Line) -> bool:
    """Whether whatever can be taken over from the other line can be from this one."""
    return other.exact <= line.exact and common_prefix(line.tokens, other.tokens) == other.length


def common_prefix(left: Tokens, right: Tokens) -> int:
    """How many tokens two prompts have in common at their beginning."""
    length = min(len(left), len(right))
    if not length:
        return 0
    differs = numpy.frombuffer(left, numpy.int32, length) != numpy.frombuffer(right, numpy.int32, length)
    first = int(differs.argmax())
    return first if differs[first] else length
