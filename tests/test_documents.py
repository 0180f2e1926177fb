"""Documents: what a file is, what is told of it, what it says; and that no file breaks the reader."""

import io
import random
import re
import resource
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from docx import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from msgspec import Struct
from PIL import Image
from pptx import Presentation
from pptx.util import Inches
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from tools.documents import Section, Unreadable, describe, media_type, preload, safe_name, sections

ROOT = Path(__file__).parent.parent


# ---------------------------------------------------------------------------------------------------- files


def saved(document: Any) -> bytes:
    """What a library's document is as a file."""
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def docx() -> bytes:
    document = Document()
    document.add_heading("Travel plan", 0)
    document.add_paragraph("Two weeks in the north.")
    document.add_heading("Packing", 1)
    document.add_paragraph("Boots", style="List Bullet")
    document.add_paragraph("A tent", style="List Bullet")
    table = document.add_table(2, 2)
    for cell, text in zip(
        (c for row in table.rows for c in row.cells), ("day", "place", "1", "Oslo | harbour"), strict=True
    ):
        cell.text = text
    document.add_heading("Money", 2)
    document.add_paragraph("Enough.")
    return saved(document)


def pptx() -> bytes:
    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    assert first.shapes.title
    first.shapes.title.text = "Results"
    first.placeholders[1].text = "Sales rose\nCosts fell"
    notes = first.notes_slide.notes_text_frame
    assert notes
    notes.text = "Mention the strike"
    second = deck.slides.add_slide(deck.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(3), Inches(1)).table
    for at, text in {(0, 0): "year", (0, 1): "sum", (1, 0): "2024", (1, 1): "7"}.items():
        table.cell(*at).text = text
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "within a group"
    return saved(deck)


def xlsx() -> bytes:
    book = openpyxl.Workbook()
    sales = book.active
    assert sales is not None
    sales.title = "Sales"
    moment = datetime(2024, 1, 3, 4, 5, tzinfo=UTC).replace(tzinfo=None)
    for row in (["day", "region", "sum"], [date(2024, 1, 2), "North", 12.5], [moment, None, 7]):
        sales.append(row)
    book.create_sheet("Empty")
    book.create_sheet("Bare").append([1, True])
    return saved(book)


