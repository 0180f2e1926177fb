"""Text as terms to search by: words of any script, identifiers with their parts, and for scripts without spaces pairs
of characters.

What is asked and what is searched go through the same function, so a rule need not be right for a language to help it.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
"""For a character class: scripts that put no spaces between words, or (Korean) glue endings to them."""

LONGEST = 64
"""Characters of a term. What is longer is no word, and is found by its beginning."""

# Python's \w leaves out the vowel signs of Arabic, Hebrew and the scripts of India, which would cut words at them.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_RUNS = re.compile(f"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\\w{_MARKS}])+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
# HTTPResponse2 -> HTTP, Response, 2
_PARTS = re.compile(rf"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|(?:[^\W0-9a-zA-Z_]|[{_MARKS}])+")


def terms(text: str) -> list[str]:
    """The terms of a text, in order, with repetitions."""
    if not text.isascii():
        # Full width and ligatures as plain letters, then letters without their accents.
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    return [term for run in _RUNS.findall(text) for term in _terms(run)]


def asked(query: str, most: int = 64) -> list[str]:
    """The terms to search by, each once; at most `most` of them."""
    return list(dict.fromkeys(terms(query[: most * LONGEST])))[:most]


@lru_cache(maxsize=1 << 15)
def _terms(run: str) -> tuple[str, ...]:
    if _IS_UNSPACED.match(run):
        return (*run, *(first + second for first, second in pairwise(run)))
    whole = run.strip("_")[:LONGEST]
    found = [_stem(whole.casefold())] if whole else []
    parts = _PARTS.findall(whole)
    return tuple(found + [_stem(part.casefold()) for part in parts]) if len(parts) > 1 else tuple(found)


def _stem(word: str) -> str:
    """The word without an English plural's ending: Harman's S-stemmer (How Effective Is Suffixing?, 1991)."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word[:-1]
