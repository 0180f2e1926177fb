"""Which tokens the key-value cache holds, for whom, and what a new prompt can take over from it.

Each sequence of llama.cpp is a `Line` of tokens here. Lines with a common beginning share its cells: copying costs no
memory and no computation. A line that nobody works on any more stays for a while, since the next turn or step may go
on from it. But its cells slow down the steps of all others: then it is put away, out of the cells into plain memory,
from which it is brought back when a prompt begins like it.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import numpy
from msgspec import Struct
from numpy.typing import NDArray

CHUNK = 64
"""Tokens of a prompt that are computed at once where the outcome must not depend on earlier requests."""

_PATIENCE = 16
"""Steps that a line may stay in the cells unused. In that time its cells take as long as to put it away and bring it
back: 3.5 us of each step of one stream, against 10 us for a token, and 2 ms to compute it again (135 M parameters, 2
cores)."""
_WORTHWHILE = 16
"""Tokens below which it is faster to compute them than to keep them."""

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

    def reaches(self, sequence: int, position: int) -> bool:
        """Whether a sequence still holds all that a token at a position looks back at."""
        ...

    def save(self, sequence: int) -> NDArray[numpy.uint8]:
        """What a sequence holds, so that it can be restored."""
        ...

    def restore(self, sequence: int, saved: NDArray[numpy.uint8]) -> bool:
        """Gives an empty sequence what another one held; whether that was possible."""
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


class Stored(Struct, frozen=True):
    """A line that was put away."""

    tokens: Tokens
    exact: int
    saved: NDArray[numpy.uint8]


class Cache:
    """The lines of one llama.cpp context, which has room for `cells` tokens in `sequences` sequences.

    A line that nobody works on is put away when its room is needed; to be `compact`, also after some steps of others,
    and before a new line goes behind it. As many tokens as there are cells can be away; the least recently used are
    forgotten.
    Where it is not `divisible` only whole lines can be taken over: recurrent models keep a state for a line, not a cell
    for each token.
    """

    def __init__(
        self, memory: Memory, cells: int, sequences: int, *, compact: bool = True, divisible: bool = True
    ) -> None:
        self._memory = memory
        self.divisible = divisible
        self._lines: list[Line] = []
        self._sequences = list(reversed(range(sequences)))
        self._owners = [0] * cells
        self._free = list(range(cells))
        self._stored: list[Stored] = []
        """The least recently used first."""
        self._compact = compact
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
        self._bring_back(tokens, room, exact)
        source, shared = self._best(tokens, len(tokens) - 1, exact)
        if self._held(source, shared) + len(tokens) - shared + room > self.size:
            return None
        line = self._take_over(source, shared) if source else self._new()
        if source:
            source.used = self._step
        if self._compact:
            self._put_away_all(lambda other: other is not line)
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
        """Notes that a batch was computed."""
        self._step += 1
        if self._compact:
            self._put_away_all(lambda line: line.used + _PATIENCE < self._step)

    def make_room(self, cells: int) -> bool:
        """Puts lines away, the least recently used first, until that many cells are free. False if they cannot be."""
        while len(self._free) < cells:
            if not self._put_oldest_away():
                return False
        return True

    def close(self, line: Line) -> None:
        """Remembers a line that nobody works on any more. What another line holds as well is not kept twice."""
        line.busy, line.used = False, self._step
        if not self.divisible and line.length:  # None can stand for another.
            return
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
        """Forgets all that nobody works on; False if it held no cells."""
        self._stored.clear()
        idle = [line for line in self._lines if not line.busy]
        for line in idle:
            self.drop(line)
        return bool(idle)

    def _best(self, tokens: Tokens, most: int, exact: bool) -> tuple[Line | None, int]:
        best, longest = None, 0
        for line in self._lines:
            shared = _usable(line, tokens, most, exact)
            if not self.divisible and (line.busy or shared < line.length):
                continue
            better = shared > longest or (shared == longest and best and best.busy and not line.busy)
            if better and self._can_end(line, shared):
                best, longest = line, shared
        return best, longest

    def _can_end(self, line: Line, length: int) -> bool:
        """Whether a line can go on otherwise from there: what a sliding window has passed may be gone."""
        return length == line.length or self._memory.reaches(line.sequence, self._memory.position(line.tokens, length))

    def _held(self, source: Line | None, shared: int) -> int:
        """Cells that would be at work if the beginning of a line were so too."""
        held = numpy.zeros(self.size, numpy.bool_)
        if source:
            held[source.cells[:shared]] = True
        for line in self._lines:
            if line.busy:
                held[numpy.frombuffer(line.cells, numpy.int32)] = True
        return int(numpy.count_nonzero(held))

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
        if not self._sequences and not self._put_oldest_away():
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

    def _put_oldest_away(self) -> bool:
        idle = [line for line in self._lines if not line.busy]
        if idle:
            self._put_away(min(idle, key=lambda line: line.used))
        return bool(idle)

    def _put_away_all(self, chosen: Callable[[Line], bool]) -> None:
        for line in [line for line in self._lines if not line.busy and chosen(line)]:
            self._put_away(line)

    def _put_away(self, line: Line) -> None:
        if line.length >= _WORTHWHILE:
            self._stored = [stored for stored in self._stored if not _covers(line, stored)]
            self._stored.append(Stored(line.tokens[:], line.exact, self._memory.save(line.sequence)))
            while sum(len(stored.tokens) for stored in self._stored) > self.size:
                del self._stored[0]
        self.drop(line)

    def _bring_back(self, tokens: Tokens, room: int, exact: bool) -> None:
        """Makes a line of what was put away and has more of a prompt than any line, once the prompt fits in with it."""
        most = len(tokens) - 1
        _, longest = self._best(tokens, most, exact)
        usable = [(_usable(stored, tokens, most, exact), index) for index, stored in enumerate(self._stored)]
        if not self.divisible:
            usable = [(shared, index) for shared, index in usable if shared == len(self._stored[index].tokens)]
        shared, index = max(usable, default=(0, 0))
        if shared < longest + _WORTHWHILE:
            return
        if self._held(None, 0) + max(len(tokens) + room, len(self._stored[index].tokens)) > self.size:
            return
        stored = self._stored.pop(index)
        if self.make_room(len(stored.tokens)) and (line := self._new()):
            line.busy, line.used = False, self._step
            if self._memory.restore(line.sequence, stored.saved):
                self.extend(line, stored.tokens)
                line.exact = stored.exact
            else:
                self.drop(line)


def _usable(line: Line | Stored, tokens: Tokens, most: int, exact: bool) -> int:
    """Tokens of a prompt that can be taken over from a line."""
    shared = min(common_prefix(line.tokens, tokens), most)
    return min(shared, line.exact) // CHUNK * CHUNK if exact else shared


def _covers(line: Line | Stored, other: Line | Stored) -> bool:
    """Whether whatever can be taken over from the other line can be from this one."""
    return other.exact <= line.exact and common_prefix(line.tokens, other.tokens) == len(other.tokens)


def common_prefix(left: Tokens, right: Tokens) -> int:
    """How many tokens two prompts have in common at their beginning."""
    length = min(len(left), len(right))
    if not length:
        return 0
    differs = numpy.frombuffer(left, numpy.int32, length) != numpy.frombuffer(right, numpy.int32, length)
    first = int(differs.argmax())
    return first if differs[first] else length
