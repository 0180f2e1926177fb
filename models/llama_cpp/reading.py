"""Generated text as a parser reads it: one that waits in the middle of a sentence until more text comes.

A `Reading` is a generator. It yields the segments that it is certain of, and None where it waits for more text. Text is
taken once and never looked at again, so that the work is in proportion to the text, whatever a model writes.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from msgspec import Struct

from models.backend import ToolSpec


class Said(Struct, frozen=True):
    """Text for the reader."""

    text: str


class Thought(Struct, frozen=True):
    """Text that the model wrote for itself."""

    text: str


class Called(Struct, frozen=True):
    """A tool call begins. Its name cannot be taken back."""

    name: str


class Argued(Struct, frozen=True):
    """The next piece of the arguments' JSON text."""

    json: str


class Closed(Struct, frozen=True):
    """The call has all of its arguments."""


Segment = Said | Thought | Called | Argued | Closed

T = TypeVar("T")
Reading = Generator[Segment | None, None, T]

_SPACE = re.compile(r"\s*")
_LONGEST_MARK = 100
NAME = re.compile(r"[\w.:/-]+")
"""What may be the name of a tool that is not known."""


class NoCall(Exception):
    """What was read is no tool call, or the text ended before it was one."""


class Reader:
    """Text that comes in pieces, and how far it was read."""

    def __init__(self, tools: Sequence[ToolSpec] = ()) -> None:
        self.tools: Mapping[str, ToolSpec] = {tool.name: tool for tool in tools}
        self.thinking = False
        """Whether the text so far ends inside a thought."""
        self.done = False
        """Whether nothing that follows belongs to the answer."""
        self._text = ""
        self._place = 0
        self._ended = False
        self._attempt: list[str] | None = None

    def feed(self, text: str) -> None:
        """Adds what comes next."""
        self._text = "" if self.done else self._text[self._place :] + text
        self._place = 0

    def end(self) -> None:
        """No text follows."""
        self._ended = True

    @property
    def held(self) -> int:
        """How many characters wait for those that follow them."""
        return len(self._text) - self._place

    @property
    def ended(self) -> bool:
        """Whether no text follows. What is held then is at most the beginning of a mark."""
        return self._ended

    def attempt(self, before: str) -> None:
        """From here on the text may turn out to be no call. `before` was read already and belongs to it."""
        self._attempt = [before]

    def succeed(self) -> None:
        """What was read since the attempt began is a call."""
        self._attempt = None

    def failed(self) -> str:
        """The text since the attempt began; empty if it has succeeded."""
        text, self._attempt = "".join(self._attempt or ()), None
        return text

    def take(self, size: int) -> str:
        """Reads so many characters of those that are there."""
        text = self._text[self._place : self._place + size]
        self._place += size
        if self._attempt is not None:
            self._attempt.append(text)
        return text

    def more(self) -> Reading[bool]:
        """Waits for more text. False if none comes."""
        held = self.held
        while self.held == held and not self._ended:
            yield None
        return self.held > held

    def space(self) -> Reading[str]:
        """Reads white space."""
        return (yield from self._run(_SPACE))

    def among(self, characters: str) -> Reading[str]:
        """Reads any number of these characters."""
        return (yield from self._run(_any_of(characters)))

    def _run(self, pattern: re.Pattern[str]) -> Reading[str]:
        run = ""
        while match := pattern.match(self._text, self._place):
            run += self.take(match.end() - self._place)
            if self.held or not (yield from self.more()):
                break
        return run

    def next(self, *marks: str) -> Reading[str]:
        """Which of these marks comes next, without reading it; empty if none of them."""
        longest = max(map(len, marks), default=0)
        while True:
            ahead = self._text[self._place : self._place + longest]
            for mark in marks:
                if ahead.startswith(mark):
                    return mark
            if not any(mark.startswith(ahead) for mark in marks) or not (yield from self.more()):
                return ""

    def skip(self, *marks: str) -> Reading[str]:
        """Reads one of these marks where it comes next."""
        mark = yield from self.next(*marks)
        return self.take(len(mark))

    def upto(self, *marks: str, most: int | None = None) -> Reading[tuple[str, str]]:
        """Reads a piece of the text before the first of the marks, and tells which one comes next, where one does.

        Two empty texts: the text has ended. No piece is longer than `most`.
        """
        while True:
            place, mark = self._find(marks)
            size = place - self._place
            if most is not None and size > most:
                return self.take(most), ""
            if mark or size:
                return self.take(size), mark
            if not (yield from self.more()):
                return self.take(self.held), ""

    def before(self, *marks: str, limit: int | None = None) -> Reading[str]:
        """Reads all text before the first of the marks. Raises NoCall where none comes, or not within the limit."""
        found = ""
        while True:
            piece, mark = yield from self.upto(*marks, most=limit and limit - len(found))
            found += piece
            if found and len(found) == limit:
                raise NoCall
            if mark:
                return found
            if not piece:
                raise NoCall

    def value(self, brackets: "Brackets") -> Reading[str]:
        """Reads the next piece of a JSON value; empty where it goes on no further."""
        if not self.held and not (yield from self.more()):
            return ""
        return self.take(brackets.follow(self._text, self._place) - self._place)

    def rest(self, brackets: "Brackets") -> Reading[str]:
        """Reads a JSON value on to where it goes on no further."""
        found = ""
        while piece := (yield from self.value(brackets)):
            found += piece
        return found

    def _find(self, marks: tuple[str, ...]) -> tuple[int, str]:
        """The place of the first mark and the mark; where there is none, up to where none can begin."""
        if marks and (match := _one_of(marks).search(self._text, self._place)):
            return match.start(), match.group()
        tail = self._text[max(self._place, len(self._text) - _LONGEST_MARK) :]
        return len(self._text) - overhang(tail, marks), ""


