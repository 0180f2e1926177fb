"""HTML: its text by headings, without what no reader sees."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from lxml import etree  # type: ignore[import-untyped]

from tools.documents.headings import Headings
from tools.documents.plain import READ
from tools.documents.section import Section
from tools.documents.text import counted, one_line, read_text

_HIDDEN = {
    "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "canvas", "audio", "video", "head",
    "select", "button", "textarea", "datalist", "map",
}  # fmt: skip
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "li", "main", "nav", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
}  # fmt: skip
_BEGINS = {"li": "- ", "tr": "| "}
_CLOSE = tuple(_BEGINS.values())
_CELLS = {"td", "th"}
_BREAK = "\v"
"""Stands for `<br>`: ends of lines in the file itself are but spaces."""
_WORD = re.compile(r"\w+(?:['\u2019.-]\w+)*")
# Not all that Python can decode: some of its encodings take quadratic time, and are not for pages.
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}charset\s{0,5}=\s{0,5}[\"']?"
    rb"(windows-125[0-8]|iso-8859-\d\d?|koi8-[ru]|gb2312|gbk|gb18030|big5|euc-jp|euc-kr|shift_jis)\b",
    re.IGNORECASE,
)
_TITLES = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}


def describe(file: BinaryIO, kind: str) -> str:
    """The title, and how much text there is."""
    root = _parse(file)
    title = root.findtext(".//title") if root is not None else None
    words = sum(len(_WORD.findall(section.text)) for section in _sections(root))
    named = f'"{one_line(title, 150)}", ' if title and title.strip() else ""
    return f"Web page: {named}{counted(words, 'word')}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The text from one heading to the next."""
    return _sections(_parse(file))


def _parse(file: BinaryIO) -> etree._Element | None:
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)
    text = _declared(file) or read_text(file, READ)
    return etree.fromstring(text.encode("utf-8", "replace"), parser)


def _declared(file: BinaryIO) -> str | None:
    """The text in the encoding that the page itself names, where that is one of the older ones."""
    file.seek(0)
    data = file.read(READ)
    found = _CHARSET.search(data[:2048])
    if found is None or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    return data.decode(found.group(1).decode(), "replace")


def _sections(root: etree._Element | None) -> Iterator[Section]:
    """The blocks of text under each heading."""
    headings = Headings()
    blocks: list[str] = []
    for level, block in _blocks(root):
        if level:
            if blocks:
                yield Section(_laid_out(blocks), headings=headings.path)
                blocks = []
            headings.enter(level, block)
        blocks.append(f"{'#' * level} {block}" if level else block)
    if blocks:
        yield Section(_laid_out(blocks), headings=headings.path)


def _laid_out(blocks: list[str]) -> str:
    """Blocks with a blank line between them; items of a list and rows of a table stand close together."""
    above = ["", *blocks]
    close = (last[:2] == block[:2] and block[:2] in _CLOSE for last, block in zip(above, blocks, strict=False))
    lines = (block if near else f"\n{block}" for near, block in zip(close, blocks, strict=True))
    return "\n".join(lines).removeprefix("\n") + "\n\n"


def _blocks(root: etree._Element | None) -> Iterator[tuple[int, str]]:
    """Runs of text with the level of the heading that they are, 0 for all others."""
    if root is None:
        return
    run = _Run()
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        if event == "start" and _is_hidden(element):
            walker.skip_subtree()
            run.skipped = True
        elif event == "start":
            if block := run.enter(element.tag):
                yield block
            run.add(element.text)
        else:
            if block := run.leave(element.tag):
                yield block
            run.add(element.tail)
    if block := run.end():
        yield block


def _is_hidden(element: etree._Element) -> bool:
    """Whether a browser would not show an element, as far as that does not take style sheets."""
    if element.tag in _HIDDEN or element.get("hidden") is not None:
        return True
    return "display:none" in (element.get("style") or "").replace(" ", "").lower()


class _Run:
    """The run of text that a walk through a page is in."""

    def __init__(self) -> None:
        self.skipped = False
        """Whether the element that ends next was skipped."""
        self._pieces: list[str] = []
        self._level = 0
        self._verbatim = 0
        self._cells = 0

    def add(self, text: str | None) -> None:
        """More text."""
        self._pieces.append(text or "")

    def enter(self, tag: str) -> tuple[int, str] | None:
        """An element begins. Gives the run that it ends, if it does."""
        ended = None
        if self._parts(tag):
            # A list item that begins with a paragraph is still one item.
            if "".join(self._pieces).strip() not in ("-", "|"):
                ended = self.end()
            self._level = _TITLES.get(tag, 0)
            if tag in _BEGINS:
                self._pieces = [_BEGINS[tag]]
        elif tag == "br":
            self.add(_BREAK)
        elif tag in _BLOCKS:
            self.add(" ")
        self._verbatim += tag == "pre"
        self._cells += tag in _CELLS
        return ended

    def leave(self, tag: str) -> tuple[int, str] | None:
        """An element ends. Gives the run that ends with it, if it does."""
        if self.skipped:
            self.skipped = False
            return None
        ended = self.end() if self._parts(tag) else None
        if tag in _CELLS:
            self.add(" | ")
        self._verbatim -= tag == "pre"
        self._cells -= tag in _CELLS
        return ended

    def end(self) -> tuple[int, str] | None:
        """The run as far as there is something in it; another begins."""
        text, level = "".join(self._pieces), self._level
        self._pieces, self._level = [], 0
        if self._verbatim:
            text = text.replace(_BREAK, "\n").strip("\n")
        else:
            lines = (" ".join(line.split()) for line in text.split(_BREAK))
            text = "\n".join(filter(None, lines))
        return (level, text) if text.strip(" \n|-") else None

    def _parts(self, tag: str) -> bool:
        """Whether an element stands for itself. Paragraphs within a cell of a table are part of their row."""
        return tag in _TITLES or (tag in _BLOCKS and not (self._cells and tag in ("p", "div")))
