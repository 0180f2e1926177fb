"""CSV and its kin: rows of text between delimiters."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from tools.documents import table
from tools.documents.kinds import TSV
from tools.documents.section import Section
from tools.documents.text import counted, read_text, scaled, size_of

_COUNTED = 16 * 1024**2
"""Bytes in which rows are counted."""
_READ = 24 * 1024**2
_SAMPLE = 65_536
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def describe(file: BinaryIO, kind: str) -> str:
    """Rows, columns and the delimiter. Of a large file the rows are estimated."""
    text = read_text(file, _COUNTED)
    delimiter = _delimiter(text, kind)
    sample = list(islice(_rows(text, delimiter), 1000))
    rows = sum(1 for _ in _rows(text, delimiter)) - table.has_header(sample)
    about = ""
    if (size := size_of(file)) > _COUNTED:
        about, rows = "about ", scaled(rows, _COUNTED, size)
    by = f" (delimiter: {_NAMES[delimiter]})" if delimiter != "," else ""
    return f"Table: {about}{counted(rows, 'row')}, {table.columns(sample)}{by}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The rows, some 50 at a time."""
    text = read_text(file, _READ)
    yield from table.sections(_rows(text, _delimiter(text, kind)))


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """The rows that are not empty."""
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        if any(row):
            yield row


def _delimiter(text: str, kind: str) -> str:
    """The delimiter that gives the first rows the same number of columns, and the more of them the better.

    The csv module's own sniffer takes quadratic time on some texts.
    """
    sample = text[:_SAMPLE]

    def rank(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in islice(_rows(sample, delimiter), 50)]
        widest = max(widths, default=1)
        return (widths.count(widest) / len(widths) if widest > 1 else 0.0, widest)

    preferred = "\t" if kind == TSV else ","
    return max((preferred, *(each for each in _NAMES if each != preferred)), key=rank)