def pdf(*pages: str, title: str = "", password: str | None = None) -> bytes:
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        if text:
            font = DictionaryObject(
                {
                    NameObject("/Type"): NameObject("/Font"),
                    NameObject("/Subtype"): NameObject("/Type1"),
                    NameObject("/BaseFont"): NameObject("/Helvetica"),
                }
            )
            page[NameObject("/Resources")] = DictionaryObject(
                {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
            )
            content = DecodedStreamObject()
            content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1"))
            page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm="AES-256")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def picture(kind: str, frames: int = 1) -> bytes:
    file = io.BytesIO()
    images = [Image.new("RGB", (30, 20), (number * 40, 0, 0)) for number in range(frames)]
    images[0].save(file, kind, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return file.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def rezipped(data: bytes, entry: str, change: Callable[[bytes], bytes]) -> bytes:
    """A zip container with one entry changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return zipped(entries | {entry: change(entries[entry])})


MARKDOWN = """---
author: nobody
---
Before.
# One
text
```
# no heading
```
Two
---
more
### Deep
end
"""

PYTHON = '''"""A module."""

import os


# About the class.
@decorated
class Cat:
    def purr(self) -> None: ...


async def feed(cat: Cat) -> None:
    pass
'''

HTML = """<!DOCTYPE html><html><head><title>A &amp; B</title><style>p {color: red}</style></head><body>
<script>alert("never shown")</script>
<h1>Head
line</h1><p>One <b>two</b><br>three
<ul><li>apple<li><p>pear</p></ul><p hidden>unseen</p><div style="color: red; Display : None">unseen</div>
<h2>Sub</h2><table><tr><th>k<th>v</tr><tr><td><p>1</p><td>2</tr></table>
<pre>x = 1
  y</pre></body></html>
"""


class Good(Struct, frozen=True):
    """A good file, and all that is made of it."""

    name: str
    data: bytes
    type: str
    about: str
    text: tuple[tuple[str, tuple[str, ...], int | None], ...]
    """Text, headings and page of each section."""


DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

GOOD = (
    Good(
        "plan.docx", docx(), DOCX,
        'Word document: "Travel plan", 7 paragraphs, 3 headings, 1 table, 19 words',
        (
            ("# Travel plan\n\nTwo weeks in the north.\n\n", ("Travel plan",), None),
            ("# Packing\n\n- Boots\n\n- A tent\n\n", ("Packing",), None),
            ("| day | place |\n| --- | --- |\n| 1 | Oslo \\| harbour |\n\n", ("Packing", "row 1"), None),
            ("## Money\n\nEnough.\n\n", ("Packing", "Money"), None),
        ),
    ),
    Good(
        "deck.pptx", pptx(), PPTX,
        "Presentation, 2 slides: Results",
        (
            ("# Results\n\nSales rose\nCosts fell\n\n", ("Results",), 1),
            ("Notes: Mention the strike\n\n", ("Results",), 1),
            ("within a group\n\n", (), 2),
            ("| year | sum |\n| --- | --- |\n| 2024 | 7 |\n\n", ("row 1",), 2),
        ),
    ),
    Good(
        "book.xlsx", xlsx(), XLSX,
        "Excel workbook, 3 sheets: Sales (2 rows, 3 columns: day (date), region (text), sum (number)); Empty (empty); "
        "Bare (1 row, 2 columns: integer, boolean)",
        (
            ("| day | region | sum |\n| --- | --- | --- |\n"
             "| 2024-01-02 | North | 12.5 |\n| 2024-01-03 04:05:00 |  | 7 |\n\n",
             ("Sales", "rows 1 to 2"), 1),
            ("| column 1 | column 2 |\n| --- | --- |\n| 1 | true |\n\n", ("Bare", "row 1"), 3),
        ),
    ),
    Good(
        "two.pdf", pdf("First page", "", "Third page", title="A \u202ereport"), "application/pdf",
        'PDF, 3 pages, "A report"',
        (("First page\n\n", (), 1), ("Third page\n\n", (), 3)),
    ),
    Good("scan.pdf", pdf("", ""), "application/pdf", "PDF, 2 pages; no text, maybe pictures of pages", ()),
    Good(
        "open.pdf", pdf("Hidden", password=""), "application/pdf",
        "PDF, 1 page, encrypted (no password needed to read)",
        (("Hidden\n\n", (), 1),),
    ),
    Good(
        "people.csv", b'name,age,zip\nAnn,31,00123\n"Bo ""B"", jr",7,99999\n', "text/csv",
        "Table: 2 rows, 3 columns: name (text), age (integer), zip (text)",
        (
            ('| name | age | zip |\n| --- | --- | --- |\n| Ann | 31 | 00123 |\n| Bo "B", jr | 7 | 99999 |\n\n',
             ("rows 1 to 2",), None),
        ),
    ),
    Good(
        "utf16.csv", "städte;größe\n\"Köln\nam Rhein\";1,5\n".encode("utf-16"), "text/csv",
        "Table: 1 row, 2 columns: städte (text), größe (number) (delimiter: semicolon)",
        (("| städte | größe |\n| --- | --- |\n| Köln am Rhein | 1,5 |\n\n", ("row 1",), None),),
    ),
    Good(
        "latin.csv", "née\tdate\nÉmile\t2024-02-03\n".encode("latin-1"), "text/csv",
        "Table: 1 row, 2 columns: née (text), date (date) (delimiter: tab)",
        (("| née | date |\n| --- | --- |\n| Émile | 2024-02-03 |\n\n", ("row 1",), None),),
    ),
    Good(
        "bare.csv", b",2023,2024\nx,1,2\n", "text/csv",
        "Table: 2 rows, 3 columns: text, integer, integer",
        (
            ("| column 1 | column 2 | column 3 |\n| --- | --- | --- |\n|  | 2023 | 2024 |\n| x | 1 | 2 |\n\n",
             ("rows 1 to 2",), None),
        ),
    ),
    Good(
        "nested.json", b'{"id": 7, "tags": ["a", {"b": null}], "big": 123456789012345678901234567890}',
        "application/json",
        "JSON object, 3 keys: id (number), tags (array), big (number)",
        (
            ('"id": 7\n"tags": [\n  "a",\n  {\n    "b": null\n  }\n]\n"big": 123456789012345678901234567890\n\n',
             (), None),
        ),
    ),
    Good(
        "items.json", b'[{"id": 1, "name": "x"}, {"id": 2, "on": true}]', "application/json",
        "JSON array of 2 items with keys: id, name, on",
        (('{\n  "id": 1,\n  "name": "x"\n}\n{\n  "id": 2,\n  "on": true\n}\n\n', ("items 1 to 2",), None),),
    ),
    Good(
        "log.jsonl", b'{"a": 1}\n\n{"a": 2, "b": "x"}\n', "application/x-ndjson",
        "JSON Lines: 2 lines with keys: a, b",
        (('{"a": 1}\n{"a": 2, "b": "x"}\n\n', ("lines 1 to 2",), None),),
    ),
    Good(
        "page.html", HTML.encode(), "text/html",
        'Web page: "A & B", 15 words',
        (
            ("# Head line\n\nOne two\nthree\n\n- apple\n- pear\n\n", ("Head line",), None),
            ("## Sub\n\n| k | v |\n| 1 | 2 |\n\nx = 1\n  y\n\n", ("Head line", "Sub"), None),
        ),
    ),
    Good(
        "old.html", '<html><meta charset="windows-1251"><p>Привет</p></html>'.encode("windows-1251"), "text/html",
        "Web page: 1 word",
        (("Привет\n\n", (), None),),
    ),
    Good(
        "notes.md", MARKDOWN.encode(), "text/markdown",
        "Markdown: 19 words, 3 headings; first heading: One",
        (
            ("---\nauthor: nobody\n---\nBefore.\n", (), None),
            ("# One\ntext\n```\n# no heading\n```\n", ("One",), None),
            ("Two\n---\nmore\n", ("One", "Two"), None),
            ("### Deep\nend\n", ("One", "Two", "Deep"), None),
        ),
    ),
    Good(
        "cat.py", PYTHON.encode(), "text/x-python",
        "Python source: 13 lines; defines Cat, feed",
        (
            ('"""A module."""\n\nimport os\n\n\n', (), None),
            ("# About the class.\n@decorated\nclass Cat:\n    def purr(self) -> None: ...\n\n\n", ("Cat",), None),
            ("async def feed(cat: Cat) -> None:\n    pass\n", ("feed",), None),
        ),
    ),
    Good(
        "main.c", b"#include <a.h>\nint x = f(1);\nstatic int *run(char *s)\n{\n}\n", "text/x-c",
        "C source: 5 lines; defines run",
        (("#include <a.h>\nint x = f(1);\n", (), None), ("static int *run(char *s)\n{\n}\n", ("run",), None)),
    ),
    Good(
        "a.txt", "Grüße\r\nzwei\r\n".encode(), "text/plain", "Text: 2 lines, 2 words; begins: Grüße",
        (("Grüße\nzwei\n", (), None),),
    ),
    Good(
        "old.txt", "Grüße".encode("cp1252"), "text/plain", "Text: 1 line, 1 word; begins: Grüße",
        (("Grüße", (), None),),
    ),
    Good("c.yaml", b"a: 1\n", "application/yaml", "YAML: 1 line, 2 words; begins: a: 1", (("a: 1\n", (), None),)),
    Good("a.png", picture("PNG"), "image/png", "PNG image, 30 x 20 pixels, colour", ()),
    Good("a.jpg", picture("JPEG"), "image/jpeg", "JPEG image, 30 x 20 pixels, colour", ()),
    Good("a.webp", picture("WEBP"), "image/webp", "WEBP image, 30 x 20 pixels, colour", ()),
    Good("a.gif", picture("GIF", 3), "image/gif", "GIF image, 30 x 20 pixels, palette, 3 frames", ()),
    Good(
        "a.zip", zipped({"dir/": b"", "dir/a.txt": b"x" * 3000, "evil\u202e\n.txt": b""}), "application/zip",
        "ZIP archive, 2 files, 3,000 bytes unpacked: dir/a.txt, evil .txt", (),
    ),
    Good("a.db", b"SQLite format 3\0" + bytes(84), "application/vnd.sqlite3", "SQLite database", ()),
    Good("empty.csv", b"", "text/csv", "Empty file", ()),
)  # fmt: skip


def read(data: bytes, name: str) -> list[Section]:
    return sections(io.BytesIO(data), name)


def about(data: bytes, name: str) -> str:
    return describe(io.BytesIO(data), name)


def kind(data: bytes, name: str) -> str:
    return media_type(io.BytesIO(data), name)


def refused(data: bytes, name: str) -> str:
    """Why a file can be neither described nor read."""
    with pytest.raises(Unreadable) as raised:
        about(data, name)
    with pytest.raises(Unreadable, match=re.escape(str(raised.value))):
        read(data, name)
    return str(raised.value)


@pytest.mark.parametrize("good", GOOD, ids=[good.name for good in GOOD])
def test_good_file(good: Good) -> None:
    found = read(good.data, good.name)
    starts = [sum(len(section.text) for section in found[:number]) for number in range(len(found))]
    expected = [
        Section(text, start, headings, page) for (text, headings, page), start in zip(good.text, starts, strict=True)
    ]
    assert (kind(good.data, good.name), about(good.data, good.name), found) == (good.type, good.about, expected)


def test_loads_no_parser_until_it_needs_one() -> None:
    heavy = "('pypdf', 'openpyxl', 'docx', 'pptx', 'lxml', 'PIL')"
    code = (
        "import sys, tools.documents as documents, tools.files\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "documents.preload()\n"
        f"print([name for name in {heavy} if name not in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


# ------------------------------------------------------------------------------------------------ what it is

TYPES = {
    "a program called a picture": (b"\x7fELF\x02\x01\x01" + bytes(60), "cat.png", "application/x-elf"),
    "a Windows program": (b"MZ\x90\0\x03" + bytes(60), "a.docx", "application/vnd.microsoft.portable-executable"),
    "text called a picture": (b"not a picture", "a.png", "text/plain"),
    "text that begins like a program": (b"MZ is a rapper", "a.txt", "text/plain"),
    "text that begins like a bitmap": (b"BMW builds cars", "a", "text/plain"),
    "text about PDF": (b"The mark %PDF-1.4 begins it", "a.txt", "text/plain"),
    "a PDF behind rubbish": (b"\0\1\2 rubbish\n%PDF-1.4\n", "a.bin", "application/pdf"),
    "HTML called text": (b" <!-- hi --> <HTML><p>x", "a.txt", "text/html"),
    "Markdown that begins with a tag": (b"<p align=center>x</p>\n", "README.md", "text/markdown"),
    "XHTML": (b'<?xml version="1.0"?><!DOCTYPE html><html/>', "a.xml", "text/html"),
    "SVG": (b'<?xml version="1.0"?><!-- x --><svg/>', "a.xml", "image/svg+xml"),
    "XML": (b'<?xml version="1.0"?><r/>', "a.txt", "application/xml"),
    "JSON called text": (b'{"a": [1, 2]}', "a.txt", "application/json"),
    "no JSON": (b"[link](http://x)", "a.json", "text/plain"),
    "JSON that goes on": (b'{"a": "' + b"x\\n" * 5000 + b'", "b": tr', "a", "application/json"),
    "brackets that go on": (b"[TODO] write\n" * 5000, "a", "text/plain"),
    "lines of JSON": (b'{"a":1}\n[2]\n', "a.json", "application/x-ndjson"),
    "long lines of JSON": ((b'{"a":"' + b"x" * 5000 + b'"}\n') * 3, "a", "application/x-ndjson"),
    "longer lines of JSON": ((b'{"a":"' + b"x" * 9000 + b'"}\n') * 3, "a.jsonl", "application/x-ndjson"),
    "a table without a name": (b"a;b;c\n1;2;3\n4;5;6\n", "export", "text/csv"),
    "prose with commas": (b"Well, yes, no.\nOr, rather.\nOh, well, no.\n", "a.txt", "text/plain"),
    "Markdown without a name": (b"# A\n\n## B\n", "a", "text/markdown"),
    "a script": (b"#!/usr/bin/env python3\nprint()\n", "run", "text/x-python"),
    "UTF-16": ("\ufeffhé".encode("utf-16-be"), "a", "text/plain"),
    "UTF-8 cut within a character": (("é" * 5000).encode()[:-1], "a", "text/plain"),
    "zeros": (bytes(100), "a.txt", "application/octet-stream"),
    "random bytes": (random.Random(1).randbytes(5000), "a.csv", "application/octet-stream"),
    "WebP": (b"RIFF\0\0\0\0WEBPVP8 ", "a", "image/webp"),
    "MP4": (b"\0\0\0\x18ftypmp42\0\0", "a.mp3", "video/mp4"),
    "gzip": (b"\x1f\x8b\x08\0\0", "a.csv", "application/gzip"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(8), "a.xls", "application/vnd.ms-excel"),
    "an encrypted document": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(8), "a.docx", "application/x-ole-storage"),
    "any zip called docx": (zipped({"a.txt": b"x"}), "a.docx", "application/zip"),
    "docx called zip": (docx(), "a.zip", DOCX),
    "macros": (
        zipped({"xl/workbook.xml": b"", "xl/vbaProject.bin": b""}), "a.xlsx",
        "application/vnd.ms-excel.sheet.macroenabled.12",
    ),
    "OpenDocument": (
        zipped({"mimetype": b"application/vnd.oasis.opendocument.text"}, zipfile.ZIP_STORED), "a",
        "application/vnd.oasis.opendocument.text",
    ),
    "a zip that declares what it is not": (
        zipped({"mimetype": b"text/html"}, zipfile.ZIP_STORED), "a", "application/zip",
    ),
    "half a zip": (docx()[:5000], "a.docx", "application/zip"),
    "a directory that leads nowhere": (b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18, "a.zip", "application/zip"),
    "nothing": (b"", "a", "text/plain"),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPES)
def test_type_comes_from_content(case: str) -> None:
    data, name, expected = TYPES[case]
    assert kind(data, name) == expected


NAMES = {
    "report.csv": "report.csv",
    "../../etc/passwd": "passwd",
    r"C:\Users\ann\My  file .pdf": "My file.pdf",
    ".bashrc": "bashrc",
    "...": "file",
    "": "file",
    "a\0b\n\t c\x7f.txt": "ab c.txt",
    "photo\u202egnp.exe": "photognp.exe",
    "zero\u200bwidth\ufeff.md": "zerowidth.md",
    "e\u0301te\u0301.txt": "été.txt",
    "con.txt": "_con.txt",
    "COM1": "_COM1",
    "console.txt": "console.txt",
    'a<b>:"|?*.txt': "a_b______.txt",
    "half\ud800.txt": "half.txt",
    "a/b/": "file",
    "archive.tar.gz": "archive.tar.gz",
    "x" * 300 + ".docx": "x" * 115 + ".docx",
    "字" * 100 + ".csv": "字" * 65 + ".csv",
    "a." + "b" * 200: "a." + "b" * 118,
    "trailing. .": "trailing",
    "\u2067رمز.pdf": "رمز.pdf",
}


def test_names_are_safe() -> None:
    found = {name: safe_name(name, ()) for name in NAMES}
    assert found == NAMES
    assert {name: safe_name(name, ()) for name in NAMES.values()} == {name: name for name in NAMES.values()}


def test_names_are_never_taken() -> None:
    taken: list[str] = []
    for wanted in ("report.csv", "a/report.csv", "report.csv", "b.tar.gz", "b.tar.gz", "x" * 130, "x" * 130):
        taken.append(safe_name(wanted, taken))
    assert taken == [
        "report.csv", "report (2).csv", "report (3).csv", "b.tar.gz", "b (2).tar.gz", "x" * 120, "x" * 116 + " (2)"
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------- what it says


def test_long_table_repeats_its_header() -> None:
    data = b"id,name\n" + b"".join(b"%d,thing %d\n" % (number, number) for number in range(100_000))
    found = read(data, "a.csv")
    assert about(data, "a.csv") == "Table: 100,000 rows, 2 columns: id (integer), name (text)"
    assert len(found) == 2000
    assert {section.text[:28] for section in found} == {"| id | name |\n| --- | --- |\n| "[:28]}
    assert found[-1].headings == ("rows 99951 to 100000",)
    assert found[-1].text.endswith("\n| 99999 | thing 99999 |\n\n")


def test_large_files_are_estimated() -> None:
    rows = b"id;name\n" + b"1;xxxxx\n" * 3_000_000
    assert (
        about(rows, "a.csv")
        == "Table: about 3,000,000 rows, 2 columns: id (integer), name (text) (delimiter: semicolon)"
    )
    assert about(b"x" * 20_000_000, "a.txt") == f"Text: about 1 line, 0 words; begins: {'x' * 99}…"


def test_text_is_bounded() -> None:
    found = read(b"word " * 5_000_000, "a.txt")
    assert found[-1].text == "[The rest of the file is left out: it is too long.]\n"
    assert 19_990_000 < found[-1].start <= 20_000_000
    assert max(len(section.text) for section in found) == 6000


def test_number_of_sections_is_bounded() -> None:
    found = read(b"# h\n" * 60_000, "a.md")
    assert len(found) == 50_001
    assert found[-1] == Section("[The rest of the file is left out: it is too long.]\n", 200_000)


def test_long_text_is_cut_at_paragraphs() -> None:
    paragraph = "word " * 199 + "end.\n\n"
    found = read(paragraph.encode() * 100, "a.txt")
    assert "".join(section.text for section in found) == paragraph * 100
    assert {section.text[-6:] for section in found} == {"end.\n\n"}


def test_text_can_be_kept_anywhere() -> None:
    assert [section.text for section in read(b"a\x1b[31mb\x0cc\r\nd\rwith \x08", "a.txt")] == [
        "a\ufffd[31mb\nc\nd\nwith \ufffd"
    ]
    assert [section.text for section in read(b'["\\ud800"]', "a.json")] == ['["\\ud800"]']
    lone = rezipped(pptx(), "ppt/slides/slide1.xml", lambda xml: xml.replace(b"Costs", b"_x0000_\xf0\x9f\x98\x80"))
    assert read(lone, "a.pptx")[0].text == "# Results\n\nSales rose\n_x0000_\U0001f600 fell\n\n"


def test_description_of_a_hostile_file_is_one_quiet_line() -> None:
    names = [f"c{number}\u202e\u200b\r\n\x1b[2J" + "x" * 500 for number in range(200)]
    data = (";".join(f'"{name}"' for name in names) + "\n" + ";".join("1" for _ in names)).encode()
    told = about(data, "a.csv")
    assert told.startswith("Table: 1 row, 200 columns: c0 \ufffd[2Jxxxxxxxxxxxxxxxxxxxxxx… (integer), c1 \ufffd[2Jx")
    assert len(told) == 400
    assert told.isprintable()


def test_word_keeps_what_was_inserted_and_drops_what_was_deleted() -> None:
    document = Document()
    body = document.element.body
    for inner in (
        "<w:p {0}><w:r><w:t>kept </w:t></w:r><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>",
        "<w:sdt {0}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
    ):
        body.insert(len(body) - 1, parse_xml(inner.format(nsdecls("w"))))
    assert read(saved(document), "a.docx") == [Section("kept inserted\n\nin a control\n\n")]


def test_pdf_with_a_password() -> None:
    data = pdf("Secret", password="secret")
    assert about(data, "a.pdf") == "PDF, encrypted: it cannot be read without its password"
    with pytest.raises(Unreadable, match=r"^The PDF is encrypted: it cannot be read without its password\.$"):
        read(data, "a.pdf")


def test_where_a_picture_was_taken_stays_untold() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 15.0)
    file = io.BytesIO()
    Image.new("L", (3, 2)).save(file, "JPEG", exif=exif)
    assert about(file.getvalue(), "a.jpg") == "JPEG image, 3 x 2 pixels, grey"


# ------------------------------------------------------------------------------------------------ bombs


def test_damaged_text_is_read_as_it_is() -> None:
    data = b'{"a": ' * 100_000
    assert about(data, "a.json").endswith("… (it is not valid application/json)")
    assert "".join(section.text for section in read(data, "a.json")) == data.decode()
    field = b'a,b\n1,"' + b"x" * 200_000
    assert about(field, "a.csv") == "Text: 2 lines, 2 words; begins: a,b (it is not valid text/csv)"


def test_deep_documents() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert "".join(section.text for section in read(deep, "a.json")) == deep.decode()
    assert about(b"<html>" + b"<div>" * 100_000 + b"x", "a.html").startswith("Web page: ")
    nested = rezipped(docx(), "word/document.xml", lambda _: DEEP_WORD)
    assert refused(nested, "a.docx").startswith("The file is damaged, or not what it seems: XMLSyntaxError: ")


DEEP_WORD = b"<w:document %s><w:body>%s</w:body></w:document>" % (
    nsdecls("w").encode(),
    b"<w:sdt>" * 5000 + b"</w:sdt>" * 5000,
)


def undeclared(xml: bytes) -> bytes:
    return re.sub(rb"^<\?xml.*?\?>", b"", xml)


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">%s]>' % b"".join(
    b'<!ENTITY a%d "%s">' % (number, b"&a%d;" % (number - 1) * 10 if number else b"&a;" * 10) for number in range(12)
)


def test_a_billion_laughs() -> None:
    def laughing(xml: bytes) -> bytes:
        return LAUGHS + undeclared(xml).replace(b"Boots", b"&a11;")

    assert "Maximum entity amplification" in refused(rezipped(docx(), "word/document.xml", laughing), "a.docx")
    xml = LAUGHS + b"<l>&a11;</l>"
    assert [section.text for section in read(xml, "a.xml")] == [xml.decode()]


def test_entities_do_not_reach_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")

    def reaching(xml: bytes) -> bytes:
        doctype = f'<!DOCTYPE l [<!ENTITY a SYSTEM "{secret.as_uri()}">]>'.encode()
        return doctype + undeclared(xml).replace(b"Boots", b"&a;").replace(b"North", b"&a;").replace(
            b"Sales rose", b"&a;"
        )

    for name, data, entry in (
        ("a.docx", docx(), "word/document.xml"),
        ("a.pptx", pptx(), "ppt/slides/slide1.xml"),
    ):
        said = "".join(section.text for section in read(rezipped(data, entry, reaching), name))
        assert said
        assert "the secret" not in said
    assert "undefined entity" in refused(rezipped(xlsx(), "xl/worksheets/sheet1.xml", reaching), "a.xlsx")


def test_containers_that_would_burst() -> None:
    large = "The document is too large once it is unpacked."
    assert refused(rezipped(docx(), "word/document.xml", lambda xml: xml + b" " * 101 * 1024**2), "a.docx") == large
    many = rezipped(pptx(), "ppt/presentation.xml", lambda xml: xml)
    with zipfile.ZipFile(io.BytesIO(many)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert refused(zipped(entries | {f"x{number}": b"" for number in range(20_000)}), "a.pptx") == large
    packed = rezipped(xlsx(), "xl/workbook.xml", lambda xml: xml)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert (
        refused(zipped(entries, zipfile.ZIP_LZMA), "a.xlsx")
        == "The document is packed in a way that office documents are not."
    )


def test_sheets_that_claim_to_be_large() -> None:
    sheet = (
        b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/>'
        b'<sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>top</t></is></c></row>'
        b'<row r="99999999999"><c r="ZZZ99999999999"><v>1</v></c></row></sheetData></worksheet>'
    )
    data = rezipped(xlsx(), "xl/worksheets/sheet1.xml", lambda _: sheet)
    assert about(data, "a.xlsx").startswith(
        "Excel workbook, 3 sheets: Sales (about 1,048,575 rows, 1 column: top (empty)); Empty"
    )
    assert read(data, "a.xlsx")[0] == Section("| top |\n| --- |\n\n", headings=("Sales",), page=1)


def test_cells_that_claim_to_span() -> None:
    wide = rezipped(
        docx(), "word/document.xml", lambda xml: xml.replace(b"<w:tcPr>", b'<w:tcPr><w:gridSpan w:val="999999999"/>')
    )
    assert read(wide, "a.docx")[2].text == "| day | place |\n| --- | --- |\n| 1 | Oslo \\| harbour |\n\n"


def test_picture_that_claims_to_be_large() -> None:
    data = bytearray(picture("PNG"))
    data[16:24] = (200_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(Unreadable, match="DecompressionBombError"):
        about(bytes(data), "a.png")


BINARY = [
    good for good in GOOD if good.name in ("plan.docx", "deck.pptx", "book.xlsx", "two.pdf", "a.zip", "a.png", "a.gif")
]


@pytest.mark.parametrize("good", BINARY, ids=[good.name for good in BINARY])
def test_truncated_file(good: Good) -> None:
    for length in (30, len(good.data) // 4, len(good.data) * 3 // 4):
        data = good.data[:length]
        for look in (about, read):
            with suppress(Unreadable):
                assert len(look(data, good.name)) <= 400
    if good.type != "application/pdf" and not good.type.startswith("image/"):
        assert (
            refused(good.data[:-30], good.name)
            == "The file is damaged, or not what it seems: BadZipFile: File is not a zip file"
        )


MUTATIONS = 200
PATIENCE = 5.0


@pytest.mark.fuzz
def test_no_mutation_breaks_the_reader() -> None:
    """Each good file, changed at random from a fixed seed, in a process with little memory."""
    code = "from tests.test_documents import fuzz; fuzz()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{len(GOOD) * MUTATIONS} files\n"), done.stderr[-2000:]


def fuzz() -> None:
    """Reads mutations of the good files. It ends with an error where one breaks a promise."""
    preload()
    resource.setrlimit(resource.RLIMIT_AS, (2 * 1024**3,) * 2)
    chance = random.Random(4)
    number = 0
    for good in GOOD:
        for _ in range(MUTATIONS):
            data = mutated(good.data, chance)
            # A loop without an end ends the process.
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            with suppress(Unreadable):
                told = about(data, good.name)
                assert len(told) <= 400 and told.isprintable(), (good.name, told)
            with suppress(Unreadable):
                whole = 0
                for section in read(data, good.name):
                    assert section.start == whole and 0 < len(section.text) <= 6000, (good.name, section)
                    section.text.encode()
                    whole += len(section.text)
            number += 1
    print(number, "files")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with some of its bytes changed; of a container now and then what is packed in it."""
    if data.startswith(b"PK") and chance.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        entry = chance.choice([name for name in entries if entries[name]])
        return zipped(entries | {entry: mutated(entries[entry], chance)}, zipfile.ZIP_STORED)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(changed))
        length = chance.choice((1, 1, 2, 4, 40))
        match chance.randrange(5):
            case 0:
                changed[at : at + length] = chance.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length] * chance.choice((1, 3, 200))
            case 3:
                changed[at : at + length] = chance.choice(
                    (b"9" * 12, b"-1", b"\xff\xff\xff\xff", b"\0", b"<", b"<a>", b'"', b"&#0;")
                )
            case 4 if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)
