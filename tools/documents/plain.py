"""Text without a structure that would be known: in pieces at paragraphs."""

from collections.abc import Iterator
from typing import BinaryIO

from tools.documents.kinds import LANGUAGES
from tools.documents.section import Section
from tools.documents.text import counted, one_line, read_text, scaled, size_of

READ = 24 * 1024**2
"""Bytes of a text that are read."""
_COUNTED = 8 * 1024**2


def describe(file: BinaryIO, kind: str) -> str:
    """Lines, words and how it begins. Of a large file the numbers are estimated."""
    text = read_text(file, _COUNTED)
    ends, rest = text.count("\n"), not text.endswith("\n")
    words = len(text.split())
    about = ""
    if (size := size_of(file)) > _COUNTED:
        about, ends, words = "about ", scaled(ends, _COUNTED, size), scaled(words, _COUNTED, size)
    begin = one_line(text[:2000].strip().partition("\n")[0], 100)
    return f"{_noun(kind)}: {about}{counted(ends + rest, 'line')}, {counted(words, 'word')}; begins: {begin}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The whole text. It is for the reader to cut it."""
    yield Section(read_text(file, READ))


def _noun(kind: str) -> str:
    if kind in LANGUAGES:
        return f"{LANGUAGES[kind]} source"
    return _NOUNS.get(kind, "Text")


_NOUNS = {
    "text/x-rst": "reStructuredText",
    "text/x-tex": "TeX source",
    "application/xml": "XML",
    "image/svg+xml": "SVG image",
    "application/yaml": "YAML",
    "application/toml": "TOML",
    "application/rtf": "RTF source",
    "message/rfc822": "E-mail",
    "text/calendar": "Calendar",
    "text/vtt": "Subtitles",
    "application/x-subrip": "Subtitles",
}
