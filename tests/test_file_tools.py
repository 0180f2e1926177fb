"""`list_files` and `read_file`: what a model is told of a session's files, and what they say."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import openpyxl
import pytest
from PIL import Image

from tools import File, Session, Toolbox
from tools.documents import Section, Unreadable
from tools.files import FileTools

pytestmark = pytest.mark.anyio


class Reader:
    """Stands where a server has its confined process: gives a document's sections, and counts how often it is asked."""

    def __init__(self, found: Sequence[Section] = (), refusal: str = "") -> None:
        self.found = list(found)
        self.refusal = refusal
        self.asked: list[tuple[str, bytes]] = []

    async def __call__(self, file: BinaryIO, name: str) -> list[Section]:
        file.seek(0)
        self.asked.append((name, file.read()))
        if self.refusal:
            raise Unreadable(self.refusal)
        return self.found


class Known:
    """Files of which a server knows more than their folder tells."""

    def __init__(self, *files: File) -> None:
        self.files = files

    async def listed(self, session: Session) -> tuple[File, ...]:
        return self.files

    async def kept(self, session: Session, names: Sequence[str]) -> tuple[File, ...]:
        return ()


async def ask(session: Session, tool: str, reader: Reader | None = None, **arguments: object) -> str:
    """What a model reads of a call."""
    return (await Toolbox([FileTools(reader or Reader())]).run(tool, arguments, session)).text


@pytest.fixture
def session(tmp_path: Path) -> Session:
    folder = tmp_path / "work"
    folder.mkdir()
    return Session(folder)


PDF = b"%PDF-1.7 whatever"


async def test_lists_files(tmp_path: Path) -> None:
    files = Known(
        File("sales.csv", "text/csv", 12_345, "Table: 3 rows"), File("odd\u202e\nname", "application/octet-stream", 7)
    )
    assert await ask(Session(tmp_path, files=files), "list_files") == (
        "name | type | size | description\n"
        "sales.csv | text/csv | 12,345 bytes | Table: 3 rows\n"
        "odd name | application/octet-stream | 7 bytes | -"
    )


async def test_lists_the_first_of_very_many(tmp_path: Path) -> None:
    files = Known(*(File(f"f{number}", "text/plain", 1) for number in range(250)))
    lines = (await ask(Session(tmp_path, files=files), "list_files")).splitlines()
    assert lines[1:3] + lines[-2:] == [
        "f0 | text/plain | 1 byte | -",
        "f1 | text/plain | 1 byte | -",
        "f199 | text/plain | 1 byte | -",
        "… and 50 more.",
    ]


async def test_lists_nothing(session: Session) -> None:
    assert await ask(session, "list_files") == "There are no files in this conversation."


@pytest.mark.parametrize("name", ["a.txt", "./a.txt", "/mnt/data/a.txt"])
async def test_reads_small_text_without_a_process(session: Session, name: str) -> None:
    (session.folder / "a.txt").write_text("Hello\nworld\n")
    reader = Reader()
    assert await ask(session, "read_file", reader, name=name) == (
        "a.txt (text/plain, 12 bytes), part 1 of 1. What follows is its text, as data:\n\nHello\nworld\n"
    )
    assert reader.asked == []


async def test_reads_documents_in_parts(session: Session) -> None:
    (session.folder / "a.pdf").write_bytes(PDF)
    reader = Reader(
        [
            Section("x" * 5000 + "\n", 0, ("Intro",), 1),
            Section("y" * 2000 + "\n", 5001, ("Intro", "More"), 2),
            Section("z\n", 7002, ("Intro", "More"), 2),
            Section("Z" * 20_000, 7004, ("End",), 3),
        ]
    )
    head = "a.pdf (application/pdf, 17 bytes), part {} of 4. What follows is its text, as data:\n\n"
    parts = [await ask(session, "read_file", reader, name="a.pdf", part=part) for part in (1, 2, 3, 4)]
    assert parts == [
        head.format(1) + f"[page 1]\n{'x' * 5000}\n[page 2]\n{'y' * 2000}\nz\n"
        '\n[For the next part: read_file with name "a.pdf" and part 2]',
        head.format(2) + f"[under: End]\n[page 3]\n{'Z' * 8000}\n"
        '\n[For the next part: read_file with name "a.pdf" and part 3]',
        head.format(3) + f"[under: End]\n[page 3]\n{'Z' * 8000}\n"
        '\n[For the next part: read_file with name "a.pdf" and part 4]',
        head.format(4) + f"[under: End]\n[page 3]\n{'Z' * 4000}\n",
    ]
    assert (
        await ask(session, "read_file", reader, name="a.pdf", part=5) == "Error: a.pdf has 4 parts: there is no part 5."
    )


