"""Excel workbooks (xlsx, xlsm): the rows of each sheet, with the values that Excel had last computed.

A formula that no program has computed since it was written has no value: its cell is empty.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from itertools import islice
from typing import Any, BinaryIO

from openpyxl import load_workbook

from tools.documents import package, table
from tools.documents.section import Section
from tools.documents.text import counted, one_line

_ROWS = 1_048_576
"""Rows of a sheet at most, by Excel's own limit. A file may name a row far beyond, and all before are then empty."""
_CELLS = 20_000_000
"""Cells of a sheet that are looked at. A row with but one cell may have 18,278 of them, as far as names go."""
_COUNTED = 20_000
"""Rows of a sheet that are counted to describe it."""
_SHEETS = 200


def describe(file: BinaryIO, kind: str) -> str:
    """Sheets with their rows and columns."""
    with _opened(file) as book:
        sheets = book.worksheets
        told = "; ".join(_sheet(sheet) for sheet in sheets[:5])
        more = "; …" if len(sheets) > 5 else ""
        return f"Excel workbook, {counted(len(sheets), 'sheet')}: {told}{more}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The rows of each sheet, some 50 at a time, under the name of the sheet."""
    with _opened(file) as book:
        for number, sheet in enumerate(book.worksheets[:_SHEETS], 1):
            name = one_line(sheet.title, 100)
            rows = (row for row in _rows(sheet, _ROWS) if row)
            yield from table.sections(rows, headings=(name,), page=number)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Any]:
    package.check(file, streamed="xl/worksheets/")
    book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    try:
        yield book
    finally:
        book.close()


def _sheet(sheet: Any) -> str:
    claimed = sheet.max_row
    seen = list(_rows(sheet, _COUNTED))
    rows = [row for row in seen if row]
    header = table.has_header(rows)
    number = len(rows) - header
    count = counted(number, "row")
    if len(seen) == _COUNTED:
        more = isinstance(claimed, int) and _COUNTED < claimed <= _ROWS
        count = f"about {counted(claimed - header, 'row')}" if more else f"{count} or more"
    name = one_line(sheet.title, 40)
    return f"{name} ({count}, {table.columns(rows)})" if rows else f"{name} (empty)"


def _rows(sheet: Any, most: int) -> Iterator[list[str]]:
    """The rows without the empty cells at their ends; empty rows are empty lists."""
    # What a file says of a sheet's size is but a claim, by which rows would be filled up.
    sheet.reset_dimensions()
    cells = 0
    for values in islice(sheet.iter_rows(values_only=True), most):
        cells += len(values)
        if cells > _CELLS:
            return
        row = [_cell(value) for value in values]
        while row and not row[-1]:
            row.pop()
        yield row


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return format(value, ".15g")
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case datetime():
            return value.isoformat(" ", "seconds")
        case date() | time():
            return value.isoformat()
    return str(value)
