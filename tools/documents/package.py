"""The zip containers that office documents are: looked over before a library unpacks them, against bombs."""

import zipfile
from typing import BinaryIO

from tools.documents.section import Unreadable

_ENTRIES = 20_000
_UNPACKED = 500 * 1024**2
"""Bytes that all entries may have. zipfile never gives more of an entry than its directory declares."""
_PARSED = 100 * 1024**2
"""Bytes of XML that is parsed as a whole, which takes some ten times as much memory."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The methods that the standard of office documents allows (ISO/IEC 29500-2, 7.3)."""


def check(file: BinaryIO, *, streamed: str = "\0") -> None:
    """Makes sure that a container can be unpacked.

    Args:
        file: the container.
        streamed: entries whose name begins so are read piece by piece, whatever their size.

    Raises:
        Unreadable: it is encrypted, uses what office documents do not, or would become too large.
    """
    with zipfile.ZipFile(file) as container:
        entries = container.infolist()
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("The document is encrypted: it cannot be read without its password.")
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise Unreadable("The document is packed in a way that office documents are not.")
    parsed = (
        e.file_size for e in entries if e.filename.endswith((".xml", ".rels")) and not e.filename.startswith(streamed)
    )
    if len(entries) > _ENTRIES or sum(e.file_size for e in entries) > _UNPACKED or sum(parsed) > _PARSED:
        raise Unreadable("The document is too large once it is unpacked.")
