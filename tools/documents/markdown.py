"""Markdown: divided at its headings."""

from collections.abc import Iterator
from typing import BinaryIO

from tools.documents.headings import Headings
from tools.documents.plain import READ
from tools.documents.section import Section
from tools.documents.text import counted, one_line, read_text

_FENCES = ("```", "~~~")


def describe(file: BinaryIO, kind: str) -> str:
    """Headings and words."""
    text = read_text(file, READ)
    titles = [title for _, level, title in _headings(text) if level]
    first = f"; first heading: {one_line(titles[0], 100)}" if titles else ""
    return f"Markdown: {counted(len(text.split()), 'word')}, {counted(len(titles), 'heading')}{first}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The text from one heading to the next."""
    text = read_text(file, READ)
    headings = Headings()
    begin = 0
    for start, level, title in _headings(text):
        if start > begin:
            yield Section(text[begin:start], headings=headings.path)
        headings.enter(level, title)
        begin = start
    yield Section(text[begin:], headings=headings.path)


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each heading begins, its level and what it says. Code between fences has none."""
    start = 0
    # What stands between the first lines of dashes is data about the document.
    fence = "---" if text.startswith("---\n") else ""
    above = ""
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        if fence:
            fence = "" if start and stripped.startswith(fence) else fence
        elif stripped.startswith(_FENCES):
            fence = stripped[:3]
        elif stripped.startswith("#") and (level := _level(line)):
            yield start, level, stripped.strip("#").strip()
        elif (
            above.strip()
            and stripped
            and (stripped.strip("=") == "" or (len(stripped) > 2 and not stripped.strip("-")))
        ):
            yield start - len(above), 1 if stripped[0] == "=" else 2, above.strip()
        above = "" if fence or stripped.startswith(("#", *_NO_TITLE)) else line
        start += len(line)


# A line of these is no paragraph, so that what follows does not underline it.
_NO_TITLE = ("- ", "* ", "+ ", ">", "|", "---", "===")


def _level(line: str) -> int:
    """The level of a heading that begins with `#`; 0 where it is none."""
    marks = line.lstrip(" ")
    level = len(marks) - len(marks.lstrip("#"))
    indented = len(line) - len(marks) > 3
    return level if level <= 6 and not indented and marks[level : level + 1] in (" ", "\t", "\n", "") else 0
