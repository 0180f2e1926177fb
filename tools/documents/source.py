"""Source code of any language: divided at its top-level definitions."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from tools.documents.kinds import LANGUAGES
from tools.documents.plain import READ
from tools.documents.section import Section
from tools.documents.text import counted, one_line, read_text

_WORDS = (
    "def|class|func|function|fn|fun|sub|struct|enum|union|interface|protocol|trait|impl|type|module|namespace|object|"
    "record|macro_rules!|extension|create (?:or replace )?(?:table|view|function|procedure|trigger|index)"
)
_BEFORE = (
    "export|default|public|private|protected|internal|static|final|abstract|async|pub|pub\\([^)\n]{1,40}\\)|unsafe|extern|"
    "const|constexpr|inline|virtual|override|open|sealed|data|case|template|typedef|partial|declare|local|global"
)
_DEFINITION = re.compile(
    rf"(?:(?:{_BEFORE})\s+){{0,6}}(?:{_WORDS})\*?(?:<[^>\n]{{0,60}}>)?\s+(?:\([^)\n]{{0,100}}\)\s*)?([\w$.]+(?:::[\w$]+)*)",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?:export\s+)?(?:const|let|var)\s+([\w$]+)\s*=\s*(?:async\b|function\b|\(|[\w$]+\s*=>)")
_ABOVE = ("@", "#[", "//", "/*", " *", "--", "# ", "#\n", "///", "[")
"""How a line begins that belongs to the definition below it: decorators, attributes, comments."""
_JUDGED = 200
"""Characters of a line that are looked at: code that was minified has lines of megabytes."""
_C_LIKE = {"text/x-c", "text/x-c++", "text/x-java", "text/x-csharp"}


def describe(file: BinaryIO, kind: str) -> str:
    """The language, lines, and what is defined."""
    text = read_text(file, READ)
    names = [name for _, name in _definitions(text, kind) if name]
    lines = text.count("\n") + (not text.endswith("\n"))
    told = (
        f"; defines {', '.join(one_line(name, 40) for name in names[:8])}{', …' if len(names) > 8 else ''}"
        if names
        else ""
    )
    return f"{LANGUAGES[kind]} source: {counted(lines, 'line')}{told}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """The text from one top-level definition to the next; what stands before the first one comes as it is."""
    text = read_text(file, READ)
    begin, name = 0, ""
    for start, following in _definitions(text, kind):
        if start > begin:
            yield Section(text[begin:start], headings=_path(name))
        begin, name = start, following
    yield Section(text[begin:], headings=_path(name))


def _path(name: str) -> tuple[str, ...]:
    return (one_line(name, 100),) if name else ()


def _definitions(text: str, kind: str) -> Iterator[tuple[int, str]]:
    """Where each definition that is not indented begins, with its comments and decorators, and its name."""
    at = 0
    begin: int | None = None
    for line in text.splitlines(keepends=True):
        judged = line[:_JUDGED]
        if (name := _defined(judged, kind)) is not None:
            yield at if begin is None else begin, name
            begin = None
        elif not judged.startswith(_ABOVE):
            begin = None
        elif begin is None:
            begin = at
        at += len(line)


def _defined(line: str, kind: str) -> str | None:
    """The name that a line defines; None where it defines nothing."""
    if not line or line[0].isspace():
        return None
    if found := _DEFINITION.match(line) or _VALUE.match(line):
        return found.group(1)
    return _c_function(line) if kind in _C_LIKE else None


def _c_function(line: str) -> str | None:
    """The name of the function whose definition a line of C or the like begins: a type, a name, and no `;`."""
    before, bracket, after = line.partition("(")
    words = before.replace("*", " ").split()
    return words[-1] if bracket and len(words) > 1 and ";" not in after and "=" not in before else None
