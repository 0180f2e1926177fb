"""Documents: what a file is (`media_type`), what is told of it (`describe`), and its text (`sections`).

A format is a module with `describe(file, kind) -> str` and `sections(file, kind) -> Iterator[Section]`, and a line in
the table below. It is loaded when a file needs it: the libraries take a second, and a server never parses what
strangers send. `describe` and `sections` are made to run in a confined process, after `preload` in its warm parent.
They need an open file and nothing else: no network, no threads, no other file.

Covered here: what is read and given back is bounded, nothing of a file is executed, fetched or unpacked to disk, and
whatever a library makes of a damaged file, only `Unreadable` rises. Not covered: time, memory, and faults in native
code (lxml, Pillow). For these there is the process.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import BinaryIO, Protocol, cast

from tools.documents.kinds import CSV, DOCX, LANGUAGES, NDJSON, PPTX, TSV, XLSM, XLSX, is_text, media_type
from tools.documents.names import safe_name
from tools.documents.section import Section, Unreadable
from tools.documents.text import clean, one_line, size_of, split

__all__ = ["Section", "Unreadable", "describe", "is_text", "media_type", "preload", "safe_name", "sections"]

LONGEST_DESCRIPTION = 400
"""Characters of a description."""
LONGEST_TEXT = 20_000_000
"""Characters of a document's text; the rest is left out, and the last section says so."""
LONGEST_SECTION = 6000
"""Characters of a section."""
MOST_SECTIONS = 50_000
"""Sections of a document; the rest is left out, and the last section says so."""
DEEPEST = 12
"""Headings above a section."""


class Format(Protocol):
    """A module that reads a format. What it raises counts as: the file is damaged."""

    def describe(self, file: BinaryIO, kind: str) -> str:
        """What the file holds, in a line."""

    def sections(self, file: BinaryIO, kind: str) -> Iterator[Section]:
        """Its text in order. `start` need not be set, and sections may have any length."""


_ARCHIVES = (
    "application/zip",
    "application/java-archive",
    "application/epub+zip",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
    "application/vnd.oasis.opendocument.graphics",
)
_FORMATS = {
    CSV: "delimited",
    TSV: "delimited",
    XLSX: "workbook",
    XLSM: "workbook",
    DOCX: "word",
    PPTX: "slides",
    "application/pdf": "pdf",
    "application/json": "structured",
    NDJSON: "structured",
    "text/html": "webpage",
    "text/markdown": "markdown",
    **dict.fromkeys(LANGUAGES, "source"),
    **dict.fromkeys(_ARCHIVES, "archive"),
}
_OTHERS = ("plain", "picture", "binary")


def preload() -> None:
    """Loads all formats, with the libraries that they need.

    openpyxl loads numpy, whose OpenBLAS starts a thread for each core, unless OPENBLAS_NUM_THREADS is 1.
    """
    for name in {*_FORMATS.values(), *_OTHERS}:
        _load(name)


def describe(file: BinaryIO, name: str) -> str:
    """What a file holds, in a line of at most 400 characters: columns and rows, pages, sheets, keys, size of a picture.

    Text of the file that stands in it is on one line and without invisible characters. Numbers of large files are
    estimated, and then called so.

    Args:
        file: an open, seekable file.
        name: what it is called.

    Raises:
        Unreadable: it is damaged, or a trap.
    """
    if not size_of(file):
        return "Empty file"
    kind = media_type(file, name)
    try:
        with _reading(kind):
            about = _format(kind).describe(file, kind)
    except Unreadable:
        if not is_text(kind):
            raise
        about = f"{_load('plain').describe(file, 'text/plain')} (it is not valid {kind})"
    return one_line(about, LONGEST_DESCRIPTION)


def sections(file: BinaryIO, name: str) -> list[Section]:
    """A file's text in order, in sections of at most 6,000 characters; none where it holds no text.

    Tables are Markdown, each section of them with the header. A text that is not what it seems, such as damaged JSON,
    is given as it is.

    Args:
        file: an open, seekable file.
        name: what it is called.

    Raises:
        Unreadable: it is damaged, encrypted, or a trap.
    """
    kind = media_type(file, name)
    try:
        with _reading(kind):
            return _bounded(_format(kind).sections(file, kind))
    except Unreadable:
        if not is_text(kind):
            raise
        return _bounded(_load("plain").sections(file, kind))


def _load(name: str) -> Format:
    return cast(Format, import_module(f"{__name__}.{name}"))


def _format(kind: str) -> Format:
    return _load(
        _FORMATS.get(kind) or ("plain" if is_text(kind) else "picture" if kind.startswith("image/") else "binary")
    )


@contextmanager
def _reading(kind: str) -> Iterator[None]:
    """Makes `Unreadable` of all that a library raises, and keeps what it warns of to itself."""
    # Filters of warnings are the whole process's: texts, which may be read in a thread of a server, leave them alone.
    with nullcontext() if is_text(kind) else warnings.catch_warnings(action="ignore"):
        try:
            yield
        except Unreadable:
            raise
        except Exception as error:  # parsers answer damage with whatever comes: KeyError, struct.error, RecursionError
            reason = one_line(str(error), 150) or "no reason given"
            raise Unreadable(f"The file is damaged, or not what it seems: {type(error).__name__}: {reason}") from error


def _bounded(pieces: Iterator[Section]) -> list[Section]:
    """Sections of a bounded length and number, each with its place in the whole text."""
    found: list[Section] = []
    start = 0
    for piece in pieces:
        for text in split(clean(piece.text), LONGEST_SECTION):
            if start + len(text) > LONGEST_TEXT or len(found) == MOST_SECTIONS:
                return [*found, Section("[The rest of the file is left out: it is too long.]\n", start)]
            found.append(Section(text, start, piece.headings[:DEEPEST], piece.page))
            start += len(text)
    return found
