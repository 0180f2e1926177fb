"""Ordinary code as models write it (tests/data/), and the files that it finds in its folder."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import openpyxl
from msgspec import Struct, field
from PIL import Image

DATA = Path(__file__).parent / "data"


class Case(Struct, frozen=True):
    """Cells that run one after the other in one session."""

    id: str
    cells: list[str]
    expect: list[list[str]]
    """What each cell's output, value and error must hold; `^x`: the value is x."""
    expect_files: list[str] = []
    expect_error: list[int] = []
    """The cells that must fail."""
    needs: list[str] = field(default_factory=list)
    """Packages that need not be installed."""


def benign() -> Iterator[Case]:
    """The cases of benign.jsonl."""
    needs = {
        "B052-pandas-to-files": ["tabulate"],
        "B060-linear-regression": ["scipy"],
        "B093-scipy-optimize": ["scipy"],
    }
    for line in (DATA / "benign.jsonl").read_text().splitlines():
        told = json.loads(line)
        lists = (told["cells"], told["expect"], told["expect_files"], told["expect_error"])
        yield Case(told["id"], *lists, needs.get(told["id"], []))


def ordinary() -> Iterator[Case]:
    """The cases of ordinary.txt, whose head tells of its form."""
    for block in (DATA / "ordinary.txt").read_text().split("\n=== ")[1:]:
        name, _, rest = block.partition("\n")
        lines = rest.splitlines()
        end = next(number for number, line in enumerate(lines) if line.startswith((">>>", "!!!")))
        cells = "\n".join(lines[:end]).rstrip("\n").split("\n---\n")
        expected = [line[4:] for line in lines[end:] if line.startswith(">>> ")]
        fails = [len(cells) - 1] if "!!!" in lines[end:] else []
        yield Case(name, cells, [*([] for _ in cells[1:]), expected], [], fails)


def files() -> dict[str, bytes]:
    """The files, by name."""
    return {
        "data.csv": b"a,b\n1,2\n3,4\n5,6\n",
        "sales.csv": _sales(),
        "book.xlsx": _book(),
        "doc.pdf": _pdf("Quarterly report", "Revenue 1200"),
        "pic.png": _picture(),
        "nested.json": json.dumps(
            {
                "users": [
                    {"name": "u1", "orders": [{"id": 1, "v": 5}, {"id": 2, "v": 6}]},
                    {"name": "u2", "orders": [{"id": 3, "v": 7}]},
                ]
            }
        ).encode(),
        "text.txt": "The cat and the dog.\nA line.\nZürich\n".encode(),
    }


def _sales() -> bytes:
    rows = [f"2024-{1 + i % 6:02d}-{1 + i % 28:02d},{'ABC'[i % 3]},{10 + i * 3}" for i in range(60)]
    return "\n".join(["date,product,amount", *rows, ""]).encode()


def _book() -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for title, rows in {"Q1": [("x", 10), ("y", 20), ("z", 30)], "Q2": [("x", 5)]}.items():
        sheet = book.create_sheet(title)
        for row in (("name", "amount"), *rows):
            sheet.append(row)
    return _saved(book.save)


def _picture() -> bytes:
    return _saved(lambda file: Image.new("RGB", (64, 48), (200, 30, 30)).save(file, "PNG"))


def _saved(save: object) -> bytes:
    file = io.BytesIO()
    assert callable(save)
    save(file)
    return file.getvalue()


def _pdf(*lines: str) -> bytes:
    """A page with these lines, as plain as PDF allows."""
    text = "BT /F1 18 Tf 72 720 Td " + " 0 -24 Td ".join(f"({line}) Tj" for line in lines) + " ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, offsets = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode()
