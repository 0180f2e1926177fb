"""Word documents (docx): paragraphs, headings, lists and tables in their order.

Not read: headers and footers of pages, footnotes, comments, and what was deleted while changes were tracked.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

from docx import Document
from docx.document import Document as Opened
from docx.oxml.ns import qn

from tools.documents import package, table
from tools.documents.headings import Headings
from tools.documents.section import Section
from tools.documents.text import counted, one_line

Element = Any
"""An element of lxml, which has no types."""

_ROOM = 4000
"""Characters of paragraphs that share a section, about."""
_PARAGRAPH, _TABLE = qn("w:p"), qn("w:tbl")
_ROW, _CELL = qn("w:tr"), qn("w:tc")
_TEXT = {qn("w:t"): None, qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_LEFT_OUT = {
    qn("w:pPr"),
    qn("w:rPr"),
    qn("w:del"),
    qn("w:moveFrom"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
"""Elements without text of the document: formats, what was deleted, and copies of drawings for older programs."""


def describe(file: BinaryIO, kind: str) -> str:
    """Paragraphs, headings, tables and words."""
    document = _open(file)
    styles = _styles(document)
    paragraphs = tables = words = 0
    titles = []
    for block in _blocks(document.element.body):
        if block.tag == _TABLE:
            tables += 1
            words += len(_text(block).split())
        elif text := _text(block).strip():
            paragraphs += 1
            words += len(text.split())
            if _level(block, styles):
                titles.append(text)
    first = f'"{one_line(document.core_properties.title or (titles or [""])[0], 150)}", '
    return (
        f"Word document: {first if len(first) > 4 else ''}{counted(paragraphs, 'paragraph')}, "
        f"{counted(len(titles), 'heading')}, {counted(tables, 'table')}, {counted(words, 'word')}"
    )


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """Paragraphs and tables under each heading."""
    document = _open(file)
    styles = _styles(document)
    headings = Headings()
    lines: list[str] = []
    room = _ROOM
    for block in _blocks(document.element.body):
        level = 0 if block.tag == _TABLE else _level(block, styles)
        if lines and (level or block.tag == _TABLE or room < 0):
            yield Section("".join(lines), headings=headings.path)
            lines, room = [], _ROOM
        if block.tag == _TABLE:
            yield from table.sections(_rows(block), header=True, headings=headings.path)
        elif text := _text(block).strip():
            if level:
                headings.enter(level, text)
            lines.append(f"{_mark(block, styles, level)}{text}\n\n")
            room -= len(text)
    if lines:
        yield Section("".join(lines), headings=headings.path)


def _open(file: BinaryIO) -> Opened:
    package.check(file)
    return Document(file)


def _styles(document: Opened) -> dict[str, str]:
    """The names of the styles by their ids, in lower case."""
    return {style.style_id: (style.name or "").lower() for style in document.styles}


def _blocks(body: Element) -> Iterator[Element]:
    """The paragraphs and tables of the body, also those within content controls and tracked insertions.

    `Document.iter_inner_content` gives only those that lie directly in the body.
    """
    waiting = [iter(body)]
    while waiting:
        element = next(waiting[-1], None)
        if element is None:
            waiting.pop()
        elif element.tag in (_PARAGRAPH, _TABLE):
            yield element
        elif element.tag not in _LEFT_OUT:
            waiting.append(iter(element))


def _text(block: Element) -> str:
    """All the text in an element, tracked insertions, links and text boxes too; paragraphs end in a line end."""
    pieces: list[str] = []
    waiting = [iter(block)]
    while waiting:
        element = next(waiting[-1], None)
        if element is None:
            waiting.pop()
        elif element.tag in _TEXT:
            pieces.append(_TEXT[element.tag] or element.text or "")
        elif element.tag not in _LEFT_OUT:
            if element.tag == _PARAGRAPH and pieces:
                pieces.append("\n")
            waiting.append(iter(element))
    return "".join(pieces)


def _style(block: Element, styles: dict[str, str]) -> str:
    found = block.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
    return styles.get(found.get(qn("w:val")), "") if found is not None else ""


def _level(block: Element, styles: dict[str, str]) -> int:
    """The level of the heading that a paragraph is; 0 where it is none."""
    style = _style(block, styles)
    if style == "title":
        return 1
    name, _, number = style.rpartition(" ")
    return int(number) if name == "heading" and number in "123456789" else 0


def _mark(block: Element, styles: dict[str, str], level: int) -> str:
    if level:
        return "#" * min(level, 6) + " "
    return "- " if _style(block, styles).startswith("list ") else ""


def _rows(block: Element) -> Iterator[list[str]]:
    """The rows of a table. `Table.rows` repeats a cell as often as a file says that it spans."""
    for row in block.iterchildren(_ROW):
        yield [_text(cell).strip() for cell in row.iterchildren(_CELL)]
