"""Values as models write them: JSON, Python literals, and what lies between the two.

Read are also: single, curly and triple quotes, keys without quotes, comments, commas too many, line breaks and quotes
within strings that nobody escaped, closing brackets that are wrong or missing. A value that is not there to its end is
`CutOff`: a program of which half is missing must not run.
"""

# ruff: noqa: RUF001 (models write curly quotes and wide colons)

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

MOST_STEPS = 40_000
"""Values and quotes that are looked at in one answer of a model: some tens of milliseconds."""
DEEPEST = 64

_SPACE = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*(?:[^*]|\*(?!/)){0,2000}\*/)*")
_QUOTE = re.compile(r"[rRfFbBuU]{0,2}(\"\"\"|'''|<\|\"\|>|[\"'`“”„‘’«])")
_CLOSING = {"“": '”“"', "”": '”“"', "„": '“”"', "‘": "’‘'", "’": "’‘'", "«": "»"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
# Markdown, which models mix in, escapes the underscore. Of other letters the backslash stays: "\d" is meant as it is.
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "_": "_"} | {mark: mark for mark in "\"'\\/`“”‘’"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]{0,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,4})?(?![\w.])")
_WORD = re.compile(r"[^\s,:{}\[\]()\"'“”<#][^\n,{}\[\]()\"“”]*")
_KEY = re.compile(r"[\w$@][\w$@.\-]*")
_EQUALS = re.compile(r"=>|[:：=]")
_TOKEN = re.compile(r"<[|｜](?!\"\|>)")
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "undefined": None}
_CLOSES = {"{": "}", "[": "]", "(": ")"}

_NEXT_KEY = re.compile(r",\s*(?:[}\])]|[\"'“”`]?[\w.\- ]{1,64}[\"'“”`]?\s*[:：=])")
_QUOTED_KEY = re.compile(r"[\"'“”][\w.\- ]{1,64}[\"'“”]\s*[:：]")
_KEY_ON_NEW_LINE = re.compile(r"[ \t]*\n\s*[\"'“”][\w.\- ]{1,64}[\"'“”]\s*[:：]")
_CLOSERS = re.compile(r"[\s}\])]*")


class Unreadable(Exception):
    """What stands there is no value. The text says why, for a model to read."""


class CutOff(Unreadable):
    """The text ends within a value."""


class Steps:
    """The work that is left for one answer: hostile text must not cost more than its length is worth."""

    def __init__(self, left: int = MOST_STEPS, *, cut_off: bool = False) -> None:
        self.left = left
        self.cut_off = cut_off
        """Whether the text was stopped where it ends: then its end closes nothing."""

    def take(self, steps: int = 1) -> None:
        """Some of it.

        Raises:
            Unreadable: nothing is left.
        """
        self.left -= steps
        if self.left < 0:
            raise Unreadable("it is too long")


class Pairs(Struct, frozen=True):
    """The arguments of a call written as in Python: `(1, b="x")`."""

    values: tuple[Any, ...]
    named: dict[str, Any]


def read_value(text: str, start: int, end: int, steps: Steps) -> tuple[Any, int]:
    """The value at `start`, and where it ends.

    Raises:
        Unreadable: there is none; `CutOff` where `end` comes before its end.
    """
    return _in_two_ways(lambda strict: _Scanner(text, start, end, steps, strict), _Scanner.value)


def read_pairs(text: str, start: int, end: int, steps: Steps) -> tuple[Pairs, int]:
    """What stands in the round brackets that open at `start`, and where they end.

    Raises:
        Unreadable: they hold something else; `CutOff` where `end` comes before their end.
    """
    return _in_two_ways(lambda strict: _Scanner(text, start, end, steps, strict), _Scanner.pairs)


def whole_value(text: str, steps: Steps) -> Any:
    """The value that the text is from end to end.

    Raises:
        Unreadable: it is none.
    """
    value, end = read_value(text, 0, len(text), steps)
    if text[end:].strip():
        raise Unreadable("something follows it")
    return value


Value = TypeVar("Value")