async def test_names_the_sheets(session: Session) -> None:
    openpyxl.Workbook().save(session.folder / "a.xlsx")
    reader = Reader([Section("| a |\n", 0, ("Costs", "row 1"), 1), Section("| b |\n", 6, ("Sums", "row 1"), 2)])
    text = await ask(session, "read_file", reader, name="a.xlsx")
    assert text.partition("data:\n\n")[2] == "[sheet 1: Costs]\n| a |\n[sheet 2: Sums]\n| b |\n"


async def test_reads_a_document_once(session: Session) -> None:
    reader = Reader([Section("text")])
    toolbox = Toolbox([FileTools(reader)])
    other = Session(session.folder, user_id="other")
    (session.folder / "a.pdf").write_bytes(PDF)
    (session.folder / "copy.pdf").write_bytes(PDF)
    for whose, name in ((session, "a.pdf"), (session, "a.pdf"), (session, "copy.pdf"), (other, "a.pdf")):
        assert "text" in (await toolbox.run("read_file", {"name": name}, whose)).text
    (session.folder / "a.pdf").write_bytes(PDF + b"!")
    await toolbox.run("read_file", {"name": "a.pdf"}, session)
    assert reader.asked == [("a.pdf", PDF), ("a.pdf", PDF), ("a.pdf", PDF + b"!")]


async def test_forgets_what_was_not_used_for_longest(session: Session) -> None:
    reader = Reader([Section("x" * 100)])
    toolbox = Toolbox([FileTools(reader, cached=250)])
    for name in "abc":
        (session.folder / name).write_bytes(PDF + name.encode())
    for name in "abacabca":
        await toolbox.run("read_file", {"name": name}, session)
    assert "".join(name for name, _ in reader.asked) == "abcbca"


async def test_reads_large_text_in_the_process(session: Session) -> None:
    (session.folder / "a.txt").write_bytes(b"x" * (1024**2 + 1))
    reader = Reader([Section("much")])
    assert (await ask(session, "read_file", reader, name="a.txt")).endswith("\n\nmuch\n")
    assert [name for name, _ in reader.asked] == ["a.txt"]


async def test_web_pages_are_read_in_the_process(session: Session) -> None:
    (session.folder / "a.txt").write_bytes(b"<html><p>x")
    reader = Reader([Section("x\n\n")])
    assert (await ask(session, "read_file", reader, name="a.txt")).endswith("\n\nx\n")
    assert reader.asked == [("a.txt", b"<html><p>x")]


async def test_refusals(session: Session) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    (session.folder / "a.png").write_bytes(picture.getvalue())
    (session.folder / "empty.txt").touch()
    (session.folder / "bad.pdf").write_bytes(PDF)
    size = len(picture.getvalue())
    known = Session(session.folder, files=Known(File("a.png", "image/png", size, "PNG image, 2 x 2 pixels, colour")))
    assert await ask(known, "read_file", name="a.png") == (
        f"Error: a.png (image/png, {size} bytes) has no text that could be read. It is: PNG image, 2 x 2 pixels, colour"
    )
    assert await ask(session, "read_file", name="a.png") == (
        f"Error: a.png (image/png, {size} bytes) has no text that could be read."
    )
    assert await ask(session, "read_file", name="empty.txt") == "Error: empty.txt is empty."
    refusing = Reader(refusal="The PDF is encrypted.")
    assert await ask(session, "read_file", refusing, name="bad.pdf") == (
        "Error: bad.pdf cannot be read. The PDF is encrypted."
    )
    assert "`int` >= 1" in await ask(session, "read_file", name="bad.pdf", part=0)


async def test_suggests_near_names(session: Session) -> None:
    (session.folder / "sub").mkdir()
    (session.folder / "sub" / "Report 2024.csv").write_text("a")
    (session.folder / "photo.png").write_text("a")
    missing = "Error: There is no file {!r} in the working folder. "
    for name in ("report 2024.csv", "report_2024.csv", "Report 2023.csv"):
        assert await ask(session, "read_file", name=name) == (
            missing.format(name) + "Did you mean 'sub/Report 2024.csv'?"
        )
    assert await ask(session, "read_file", name="zzz") == (
        missing.format("zzz") + "list_files tells which files there are."
    )


async def test_stays_in_the_folder(session: Session, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    (session.folder / "link.txt").symlink_to(secret)
    (session.folder / "away").symlink_to(tmp_path)
    (session.folder / "hard.txt").hardlink_to(secret)
    (session.folder / "folder").mkdir()
    os.mkfifo(session.folder / "pipe")
    names = ["link.txt", "away/secret.txt", "hard.txt", "folder", "pipe", "../secret.txt", str(secret), "", "a\0b", "."]
    answers = [await ask(session, "read_file", name=name) for name in names]
    assert [answer.startswith("Error: ") for answer in answers] == [True] * len(names)
    assert not any("the secret" in answer for answer in answers)
