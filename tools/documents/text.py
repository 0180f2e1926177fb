"""Text from a stranger: decoded, brought on one line, cut into pieces."""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

# utf-32 first: its mark begins with that of utf-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file. Its position moves to the end."""
    return file.seek(0, 2)


def read_text(file: BinaryIO, most: int) -> str:
    """The text of a file: its first `most` bytes, decoded, with `\\n` at the ends of lines."""
    file.seek(0)
    return clean(decode(file.read(most)))


def decode(data: bytes) -> str:
    """Bytes as text. What cannot be decoded becomes U+FFFD; nothing is raised.

    A byte order mark decides. Without one it is UTF-8, if but a few of the characters beyond ASCII are damaged, and
    Windows-1252 else, which holds Latin-1 too.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    # The last character may be cut off by the limit of reading.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    damaged = text.count("\ufffd")
    if damaged and damaged * 50 > sum(map(len, re.findall("[^\x00-\x7f]+", text))):
        return data.decode("cp1252", "replace")
    return text


def clean(text: str) -> str:
    """Text that can be kept and sent anywhere: no control characters and no lone surrogates, `\\n` at ends of lines."""
    return _NOT_TEXT.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def one_line(text: str, longest: int) -> str:
    """Text that may stand within a sentence: one line, no controls, nothing invisible or that turns its direction.

    What is longer than `longest` characters ends in `…`.
    """
    # Enough for the cut, unless there is much white space.
    seen = (character for character in text[: longest * 8] if character.isprintable() or character.isspace())
    line = " ".join("".join(seen).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def split(text: str, longest: int) -> Iterator[str]:
    """Cuts text into pieces of at most `longest` characters, which laid end to end are the text.

    It is cut behind a blank line, the end of a line or a space, as far as there is one in the second half of a piece.
    """
    start = 0
    while len(text) - start > longest:
        end = start + longest
        for mark in ("\n\n", "\n", " "):
            if (found := text.rfind(mark, start + longest // 2, end)) >= 0:
                end = found + len(mark)
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def scaled(number: int, seen: int, size: int) -> int:
    """What a number would be for all `size` bytes of a file of which the first `seen` gave it, in round thousands."""
    return (number * size // seen + 500) // 1000 * 1000


def span(noun: str, first: int, number: int) -> str:
    """Some of many: `rows 51 to 100`, `row 101`."""
    return f"{noun}s {first} to {first + number - 1}" if number > 1 else f"{noun} {first}"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 page`, `1,200 pages`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
