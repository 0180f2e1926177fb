"""A piece of a document, as its own structure divides it."""

from msgspec import Struct


class Section(Struct, frozen=True, omit_defaults=True):
    """A run of text under one heading and on one page."""

    text: str
    start: int = 0
    """Where it begins in the document's whole text, in characters."""
    headings: tuple[str, ...] = ()
    """The headings above it, the outermost first."""
    page: int | None = None
    """Page, slide or sheet, from 1."""
