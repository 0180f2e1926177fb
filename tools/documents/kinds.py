"""What a file is: its media type by its content. The name decides only between kinds that content does not tell apart.

So a program renamed to `.png` is a program, and a text named `.docx` is a text.
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import PurePath
from typing import BinaryIO

from tools.documents.text import decode, size_of

UNKNOWN = "application/octet-stream"
CSV, TSV = "text/csv", "text/tab-separated-values"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLSM = "application/vnd.ms-excel.sheet.macroenabled.12"
NDJSON = "application/x-ndjson"
SQLITE = "application/vnd.sqlite3"

_HEAD = 8192
_DIRECTORY = 65_536
_ENTRIES = 500

_SURE = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"\0\0\1\0", "image/x-icon"),
    (0, b"SQLite format 3\0", SQLITE),
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"\xca\xfe\xba\xbe", "application/java-vm"),
    (0, b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (0, b"\xce\xfa\xed\xfe", "application/x-mach-binary"),
    (0, b"\0asm", "application/wasm"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (0, b"\x93NUMPY", "application/x-npy"),
    (0, b"\x1aE\xdf\xa3", "video/x-matroska"),
    (0, b"\0\1\0\0\0", "font/ttf"),
    (257, b"ustar\0", "application/x-tar"),
    (257, b"ustar  \0", "application/x-tar"),
)
"""Signatures that no text begins with: offset, bytes, type."""

_LIKELY = (
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"MZ", "application/vnd.microsoft.portable-executable"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"ARROW1", "application/vnd.apache.arrow.file"),
    (0, b"GGUF", "application/x-gguf"),
    (0, b"wOFF", "font/woff"),
    (0, b"wOF2", "font/woff2"),
    (0, b"OTTO", "font/otf"),
)
"""Signatures that a text could begin with: they count in what is no text."""

_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS = {b"avif": "image/avif", b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heic"}
_OLE = {".doc": "application/msword", ".xls": "application/vnd.ms-excel", ".ppt": "application/vnd.ms-powerpoint"}
_ZIPPED = (
    ("word/document.xml", DOCX),
    ("xl/vbaProject.bin", XLSM),
    ("xl/workbook.xml", XLSX),
    ("ppt/presentation.xml", PPTX),
    ("META-INF/MANIFEST.MF", "application/java-archive"),
)
"""Entries by which a zip container is known, the first counts."""

LANGUAGES = {
    "text/x-python": "Python",
    "text/javascript": "JavaScript",
    "text/x-typescript": "TypeScript",
    "text/x-java": "Java",
    "text/x-kotlin": "Kotlin",
    "text/x-scala": "Scala",
    "text/x-c": "C",
    "text/x-c++": "C++",
    "text/x-csharp": "C#",
    "text/x-go": "Go",
    "text/x-rust": "Rust",
    "text/x-swift": "Swift",
    "text/x-ruby": "Ruby",
    "text/x-php": "PHP",
    "text/x-perl": "Perl",
    "text/x-lua": "Lua",
    "text/x-r": "R",
    "text/x-julia": "Julia",
    "text/x-shellscript": "Shell",
    "text/x-sql": "SQL",
    "text/css": "CSS",
}
"""Source code: type and name of the language."""

_EXTENSIONS = {
    ".txt": "text/plain", ".log": "text/plain", ".text": "text/plain",
    ".md": "text/markdown", ".markdown": "text/markdown", ".rst": "text/x-rst", ".tex": "text/x-tex",
    ".csv": CSV, ".tsv": TSV, ".tab": TSV,
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".xml": "application/xml",
    ".yaml": "application/yaml", ".yml": "application/yaml", ".toml": "application/toml",
    ".ini": "text/plain", ".cfg": "text/plain", ".conf": "text/plain", ".eml": "message/rfc822",
    ".ics": "text/calendar", ".vtt": "text/vtt", ".srt": "application/x-subrip",
    ".py": "text/x-python", ".pyi": "text/x-python",
    ".js": "text/javascript", ".mjs": "text/javascript", ".cjs": "text/javascript", ".jsx": "text/javascript",
    ".ts": "text/x-typescript", ".tsx": "text/x-typescript",
    ".java": "text/x-java", ".kt": "text/x-kotlin", ".scala": "text/x-scala",
    ".c": "text/x-c", ".h": "text/x-c",
    ".cc": "text/x-c++", ".cpp": "text/x-c++", ".cxx": "text/x-c++", ".hpp": "text/x-c++", ".hh": "text/x-c++",
    ".cs": "text/x-csharp", ".go": "text/x-go", ".rs": "text/x-rust", ".swift": "text/x-swift",
    ".rb": "text/x-ruby", ".php": "text/x-php", ".pl": "text/x-perl", ".lua": "text/x-lua",
    ".r": "text/x-r", ".jl": "text/x-julia", ".sh": "text/x-shellscript", ".bash": "text/x-shellscript",
    ".sql": "text/x-sql", ".css": "text/css",
}  # fmt: skip
"""Kinds of text that only the name tells."""

_TEXTS = {
    "application/json",
    NDJSON,
    "application/xml",
    "application/yaml",
    "application/toml",
    "application/rtf",
    "application/x-subrip",
    "image/svg+xml",
    "message/rfc822",
}
"""Types of text that are not called so."""

_SHEBANGS = (
    ("python", "text/x-python"),
    ("node", "text/javascript"),
    ("perl", "text/x-perl"),
    ("sh", "text/x-shellscript"),
)


def media_type(file: BinaryIO, name: str) -> str:
    """The media type of a file.

    Reads some KB at its beginning and, of a zip container, some at its end: quick whatever the file is.

    Args:
        file: an open, seekable file. Its position moves.
        name: what it is called.
    """
    file.seek(0)
    head = file.read(_HEAD)
    extension = PurePath(name[-64:]).suffix.lower()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(file, head)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _OLE.get(extension, "application/x-ole-storage")
    if head.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"%PDF-"):
        return "application/pdf"
    if sure := _signature(head, _SURE):
        return sure
    if (text := _as_text(head)) is not None:
        return _written(text, extension, complete=len(head) < _HEAD)
    return _signature(head, _LIKELY) or _framed(head) or ("application/pdf" if b"%PDF-" in head[:1024] else UNKNOWN)


def is_text(kind: str) -> bool:
    """Whether files of this type are text that can be read as it is."""
    return kind.startswith("text/") or kind in _TEXTS


def _signature(head: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((kind for offset, mark, kind in table if head.startswith(mark, offset)), None)


def _framed(head: bytes) -> str | None:
    """The type of a format whose family stands at the beginning, and its kind behind a length."""
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    return None


def _as_text(head: bytes) -> str | None:
    """The beginning of a file as text; None where it holds what no text does."""
    text = decode(head)
    if _CONTROL.search(text) or text.count("\ufffd") > 1 + len(text) // 50:
        return None
    return text


# Beside white space, texts hold backspaces, escapes of terminals, and the end mark of DOS.
_CONTROL = re.compile("[\x00-\x07\x0e-\x19\x1c-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def _written(text: str, extension: str, *, complete: bool) -> str:
    """The type of a text: by marks that are sure, then by the name, then by its look."""
    begin = text.lstrip()[:2000].lower()
    root = re.sub("<[!?][^>]*>", "", begin).lstrip() if begin.startswith("<") else ""
    if root.startswith("<html") or begin.startswith("<!doctype html"):
        return "text/html"
    if root.startswith("<svg"):
        return "image/svg+xml"
    if begin.startswith("<?xml"):
        return "application/xml"
    if begin.startswith("{\\rtf"):
        return "application/rtf"
    if begin.startswith(("{", "[")) and (kind := _json(text, complete=complete)):
        return NDJSON if extension in (".jsonl", ".ndjson") else kind
    if extension in _EXTENSIONS and extension != ".txt":
        return _EXTENSIONS[extension]
    if begin.startswith("#!"):
        line = begin.partition("\n")[0]
        return next((kind for mark, kind in _SHEBANGS if mark in line), "text/plain")
    return _look(text, extension, complete=complete)


_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*(?:"|\\?\Z)')
_JSON_REST = re.compile(r'(?:[\[\]{}:,\s0-9.eE+-]|""|true|false|null)*(?:[a-z]{1,5}\Z)?')


def _json(text: str, *, complete: bool) -> str | None:
    """The type of a JSON document, or of lines of them; None where it is neither."""
    lines = [line for line in text.splitlines() if line.strip()]
    whole = lines if complete else lines[:-1]
    if len(lines) > 1 and whole and all(line.startswith(("{", "[")) and _parses(line) for line in whole):
        return NDJSON
    if complete:
        return "application/json" if _parses(text) else None
    return "application/json" if _JSON_REST.fullmatch(_STRING.sub('""', text)) else None


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_HEADING = re.compile(r"#{1,6} \S")
_MARKDOWN = re.compile(r"^(?:#{2,6} \S|```|[-*] \S)", re.MULTILINE)


def _look(text: str, extension: str, *, complete: bool) -> str:
    """The type of a text that has no telling name."""
    lines = text.splitlines()
    lines = [line for line in (lines if complete else lines[:-1])[:50] if line]
    for delimiter, fewest, kind in ((",", 2, CSV), (";", 2, CSV), ("\t", 1, TSV)):
        counts = {line.count(delimiter) for line in lines}
        if len(lines) >= 3 and len(counts) == 1 and min(counts) >= fewest:
            return kind
    # Files of settings begin with # too; they mostly have an extension of their own.
    headed = extension in ("", ".txt") and _HEADING.match(text) and _MARKDOWN.search(text)
    return "text/markdown" if headed else "text/plain"


_DECLARED = re.compile(
    rb"application/(?:epub\+zip|vnd\.oasis\.opendocument\.(?:text|spreadsheet|presentation|graphics))"
)


def _zipped(file: BinaryIO, head: bytes) -> str:
    """The type of a zip container, by the names of its entries."""
    # OpenDocument and EPUB say it in their first entry, which is stored without compression.
    if head[30:38] == b"mimetype" and (declared := _DECLARED.match(head, 38)):
        return declared.group().decode()
    names = set(_entries(file))
    return next((kind for entry, kind in _ZIPPED if entry in names), "application/zip")


def _entries(file: BinaryIO) -> Iterator[str]:
    """The first names in the central directory of a zip file, as far as they stand in its first 64 KB."""
    size = size_of(file)
    file.seek(max(0, size - 66_000))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return
    length, offset = struct.unpack_from("<II", tail, end + 12)
    file.seek(min(offset, size))
    directory = file.read(min(length, _DIRECTORY))
    at = 0
    for _ in range(_ENTRIES):
        if directory[at : at + 4] != b"PK\x01\x02" or len(directory) < at + 46:
            return
        name, extra, comment = struct.unpack_from("<HHH", directory, at + 28)
        yield directory[at + 46 : at + 46 + name].decode("utf-8", "replace")
        at += 46 + name + extra + comment