class Brackets:
    """Follows a JSON value by its brackets, without judging what stands between them.

    `<` outside of a string ends the value too: it has no place there, and begins the closing tags of many families.
    """

    _OUTSIDE = re.compile(r'["{}\[\]<]')
    _INSIDE = re.compile(r'["\\]')

    def __init__(self, deepest: int | None = None) -> None:
        self.deepest = deepest
        """Stops before a bracket that opens at this depth; None: at none."""
        self.complete = False
        """Whether the bracket that opened first was closed."""
        self._depth = 0
        self._quoted = False
        self._escaped = 0

    def follow(self, text: str, place: int) -> int:
        """Up to where the text from a place on belongs to the value."""
        place += self._escaped
        while not self.complete and (match := (self._INSIDE if self._quoted else self._OUTSIDE).search(text, place)):
            mark = match.group()
            if mark == "<" or (mark in "{[" and self._depth == self.deepest):
                place = match.start()
                break
            place = match.end() + (mark == "\\")
            self._count(mark)
        else:
            place = place if self.complete else max(place, len(text))
        self._escaped = max(0, place - len(text))
        return min(place, len(text))

    def _count(self, mark: str) -> None:
        if mark == '"':
            self._quoted = not self._quoted
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
            self.complete = self._depth <= 0


def json_object(reader: Reader) -> Reading[bool]:
    """Reads an object as arguments, as it comes. False if it is broken off by what cannot stand in JSON."""
    brackets = Brackets()
    while piece := (yield from reader.value(brackets)):
        yield Argued(piece)
        if brackets.complete:
            return True
    if reader.ended:
        raise NoCall
    return False


def call(reader: Reader, name: str, arguments: Reading[bool]) -> Reading[None]:
    """A call whose name was read and whose arguments come next.

    The name of a tool of the request is certain, and the arguments are given as they come. With any other name it is a
    call only if all of it can be read.
    """
    if name in reader.tools:
        reader.succeed()
        yield Called(name)
        yield from arguments
    else:
        held: list[Segment] = []
        if not NAME.fullmatch(name) or not (yield from _collect(arguments, held)):
            raise NoCall
        reader.succeed()
        yield Called(name)
        yield from held
    yield Closed()


def _collect(reading: Reading[T], segments: list[Segment]) -> Reading[T]:
    """Reads on, and keeps the segments back."""
    while True:
        try:
            segment = next(reading)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if segment is None:
            yield None
        else:
            segments.append(segment)


def overhang(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    longest = 0
    for mark in marks:
        sizes = range(min(len(mark) - 1, len(text)), longest, -1)
        longest = next((size for size in sizes if text.endswith(mark[:size])), longest)
    return longest


@lru_cache
def _one_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)))


@lru_cache
def _any_of(characters: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(characters)}]*")
