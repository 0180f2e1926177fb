"""JSON, and lines of it: divided at the keys or items of its top.

Only the top is decoded. What is below stays text, so that depth and number of values cost nothing.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

import msgspec
from msgspec import Raw

from tools.documents.kinds import NDJSON
from tools.documents.section import Section
from tools.documents.text import counted, decode, one_line, size_of, span

_READ = 24 * 1024**2
_ROOM = 4000
"""Characters of small values that share a section."""
_NAMED = 15


def describe(file: BinaryIO, kind: str) -> str:
    """The keys at the top, or the number of items with their keys."""
    data = _data(file)
    if kind == NDJSON:
        lines = [line for line in data.splitlines() if line.strip()]
        about = "about " if size_of(file) > _READ else ""
        return f"JSON Lines: {about}{counted(len(lines), 'line')}{_keys(lines)}"
    match _top(data):
        case dict() as values:
            told = ", ".join(
                f"{one_line(key, 40)} ({_kind(bytes(value))})" for key, value in islice(values.items(), _NAMED)
            )
            return f"JSON object, {counted(len(values), 'key')}: {told}{', …' if len(values) > _NAMED else ''}"
        case list() as items:
            return f"JSON array of {counted(len(items), 'item')}{_keys(map(bytes, items))}"
    return f"JSON {_kind(data.strip())}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """Values one below the other, as JSON; small ones share a section."""
    data = _data(file)
    if kind == NDJSON:
        lines = (line.decode() for line in data.splitlines() if line.strip())
        return _grouped(lines, "line")
    match _top(data):
        case dict() as values:
            return _of_object(values)
        case list() as items:
            return _grouped((_pretty(item) for item in items), "item")
    return iter([Section(data.decode())])


def _data(file: BinaryIO) -> bytes:
    """The document in UTF-8."""
    file.seek(0)
    return decode(file.read(_READ)).encode("utf-8", "replace")


def _top(data: bytes) -> dict[str, Raw] | list[Raw] | None:
    """The values of an object or array; None where it is neither."""
    match data.lstrip()[:1]:
        case b"{":
            return msgspec.json.decode(data, type=dict[str, Raw])
        case b"[":
            return msgspec.json.decode(data, type=list[Raw])
    msgspec.json.decode(data)
    return None


def _keys(items: Iterable[bytes]) -> str:
    """The keys that the first items have, where they are objects."""
    found: dict[str, None] = {}
    for item in islice(items, 20):
        if item.lstrip().startswith(b"{"):
            found |= dict.fromkeys(msgspec.json.decode(item, type=dict[str, Raw]))
    told = ", ".join(one_line(key, 40) for key in islice(found, _NAMED))
    return f" with keys: {told}{', …' if len(found) > _NAMED else ''}" if found else ""


def _kind(value: bytes) -> str:
    match value[:1]:
        case b"{":
            return "object"
        case b"[":
            return "array"
        case b'"':
            return "text"
        case b"t" | b"f":
            return "boolean"
        case b"n":
            return "null"
    return "number"


def _pretty(value: Raw) -> str:
    return bytes(msgspec.json.format(bytes(value), indent=2)).decode()


def _of_object(values: dict[str, Raw]) -> Iterator[Section]:
    """Each large value under its key; runs of small ones together."""
    small: list[str] = []
    room = _ROOM
    for key, value in values.items():
        text = f"{msgspec.json.encode(key).decode()}: {_pretty(value)}\n"
        if small and len(text) > room:
            yield Section("".join(small) + "\n")
            small, room = [], _ROOM
        if len(text) > _ROOM // 4:
            if small:
                yield Section("".join(small) + "\n")
                small, room = [], _ROOM
            yield Section(text + "\n", headings=(one_line(key, 100),))
        else:
            small.append(text)
            room -= len(text)
    if small:
        yield Section("".join(small) + "\n")


def _grouped(items: Iterable[str], noun: str) -> Iterator[Section]:
    """Items in order, as many in a section as there is room for."""
    group: list[str] = []
    first, room = 1, _ROOM
    for item in items:
        if group and len(item) > room:
            yield _group(group, noun, first)
            first, group, room = first + len(group), [], _ROOM
        group.append(item)
        room -= len(item)
    if group:
        yield _group(group, noun, first)


def _group(group: list[str], noun: str, first: int) -> Section:
    return Section("\n".join(group) + "\n\n", headings=(span(noun, first, len(group)),))