def _in_two_ways(scanner: "Callable[[bool], _Scanner]", read: "Callable[[_Scanner], Value]") -> tuple[Value, int]:
    """Reads as if all quotes in strings were escaped; else with the quotes that end nothing taken as text."""
    try:
        strict = scanner(True)
        return read(strict), strict.at
    except Unreadable as refused:
        first = refused
    try:
        loose = scanner(False)
        return read(loose), loose.at
    except Unreadable as refused:
        # The end of the text is the better reason, and the safer one.
        raise (first if isinstance(first, CutOff) else refused) from None


class _Scanner:
    """Reads one value from a text. `at` is where it stands."""

    def __init__(self, text: str, start: int, end: int, steps: Steps, strict: bool) -> None:
        self.at = start
        self._text = text
        self._end = end
        self._steps = steps
        self._strict = strict
        self._open: list[str] = []
        self._whole = False
        """Whether what was read last is there to its end, if the text ends here."""
        self._last = ""
        """The text that was read last."""

    def value(self) -> Any:
        self._steps.take()
        self._skip()
        mark = self._peek()
        if mark == "":
            raise CutOff("it ends where a value should stand")
        if mark == "{":
            # Braces doubled as in a template: "{{…}}".
            while not self._open and self._text.startswith("{{", self.at):
                self.at += 1
            return self._object()
        if mark in "[(":
            return self._array()
        if quote := _QUOTE.match(self._text, self.at, self._end):
            return self._string(quote)
        if number := _NUMBER.match(self._text, self.at, self._end):
            return self._number(number)
        return self._word()

    def pairs(self) -> Pairs:
        values: list[Any] = []
        named: dict[str, Any] = {}
        self._enter("(")
        while not self._leave(")"):
            key = _KEY.match(self._text, self.at, self._end)
            sign = key and _EQUALS.match(self._text, self._after_space(key.end()), self._end)
            if key and sign and not self._text.startswith("==", sign.start()):
                self.at = sign.end()
                named[key[0]] = self.value()
            else:
                values.append(self.value())
            self._separate()
        if len(values) == 1 and isinstance(values[0], dict) and not named:
            return Pairs((), values[0])
        return Pairs(tuple(values), named)

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._enter("{")
        while not self._leave("}"):
            key = self._key()
            self._skip()
            sign = _EQUALS.match(self._text, self.at, self._end)
            if sign is None:
                raise self._wrong("a colon")
            self.at = sign.end()
            found[key] = self.value()
            self._separate()
        return found

    def _array(self) -> list[Any]:
        found: list[Any] = []
        opening = self._text[self.at]
        self._enter(opening)
        while not self._leave(_CLOSES[opening]):
            found.append(self.value())
            self._separate()
        return found

    def _enter(self, bracket: str) -> None:
        if len(self._open) == DEEPEST:
            raise Unreadable("it is nested too deeply")
        self._open.append(bracket)
        self.at += 1
        self._whole = False
        self._skip()
        while self._peek() == ",":
            self.at += 1
            self._skip()

    def _leave(self, bracket: str) -> bool:
        """Whether the innermost bracket closes here, by its own sign, by that of an outer one, or by the end."""
        mark = self._peek()
        if mark == "":
            if not self._closed_by_end(bracket):
                raise CutOff("it ends in the middle")
            self._open.pop()
            return True
        if mark not in "}])":
            return False
        self._open.pop()
        if mark == bracket or all(mark != _CLOSES[outer] for outer in self._open):
            self.at += 1
        self._whole = True
        return True

    def _closed_by_end(self, bracket: str) -> bool:
        """Whether only closing brackets are missing, beyond doubt. A list within something else may have gone on."""
        if not self._strict or (self._steps.cut_off and self.at >= self._end):
            return False
        if bracket == "]" and len(self._open) > 1:
            return False
        return self._whole and all(self._last.count(a) == self._last.count(b) for a, b in ("()", "[]", "{}"))

    def _separate(self) -> None:
        """Steps over what stands between two elements. Where a comma came, another element may have been meant."""
        before = self.at
        self._skip()
        if self._peek() in (",", ";"):
            while self._peek() in (",", ";"):
                self.at += 1
                self._skip()
            self._whole = False
            return
        new_line = "\n" in self._text[before : self.at]
        self._whole = self._whole or new_line
        if self._peek() in ("", "}", "]", ")") or new_line or _QUOTED_KEY.match(self._text, self.at, self._end):
            return
        raise self._wrong("a comma")

    def _key(self) -> str:
        self._steps.take()
        if quote := _QUOTE.match(self._text, self.at, self._end):
            return str(self._string(quote, key=True))
        key = _KEY.match(self._text, self.at, self._end)
        if key is None:
            raise self._wrong("a key")
        self.at = key.end()
        return key[0].replace("\\_", "_")

    def _string(self, quote: re.Match[str], *, key: bool = False) -> str:
        mark = quote[1]
        begin = quote.end()
        finish = self._triple_end(mark, begin) if len(mark) > 1 else self._quoted_end(mark, begin, key)
        self.at = finish + len(mark)
        raw = self._text[begin:finish].strip(" " if mark == "«" else "")
        self._whole = bool(raw)
        self._last = raw
        return raw if "r" in quote[0][: -len(mark)].lower() or mark == '<|"|>' else _unescaped(raw)

    def _triple_end(self, mark: str, begin: int) -> int:
        finish = self._text.find(mark, begin, self._end)
        if finish < 0:
            raise CutOff("a string in it does not end")
        return finish

    def _quoted_end(self, mark: str, begin: int, key: bool) -> int:
        closing = _CLOSING.get(mark, mark)
        for found in _stops(closing).finditer(self._text, begin, self._end):
            if len(found[0]) == 1 and (self._strict or key or self._ends_string(found.end())):
                return found.start()
        raise CutOff("a string in it does not end")

    def _ends_string(self, at: int) -> bool:
        """Whether a quote just before `at` ends a string, to judge by what follows."""
        self._steps.take()
        if not self._open:
            return not self._text[at : self._end].strip()
        if _KEY_ON_NEW_LINE.match(self._text, at, self._end):
            return True
        after = self._after_space(at)
        mark = self._text[after] if after < self._end else ""
        if mark == ",":
            return self._open[-1] == "[" or bool(_NEXT_KEY.match(self._text, after, self._end))
        if mark not in {_CLOSES[bracket] for bracket in self._open}:
            return False
        closers = _CLOSERS.match(self._text, after, self._end)
        assert closers is not None
        rest = closers.end()
        return rest == self._end or self._text[rest] in ",<`;#/" or "\n" in closers[0]

    def _number(self, number: re.Match[str]) -> int | float:
        self.at = number.end()
        self._whole = False
        written = number[0].replace("_", "")
        if written.lstrip("+-").isdecimal():
            return int(written)
        value = float(written)
        if not math.isfinite(value):
            raise Unreadable("a number in it is too large")
        return value

    def _word(self) -> Any:
        """A constant, or a text without quotes."""
        word = _WORD.match(self._text, self.at, self._end)
        if word is None:
            raise self._wrong("a value")
        written = word[0].rstrip()
        self.at = word.end()
        self._whole = written.lower() in _CONSTANTS
        if self._whole:
            return _CONSTANTS[written.lower()]
        ends = bool(self._open) and self._peek() in (",", "\n", "", *(_CLOSES[bracket] for bracket in self._open))
        if not ends or not any(map(str.isalnum, written)):
            raise self._wrong("a value")
        return written.replace("\\_", "_")

    def _skip(self) -> None:
        self.at = self._after_space(self.at)

    def _after_space(self, at: int) -> int:
        space = _SPACE.match(self._text, at, self._end)
        return space.end() if space else at

    def _peek(self) -> str:
        """The next character; "" at the end, which a tag that closes something outside is, too."""
        if self.at >= self._end or self._text.startswith("</", self.at):
            return ""
        return self._text[self.at] if not _TOKEN.match(self._text, self.at) else ""

    def _wrong(self, wanted: str) -> Unreadable:
        if not self._peek():
            return CutOff("it ends in the middle")
        return Unreadable(f"{wanted} should stand before {self._text[self.at : self.at + 20]!r}")


def _stops(closing: str) -> re.Pattern[str]:
    return re.compile(rf"\\.|[{closing}]", re.DOTALL)


def _unescaped(raw: str) -> str:
    if "\\" not in raw:
        return raw
    return whole_characters(_ESCAPE.sub(_unescape, raw))


def _unescape(escape: re.Match[str]) -> str:
    written = escape[1]
    if len(written) > 1:
        return chr(int(written[1:], 16))
    return _ESCAPED.get(written, escape[0])


def whole_characters(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones replaced: those cannot be encoded."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
