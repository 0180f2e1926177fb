"""PDF: its text by pages."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from pypdf import PageObject, PasswordType, PdfReader

from tools.documents.section import Section, Unreadable
from tools.documents.text import counted, one_line

# It tells the log of every fault that it mends in a file.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_PAGES = 5000
"""Pages that are read."""
_TRIED = 3
"""Pages that are looked at for text, to describe a document."""


def describe(file: BinaryIO, kind: str) -> str:
    """Pages, title, whether it is encrypted, and whether there is text in it."""
    reader = PdfReader(file)
    if not _opened(reader):
        return "PDF, encrypted: it cannot be read without its password"
    pages = len(reader.pages)
    title = reader.metadata.title if reader.metadata else None
    named = f', "{one_line(str(title), 150)}"' if title else ""
    locked = ", encrypted (no password needed to read)" if reader.is_encrypted else ""
    if any(_text(page) for page in islice(reader.pages, _TRIED)):
        return f"PDF, {counted(pages, 'page')}{named}{locked}"
    where = "" if pages <= _TRIED else f" on its first {_TRIED} pages"
    return f"PDF, {counted(pages, 'page')}{named}{locked}; no text{where}, maybe pictures of pages"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The text of each page that has some."""
    reader = PdfReader(file)
    if not _opened(reader):
        raise Unreadable("The PDF is encrypted: it cannot be read without its password.")
    for number, page in enumerate(islice(reader.pages, _PAGES), 1):
        if text := _text(page):
            yield Section(f"{text}\n\n", page=number)


def _opened(reader: PdfReader) -> bool:
    """Whether it can be read: many documents are encrypted with an empty password."""
    return not reader.is_encrypted or reader.decrypt("") != PasswordType.NOT_DECRYPTED


def _text(page: PageObject) -> str:
    return page.extract_text().strip()
