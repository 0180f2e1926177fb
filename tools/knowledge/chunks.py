"""Documents cut into chunks: along their own structure, of a size in tokens, each a little into the one before."""

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import takewhile

from msgspec import Struct

from tools.documents.section import Section
from tools.knowledge.words import UNSPACED

# About what the tokenizers of language models make of a text: words in pieces, runs of the same sign as one, characters
# of unspaced scripts one by one.
_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_]{{1,6}}|([^\w\s]|_)\1{{0,7}}")
_SENTENCE_END = frozenset(".!?…。।؟\uff01\uff1f")

_TABLE_HEAD = re.compile(r"\|.*\n\|[ :|-]+\n")

_WINDOW = 200_000
"""Characters of a section that are looked at together; memory for a document of one section stays small."""


class Chunk(Struct, frozen=True, omit_defaults=True):
    """A passage of a document, as it is searched and shown."""

    text: str
    start: int
    """Where it begins in the document's whole text, in characters."""
    end: int
    tokens: int
    """About."""
    headings: tuple[str, ...] = ()
    """The headings above all of it, the outermost first."""
    page: int | None = None


def count_tokens(text: str) -> int:
    """About how many tokens a language model makes of a text."""
    return sum(1 for _ in _TOKEN.finditer(text))


def divide(sections: Sequence[Section], *, size: int = 400, overlap: int = 60) -> list[Chunk]:
    """Cuts a document's sections into chunks.

    A chunk lies on one page and under one heading; only sections too small to stand alone are joined with the next. In
    long sections cuts are made between paragraphs, else lines, else sentences, else words. Each chunk of a table has
    its head.

    Args:
        sections: the document, in order.
        size: tokens that a chunk has at most.
        overlap: tokens that are repeated from the chunk before, at most; never more than half of `size`.
    """
    overlap = min(overlap, size // 2)
    return [
        chunk
        for section in _joined(sections, size)
        for window in _windows(section)
        for chunk in _cut(window, size, overlap)
    ]


def _joined(sections: Sequence[Section], size: int) -> Iterator[Section]:
    held: Section | None = None
    for section in sections:
        if held is not None and _belong(held, section, size):
            headings = _shared(held.headings, section.headings)
            held = Section(held.text + section.text, held.start, headings, held.page)
            continue
        if held is not None and not _is_heading_of(held, section):
            yield held
        held = section
    if held is not None:
        yield held


def _is_heading_of(first: Section, second: Section) -> bool:
    """Whether the first is a mere heading, which the second has above it."""
    headings = first.headings
    return bool(headings) and second.headings[: len(headings)] == headings and first.text.strip("#= \n") == headings[-1]


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """The headings that both have above them."""
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _belong(first: Section, second: Section, size: int) -> bool:
    """Whether the second continues the first, or the first is too small to stand alone and the second small as well."""
    if first.page != second.page or first.start + len(first.text) != second.start:
        return False
    if first.headings == second.headings and not _TABLE_HEAD.match(second.text):
        return len(first.text) + len(second.text) <= _WINDOW
    small = count_tokens(first.text[: size * 8])
    return small < size // 4 and small + count_tokens(second.text[: size * 8]) <= size


def _windows(section: Section) -> Iterator[Section]:
    """The section, in pieces where it is very long."""
    begin, text = 0, section.text
    while len(text) - begin > _WINDOW:
        end = text.rfind("\n", begin + _WINDOW // 2, begin + _WINDOW) + 1 or begin + _WINDOW
        yield Section(text[begin:end], section.start + begin, section.headings, section.page)
        begin = end
    yield Section(text[begin:], section.start + begin, section.headings, section.page) if begin else section


def _cut(section: Section, size: int, overlap: int) -> Iterator[Chunk]:
    starts, ends, breaks = _tokens(section.text)
    head, extra = _table_head(section.text, size // 4)
    first, total = 0, len(starts)
    while first < total:
        repeated = extra if first else 0
        room = size - repeated
        last = total if total - first <= room else _best(breaks, first + room // 2 + 1, first + room)
        text = section.text[starts[first] : ends[last - 1]]
        start = section.start + starts[first]
        shown = head + text if repeated else text
        yield Chunk(shown, start, start + len(text), last - first + repeated, section.headings, section.page)
        first = total if last == total else last if head else _resume(breaks, last - overlap, last)


def _table_head(text: str, most: int) -> tuple[str, int]:
    """The head of the Markdown table that a text is, and its tokens; nothing where it would take more than `most`."""
    match = _TABLE_HEAD.match(text)
    tokens = count_tokens(match[0]) if match else 0
    return (match[0], tokens) if match and tokens <= most else ("", 0)


def _best(breaks: bytearray, low: int, high: int) -> int:
    """The last of the best places to cut from `low` to `high`."""
    return max(range(low, high + 1), key=lambda place: (breaks[place], place))


def _resume(breaks: bytearray, low: int, cut: int) -> int:
    """Where the next chunk begins: with the first whole sentence that may be repeated, else within one."""
    return next((place for place in range(low, cut) if breaks[place]), low)


def _tokens(text: str) -> tuple["array[int]", "array[int]", bytearray]:
    """Where tokens begin and end, and how well the text can be cut before each: 3 paragraph, 2 line, 1 sentence."""
    starts, ends, breaks = array("L"), array("L"), bytearray()
    end = 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        breaks.append(_break(text, end, start))
        starts.append(start)
        end = match.end()
        ends.append(end)
    return starts, ends, breaks


def _break(text: str, end: int, start: int) -> int:
    lines = text.count("\n", end, start)
    if lines:
        return min(lines, 2) + 1
    ended = end > 0 and text[end - 1] in _SENTENCE_END
    return int(ended and (start > end or text[end - 1] > "\u2e80"))
