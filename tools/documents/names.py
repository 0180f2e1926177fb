"""What a file is stored as: a name that is safe in a path, a prompt and a header, and that is still free."""

import re
import unicodedata
from collections.abc import Container

LONGEST = 120
"""Characters of a name, the extension among them."""
LONGEST_BYTES = 200
"""Bytes of a name. Most file systems take 255; programs that work on the file may add something."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)
"""Names that Windows takes for devices, with any extension."""
_EXTENSION = re.compile(r"\.(?:tar\.)?[^\W_][\w+-]{0,15}$")


def safe_name(name: str, taken: Container[str]) -> str:
    """The name under which a file is stored.

    Folders, control and invisible characters, marks that turn the direction of text and characters that some systems
    forbid are gone; it begins with no dot, is in normal form C and short, and keeps its extension.

    Args:
        name: what a stranger calls the file; may be a path of any system.
        taken: names that there are. It never becomes one of them: `report (2).csv`.
    """
    last = re.split(r"[/\\]", name)[-1][:2000]
    spaced = " ".join("".join(map(_allowed, unicodedata.normalize("NFC", last))).split())
    # Taking characters out can bring together what composes.
    stem, extension = _parts(unicodedata.normalize("NFC", spaced).lstrip(". ").rstrip(". "))
    if _RESERVED.match(stem + extension):
        stem = "_" + stem
    found, number = _joined(stem, "", extension), 1
    while found in taken:
        number += 1
        found = _joined(stem, f" ({number})", extension)
    return found


def _allowed(character: str) -> str:
    """The character, what stands for it, or nothing."""
    if character in '<>:"|?*':
        return "_"
    if character.isspace():
        return " "
    # Cc, Cf, Cs, Co, Cn: controls, invisible ones, halves of characters, and what is not assigned.
    return "" if unicodedata.category(character).startswith("C") else character


def _parts(name: str) -> tuple[str, str]:
    """Stem and extension. What begins with a dot or is long is no extension."""
    found = _EXTENSION.search(name)
    if found is None or found.start() == 0:
        return name or "file", ""
    return name[: found.start()].rstrip(". ") or "file", found.group()


def _joined(stem: str, mark: str, extension: str) -> str:
    """The name, its stem cut to what there is room for."""
    rest = mark + extension
    room = LONGEST_BYTES - len(rest.encode())
    short = stem[: LONGEST - len(rest)].encode()[:room].decode(errors="ignore")
    return short.rstrip(". ") + rest
