"""A piece of a document, as its own structure divides it, and the error where a file gives none."""

from msgspec import Struct


class Section(Struct, frozen=True, omit_defaults=True):
    """A run of text under one heading and on one page.

    Laid end to end, the texts of a document's sections are its whole text.
    """

    text: str
    start: int = 0
    """Where it begins in the document's whole text, in characters."""
    headings: tuple[str, ...] = ()
    """The headings above it, the outermost first."""
    page: int | None = None
    """Page, slide or sheet, from 1."""


class Unreadable(Exception):
    """A file cannot be read: it is damaged, encrypted, larger than can be worked on, or a trap. The text says so."""
