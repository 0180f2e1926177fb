"""Zip archives, and what is built like them: the names of their entries. Nothing is unpacked."""

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from tools.documents.section import Section
from tools.documents.text import counted, one_line

_NAMED = 8
_NOUNS = {
    "application/java-archive": "Java archive",
    "application/epub+zip": "EPUB book",
    "application/vnd.oasis.opendocument.text": "OpenDocument text",
    "application/vnd.oasis.opendocument.spreadsheet": "OpenDocument spreadsheet",
    "application/vnd.oasis.opendocument.presentation": "OpenDocument presentation",
    "application/vnd.oasis.opendocument.graphics": "OpenDocument drawing",
}


def describe(file: BinaryIO, kind: str) -> str:
    """How many files it has, how large they say they are, and the first names."""
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    size = sum(entry.file_size for entry in entries)
    names = ", ".join(one_line(entry.filename, 60) for entry in entries[:_NAMED])
    more = ", …" if len(entries) > _NAMED else ""
    locked = ", encrypted" if any(entry.flag_bits & 1 for entry in entries) else ""
    noun = _NOUNS.get(kind, "ZIP archive")
    return f"{noun}{locked}, {counted(len(entries), 'file')}, {size:,} bytes unpacked: {names}{more}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """Nothing: what is in it is read when it is unpacked. A damaged archive is found out, though."""
    with zipfile.ZipFile(file):
        return iter(())
