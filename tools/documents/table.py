"""Tables: what their columns hold, and their rows as Markdown in pieces that each have the header."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from tools.documents.section import Section
from tools.documents.text import one_line, span

ROWS = 50
"""Rows of a section, at most."""
_ROOM = 5000
"""Characters of a section's rows, about."""
_HEADER_ROOM = 2000
"""A longer header is not repeated."""
_SAMPLE = 200
_NAMED = 12
"""Columns of which a description tells the names."""

Row = Sequence[str]

_KINDS = (
    ("integer", re.compile(r"[+-]?(?:0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)")),
    ("number", re.compile(r"[+-]?[$€£]? ?(?:\d+|\d{1,3}(?:[ ,]\d{3})+)?(?:[.,]\d+)?(?:[eE][+-]?\d+)? ?[%€$£]?")),
    ("date", re.compile(r"\d{4}-\d\d?-\d\d?(?:[T ]\d\d:\d\d.{0,20})?|\d\d?[./]\d\d?[./]\d{2,4}")),
    ("boolean", re.compile(r"true|false|yes|no", re.IGNORECASE)),
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_LEADING_ZERO = re.compile(r"0\d+")


def kind_of(values: Iterable[str]) -> str:
    """What the values of a column are: `integer`, `number`, `date`, `boolean`, `text`, or `empty`."""
    found = {_kind(value.strip()) for value in values} - {"empty"}
    if found == {"integer", "number"}:
        return "number"
    return found.pop() if len(found) == 1 else "text" if found else "empty"


def _kind(value: str) -> str:
    if not value:
        return "empty"
    # Postal codes and numbers of articles.
    if len(value) > 40 or _LEADING_ZERO.fullmatch(value) or not any(map(str.isalnum, value)):
        return "text"
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(value)), "text")


def has_header(rows: Sequence[Row]) -> bool:
    """Whether the first of some rows names the columns: all is text or a year, no name comes twice.

    The first name may be missing: so pandas writes an index.
    """
    first = [cell.strip() for cell in rows[0]] if rows else []
    kinds = ["year" if _YEAR.fullmatch(cell) else _kind(cell) for cell in first]
    named = kinds[1:] if kinds[:1] == ["empty"] else kinds
    return "text" in named and set(named) <= {"text", "year"} and len(set(first)) == len(first)


def columns(rows: Iterable[Row]) -> str:
    """The number of columns, with names and kinds: `2 columns: city (text), population (integer)`."""
    sample = list(islice(rows, _SAMPLE))
    width = max(map(len, sample), default=0)
    header, body = (sample[0], sample[1:]) if has_header(sample) else ((), sample)
    told = []
    for index in range(min(width, _NAMED)):
        kind = kind_of(row[index] for row in body if index < len(row))
        name = one_line(header[index], 30) if index < len(header) else ""
        told.append(f"{name} ({kind})" if name else kind)
    more = ", …" if width > _NAMED else ""
    return f"{width:,} column{'s' * (width != 1)}: {', '.join(told)}{more}"


def sections(
    rows: Iterable[Row], *, header: bool | None = None, headings: tuple[str, ...] = (), page: int | None = None
) -> Iterator[Section]:
    """A table as Markdown.

    Args:
        rows: its rows; they are drawn one by one.
        header: whether the first row names the columns; None: it is judged by its look.
        headings: what stands above the table.
        page: where it stands.
    """
    drawn = iter(rows)
    sample = list(islice(drawn, _SAMPLE))
    width = max(map(len, sample), default=0)
    if not width:
        return
    named = has_header(sample) if header is None else header
    names = sample[0] if named else [f"column {number}" for number in range(1, width + 1)]
    head = f"{_line(names, width)}\n|{' --- |' * width}\n"
    first = 1
    for group in _groups(chain(sample[named:], drawn), width):
        numbers = span("row", first, len(group))
        shown = head if first == 1 or len(head) <= _HEADER_ROOM else ""
        text = shown + "".join(f"{line}\n" for line in group) + "\n"
        yield Section(text, headings=(*headings, numbers), page=page)
        first += len(group)
    if first == 1:
        yield Section(head + "\n", headings=headings, page=page)


def _groups(rows: Iterable[Row], width: int) -> Iterator[list[str]]:
    """Rows as lines of Markdown, as many at once as a section takes."""
    group: list[str] = []
    room = _ROOM
    for row in rows:
        line = _line(row, width)
        if group and (len(group) == ROWS or len(line) > room):
            yield group
            group, room = [], _ROOM
        group.append(line)
        room -= len(line)
    if group:
        yield group


def _line(cells: Row, width: int) -> str:
    padded = (*cells, *("",) * (width - len(cells)))
    return f"| {' | '.join(map(_cell, padded))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
