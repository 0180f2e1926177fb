"""Presentations (pptx): the text of each slide, its tables and its notes."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from pptx import Presentation
from pptx.shapes.group import GroupShape
from pptx.slide import Slide

from tools.documents import package, table
from tools.documents.section import Section
from tools.documents.text import clean, counted, one_line

_DEEPEST = 20
"""Groups of shapes within each other that are looked into."""


def describe(file: BinaryIO, kind: str) -> str:
    """The number of slides and their titles."""
    slides = _slides(file)
    titles = [title for slide in slides if (title := one_line(_title(slide), 60))]
    return f"Presentation, {counted(len(slides), 'slide')}{': ' if titles else ''}{'; '.join(titles[:12])}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """A section for the text of each slide; its tables and notes follow."""
    for number, slide in enumerate(_slides(file), 1):
        title = one_line(_title(slide), 200)
        headings = (title,) if title else ()
        shapes = list(_shapes(slide.shapes))
        texts = [text for shape in shapes if shape.has_text_frame and (text := _clean(shape.text_frame.text))]
        if title and texts:
            texts = [f"# {title}", *(text for text in texts if one_line(text, 200) != title)]
        if texts:
            yield Section("\n\n".join(texts) + "\n\n", headings=headings, page=number)
        for shape in shapes:
            if getattr(shape, "has_table", False):
                yield from table.sections(_rows(shape.table), header=True, headings=headings, page=number)
        if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) and (notes := _clean(frame.text)):
            yield Section(f"Notes: {notes}\n\n", headings=headings, page=number)


def _slides(file: BinaryIO) -> list[Slide]:
    package.check(file)
    return list(Presentation(file).slides)


def _title(slide: Slide) -> str:
    title = slide.shapes.title
    return title.text_frame.text if title is not None and title.has_text_frame else ""


def _shapes(shapes: Iterable[Any], depth: int = 0) -> Iterator[Any]:
    """The shapes, also those within groups."""
    for shape in shapes:
        if isinstance(shape, GroupShape):
            if depth < _DEEPEST:
                yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape


def _rows(shown: Any) -> Iterator[list[str]]:
    for row in shown.rows:
        yield [_clean(cell.text) for cell in row.cells]


def _clean(text: str) -> str:
    return clean(text).strip()
