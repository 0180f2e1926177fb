"""How far the voices of a debate agree: what each one's answer is, which answers are the same, and who wins a vote.

    kind = kind_of(question)
    position = Position("voice 1", 0, read_answer(text, kind, options_of(question)))
    measure = measure_closed(positions, {"voice 1": 1.0, "voice 2": 1.0}, threshold=0.8)

Pure functions on frozen values. What they read was written by models and strangers: any text is taken, and of a long
one only the ends are looked at. Where two answers may or may not be the same they are kept apart: a split that is none
costs a round of debate, an agreement that is none costs the right answer.
"""

# ruff: noqa: RUF001, SIM905 - signs that look like others are what this is about; long lists of words read best as text

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Kind = Literal["number", "choice", "yes_no", "span", "open"]
"""The kinds of answers that a question may ask for. A span is a name or a few words; all but `open` can be counted."""


class Closed(Struct, frozen=True, omit_defaults=True, tag="closed"):
    """An answer that can be compared by its key."""

    kind: Kind
    key: str
    """The same for all ways to write this answer."""
    text: str
    """As the voice wrote it: one line, at most `LONGEST` characters, no control characters."""
    loose: tuple[str, ...] = ()
    """Keys of less exact answers that may mean this one: the bare number, where this one has a unit."""


class Open(Struct, frozen=True, tag="open"):
    """An answer that has no key: free text. To a closed question it is no answer."""

    text: str


LONGEST = 200
"""Characters of an answer that can be compared. What is longer is no short answer."""
_END = 16_000
"""Characters that are read of the end of a text: that is where answers stand."""
_QUESTION = 8_000
"""Characters that are read of the end of a question."""
_MARKS = 32
"""Marked lines that are tried, from the last."""

Read = Callable[[str], Closed | None]


def read_answer(text: str, expected: Kind | None = None, options: Mapping[str, str] | None = None) -> Closed | Open:
    """What a voice answers, by the kind of answer that the question asks for.

    A marked answer counts first, the last one most: a boxed formula, a line "Answer: …" (in some languages), a sentence
    "The answer is …", then what is bold in the last line. Only where nothing is marked the text itself is searched, for
    its last number or its first word. Block quotes and fenced blocks are not the voice's own words, and not read.

    Args:
        text: All that the voice said.
        expected: None takes only what cannot be read in two ways.
        options: The answers that the question offers, by their letters; as `options_of` finds them.

    Returns:
        `Open` where there is no such answer, and where the voice says that it does not know.
    """
    if expected == "open":
        return Open(text)
    lines = _own_lines(text)
    if not lines:
        return Open(text)
    read, search = _readers(expected, options or {})
    marked = list(_marked(lines))
    if not marked:
        return search(lines) or Open(text)
    for mark in marked:
        if _is_unknown(mark) and _fold(mark) not in map(_fold, (options or {}).values()):
            break
        if not _DENIED.match(mark) and (answer := read(mark)) is not None:
            return answer
    return Open(text)


def _readers(
    expected: Kind | None, options: Mapping[str, str]
) -> tuple[Read, Callable[[Sequence[str]], Closed | None]]:
    """How a marked answer is read, and how unmarked lines are searched."""

    def choice(written: str) -> Closed | None:
        return _read_choice(written, options)

    match expected:
        case "number":
            return _read_number, _last_number
        case "choice":
            return choice, lambda lines: _search_choice(lines, options)
        case "yes_no":
            return _read_yes_no, _search_yes_no
        case "span":
            return _read_span, lambda lines: _read_span(lines[0]) if len(lines) == 1 else None
        case _:
            return _read_any, lambda lines: _read_plain(lines[0]) if len(lines) == 1 else None


# The voice's own words, and what it marked as its answer


def _own_lines(text: str) -> list[str]:
    """The lines of a text, cleaned, without blank ones and without what is quoted; only the first and the last ones."""
    lines = _unquoted(text.splitlines()) or [line.strip("`> \t") for line in text.splitlines()[-50:]]
    kept: list[str] = []
    size = 0
    for line in reversed(lines):
        if size >= _END:
            break
        kept.append(line[-_END:])
        size += len(line) + 1
    if len(kept) < len(lines):
        kept.append(lines[0][:LONGEST])
    cleaned = (_clean(line).strip() for line in reversed(kept))
    return [line for line in cleaned if line]


def _unquoted(lines: Sequence[str]) -> list[str]:
    """Without block quotes, and without fenced blocks; a fence that is never closed reaches to the end (CommonMark)."""
    own: list[str] = []
    fence = ""
    for line in lines:
        line = line.strip()
        start = line[:3]
        if start in ("```", "~~~") and fence in ("", start) and "`" not in line.lstrip("`~"):
            fence = "" if fence else start
        elif line and not fence and line[0] != ">":
            own.append(line)
    return own


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_SIGNS = str.maketrans("−⁄∕‘’ʼ“”", "-//'''\"\"")


def _clean(line: str) -> str:
    """In compatibility form (NFKC), without control and format characters, signs of one shape for each meaning."""
    if not line.isascii():
        # NFKC would make "10²" a hundred and two, and "3½" thirty-one halves.
        line = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), line)
        line = _VULGAR.sub(lambda match: f" {match[0]}", line)
        line = unicodedata.normalize("NFKC", line).translate(_SIGNS)
    return "".join(char for char in line.replace("\t", " ") if char.isprintable())


_LABEL = re.compile(
    r"[ #*_\-]{0,12}(?:(?:the|my|our|so|die|meine|la|ma|mi|a) )?"
    r"(?:final |correct |short |endgültige |richtige |最终|正确|最終|최종 )?"
    r"(?:answer|result|antwort|ergebnis|endergebnis|réponse|résultat|respuesta|resultado|risposta|risultato|resposta|"
    r"antwoord|svar|odpowiedź|odpověď|válasz|cevap|yanıt|ответ|відповідь|答案|答え|回答|정답|답|الجواب|الإجابة|उत्तर)"
    r"(?: final[ea]?| correct[ae]?| \(.{0,40}\))?[ *_]{0,6}(?::[ *_]{0,6}(?P<answer>.*)|$)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"(?:^|(?<=[.!?;。,]) ?)[#*_\-]{0,6} ?"
    r"(?:(?:so|thus|hence|therefore|and so|also|daher|donc|así|quindi|所以|因此),? ?)?"
    r"(?:(?:the|my|our) (?:final |correct )?(?:answer|option|choice)(?: is| would be| must be| =)|"
    r"(?:die|meine) (?:endgültige |richtige )?antwort (?:ist|lautet)|la réponse (?:finale |correcte )?est|"
    r"la respuesta (?:final |correcta )?es|la risposta (?:finale |corretta )?è|a resposta (?:final |correta )?é|"
    r"(?:最终|正确)?答案[是为]|答えは|정답은)"
    r"(?: that)? ?:? ?(?P<answer>[^ ].*)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])[.!?](?= |$)|。")
_BOLD = re.compile(r"\*\*([^*]{1,200})\*\*|__([^_]{1,200})__")


def _marked(lines: Sequence[str]) -> Iterator[str]:
    """What is marked as the answer, the last first. What is bold counts only where nothing else is marked."""
    found = 0
    for index in range(len(lines) - 1, -1, -1):
        if (mark := _mark(lines, index)) is not None:
            yield mark
            found += 1
            if found == _MARKS:
                return
    if not found and (bold := _bold(lines[-1])) is not None:
        yield bold


def _mark(lines: Sequence[str], index: int) -> str | None:
    line = lines[index]
    if (boxed := _boxed(line)) is not None:
        return boxed
    if (match := _LABEL.match(line)) is not None:
        following = lines[index + 1] if index + 1 < len(lines) else ""
        answer = match["answer"] or following
        return _unwrapped(_bold(answer) or answer)
    sentences = [match["answer"] for match in _SENTENCE.finditer(line)]
    if not sentences:
        return None
    said = sentences[-1]
    return _unwrapped(_bold(said) or _SENTENCE_END.split(said, maxsplit=1)[0])


def _boxed(line: str) -> str | None:
    r"""What stands in the last `\boxed{…}` of a line."""
    start = line.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for index in range(start + 6, min(len(line), start + 4 * LONGEST)):
        depth += (line[index] == "{") - (line[index] == "}")
        if depth == 0:
            return _unwrapped(line[start + 7 : index])
    return None


def _bold(line: str) -> str | None:
    spans: list[tuple[str, str]] = _BOLD.findall(line)
    return _unwrapped("".join(spans[-1])) if spans else None


_MATH = re.compile(r"\$(?=\S)([^$]{1,200}?)(?<=\S)\$(?!\d)|\\\((.{1,200}?)\\\)|\\\[(.{1,200}?)\\\]")
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\{([^{}]{0,200})\}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,80})\}\{([^{}]{1,80})\}|\\[dt]?frac(\d)(\d)")
_TEX = (
    (re.compile(r"\^\{?\\circ\}?|\\degree"), "°"),
    (re.compile(r"\\(?:times|cdot)"), "×"),
    (re.compile(r"\\pi\b"), "π"),
    (re.compile(r"\\infty\b"), "∞"),
    (re.compile(r"\\sqrt\b"), "√"),
    (re.compile(r"\\approx\b"), "≈"),
    (re.compile(r"\\[,;:! ]|\\left|\\right|\\quad"), ""),
    (re.compile(r"\\([%$#&_])"), r"\1"),
)


def _unwrapped(written: str) -> str:
    """An answer without Markdown, quotes, the dress of TeX and the full stop."""
    written = written[: 2 * LONGEST]
    written = _MATH.sub(lambda match: match[1] or match[2] or match[3], written)
    if "\\" in written:
        written = _COMMAND.sub(r"\1", written)
        written = _FRACTION.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]}", written)
        for pattern, plain in _TEX:
            written = pattern.sub(plain, written)
    return written.strip(" *_`\"'«»„").rstrip(".!。;,").strip(" *_`\"'«»„")


_UNKNOWN = re.compile(
    r"unknown|unsure|undetermined|undecided|n/?a|no answer|not sure|no idea|"
    r"(?:i )?(?:do not|don't|cannot|can't|can not) (?:know|say|tell|determine|answer)\b.*|i(?:'m| am) not sure\b.*|"
    r"(?:it )?(?:cannot|can't|can not) be (?:determined|known|answered)\b.*|"
    r"(?:there is )?(?:not enough|insufficient) .*|"
    r"ich weiß (?:es )?nicht|unbekannt|je ne sais pas|inconnue?|no (?:lo )?sé|desconocid[oa]|non (?:lo )?so|não sei|"
    r"не знаю|неизвестно|不知道|未知|わからない|不明|모름|모르겠습니다",
    re.IGNORECASE,
)

_DENIED = re.compile(r"(?:not|never|neither|nicht|kein|pas) ", re.IGNORECASE)
"""The answer is not this."""


def _is_unknown(written: str) -> bool:
    return _UNKNOWN.fullmatch(written) is not None


# Numbers

_GROUPED = re.compile(
    r"(?P<comma>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?)|"
    r"(?P<point>[1-9]\d{0,2}(?:(?:\.\d{3}){2,}(?:,\d+)?|(?:\.\d{3})+,\d+))|"
    r"(?P<other>[1-9]\d{0,2}(?:(?:[ ]\d{3})+|(?:'\d{3})+)(?:[.,]\d+)?)"
)
"""Thousands with their separators: 1,000 and 1,00,000; 1.000.000 and 1.000,5; 1 000 and 1'000. What could be either,
1.000 and 1,000, is read as in English."""
_CURRENCY = r"(?:US\$|USD|EUR|GBP|JPY|INR|[$€£¥₹])"
_NUMBER = re.compile(
    rf"""(?<![\w^])(?<!\d[.,:/])(?<![^\W\d_]-)      # not within a word, a name, a version, a date or a time
    (?P<sign>[-+]\ ?)?(?:(?P<money>{_CURRENCY})\ ?)?(?P<minus>-)?
    (?:(?P<whole>\d{{1,9}})\ (?=\d{{1,9}}/\d))?     # the 3 of 3 1/2
    (?P<digits>{re.sub(r"[?]P<[a-z]+>", "?:", _GROUPED.pattern)}|\d++(?:[.,]\d++)?|\.\d++)
    (?:[eE](?P<e>[-+]?\d+)|\ ?[x×*·]\ ?10\ ?(?:\^|\*\*)[{{(]?(?P<ten>[-+]?\d+)[)}}]?|\^[{{(]?(?P<power>-?\d+)[)}}]?)?
    (?:\ ?/\ ?(?P<below>\d+(?:\.\d+)?))?
    (?!\d)(?![.,:/]\d)""",
    re.VERBOSE,
)
_SCALES = {
    name: exponent
    for exponent, names in ((3, "thousand k K"), (6, "million mio mn M"), (9, "billion bn mrd B"), (12, "trillion"))
    for name in names.split()
}
"""Powers of ten."""
_SCALE = re.compile(r"(?: ?(thousand|million|mio|mn|billion|bn|mrd|trillion)\b\.?|(k)\b)")
_MONEY_SCALE = re.compile(r" ?([kKMB])\b")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_EXPONENT = 400
"""The largest power of ten that is reckoned with: "1e999999999" would fill the memory."""
_WORDS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
}

_UNIT_ROWS = (
    ("m", "1/1000", "mm millimeter millimetre"),
    ("m", "1/100", "cm centimeter centimetre"),
    ("m", "1", "m meter metre"),
    ("m", "1000", "km kilometer kilometre"),
    ("m", "0.0254", "inch inches"),
    ("m", "0.3048", "ft foot feet"),
    ("m", "0.9144", "yd yard"),
    ("m", "1609.344", "mi mile"),
    ("m/s", "0.44704", "mph"),
    ("m/s", "5/18", "kmh kph"),
    ("g", "1/1000", "mg milligram"),
    ("g", "1", "g gram gramme"),
    ("g", "1000", "kg kilo kilogram"),
    ("g", "1000000", "t tonne"),
    ("ounce", "1", "oz ounce"),
    ("l", "1/1000", "ml mL milliliter millilitre"),
    ("l", "1/100", "cl"),
    ("l", "1", "l L liter litre"),
    ("s", "1/1000", "ms millisecond"),
    ("s", "1", "s sec second"),
    ("s", "60", "min minute"),
    ("s", "3600", "h hr hour"),
    ("s", "86400", "day"),
    ("s", "604800", "week"),
    ("month", "1", "month"),
    ("month", "12", "yr year"),
    ("°C", "1", "°C celsius"),
    ("°F", "1", "°F fahrenheit"),
    ("K", "1", "K kelvin"),
    ("°", "1", "° deg degree"),
    ("rad", "1", "rad radian"),
    ("%", "1", "% pct percent percentage"),
    ("J", "1", "J joule"),
    ("J", "1000", "kJ kilojoule"),
    ("N", "1", "N newton"),
    ("W", "1", "W watt"),
    ("W", "1000", "kW kilowatt"),
    ("V", "1", "V volt"),
    ("Hz", "1", "Hz hertz"),
    ("KB", "1", "KB kB kilobyte"),
    ("MB", "1", "MB megabyte"),
    ("GB", "1", "GB gigabyte"),
    ("TB", "1", "TB terabyte"),
    ("$", "1", "$ US$ USD usd dollar buck"),
    ("€", "1", "€ EUR eur euro"),
    ("¥", "1", "¥ JPY jpy yen"),
    ("₹", "1", "₹ INR inr rupee"),
    # One word for two things, of which a question means one.
    ("pound", "1", "£ GBP gbp lb lbs pound"),
    ("cent", "1", "¢ cent"),
)
_UNITS = {name: (unit, Fraction(factor)) for unit, factor, names in _UNIT_ROWS for name in names.split()}
_UNIT = re.compile(
    r"(?: ?- ?| )?(?:(?P<area>square|sq\.?)|(?P<volume>cubic|cu\.?))? ?(?:degrees? (?=[CcFf]))?"
    r"(?P<name>°? ?[CF]\b|°|per cent\b|[%$€£¥₹¢]|[^\W\d_]+)(?:\^?(?P<power>[23])\b)?"
)
_TOGETHER = re.compile(r",? (?:and )?")
_PER = re.compile(r" ?/ ?| per | an? ")


class _Unit(Struct, frozen=True):
    name: str
    factor: Fraction
    end: int
    """Where the text goes on after it."""


def _unit_at(text: str, start: int, money: str | None) -> _Unit | None:
    """The unit that stands at a place, such as `km/h`, or `/h` after money; None where there is none that is known."""
    above = _Unit(*_UNITS[money], start) if money else _simple_unit(text, start)
    if above is None or (per := _PER.match(text, above.end)) is None:
        return above
    below = _simple_unit(text, per.end())
    if below is None:
        return above
    return _Unit(f"{above.name}/{below.name}", above.factor / below.factor, below.end)


def _simple_unit(text: str, start: int) -> _Unit | None:
    match = _UNIT.match(text, start)
    if match is None:
        return None
    name = match["name"].replace(" ", "").replace("percent", "%")
    known = _UNITS.get(f"°{name}" if name in "CF" else name) or _UNITS.get(name.lower() if len(name) > 2 else "")
    if name == "in" and not text[match.end() :].strip(" .,)"):  # else it is a preposition
        known = _UNITS["inch"]
    if known is None and len(name) > 3:
        known = _UNITS.get(name.lower().removesuffix("s"))
    if known is None:
        return None
    unit, factor = known
    power = 2 if match["area"] else 3 if match["volume"] else int(match["power"] or 1)
    return _Unit(unit if power == 1 else f"{unit}^{power}", factor**power, match.end())


class _Number(Struct, frozen=True):
    value: Fraction
    unit: str
    factor: Fraction
    start: int
    end: int
    """Where it stands in the text, its unit with it."""

    def closed(self, text: str) -> Closed:
        """It as the answer that `text` gives."""
        if not self.unit:
            return Closed("number", str(self.value), text[:LONGEST])
        loose = [str(self.value)]
        if self.unit == "%" and 0 <= self.value <= 100:
            loose.append(str(self.value / 100))
        return Closed("number", f"{self.value * self.factor} {self.unit}", text[:LONGEST], tuple(loose))


def _numbers(text: str) -> Iterator[_Number]:
    """All numbers of a text, in order; 2 h 30 min is one."""
    last: _Number | None = None
    for number in _single_numbers(text):
        if last is not None and _continues(last, number, text):
            value = last.value + number.value * number.factor / last.factor
            last = replace(last, value=value, end=number.end)
            continue
        if last is not None:
            yield last
        last = number
    if last is not None:
        yield last


def _continues(first: _Number, second: _Number, text: str) -> bool:
    """Whether a number only adds to the one before: the minutes to the hours."""
    smaller = first.unit == second.unit != "" and second.factor < first.factor
    return smaller and _TOGETHER.fullmatch(text, first.end, second.start) is not None


def _single_numbers(text: str) -> Iterator[_Number]:
    """Without those that are too long to reckon with."""
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is None:
            continue
        end = match.end()
        if (scale := _scale_at(text, end, bool(match["money"]))) is not None:
            value *= scale[0]
            end = scale[1]
        if (ordinal := _ORDINAL.match(text, end)) is not None:
            end = ordinal.end()
        unit = _unit_at(text, end, match["money"]) or _Unit("", Fraction(1), end)
        yield _Number(value, unit.name, unit.factor, match.start(), unit.end)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > LONGEST:
        return None
    digits, below = Fraction(_plain_digits(match["digits"])), Fraction(match["below"] or 1)
    power, exponent = int(match["power"] or 1), int(match["e"] or match["ten"] or 0)
    too_large = abs(exponent) > _EXPONENT or abs(power) * len(match["digits"]) > _EXPONENT
    if too_large or not below or (power < 0 and not digits):
        return None
    value = int(match["whole"] or 0) + digits**power * Fraction(10) ** exponent / below
    return -value if "-" in (match["sign"] or "") + (match["minus"] or "") else value


def _plain_digits(written: str) -> str:
    """Digits as Python writes them: no separators, a point before the decimals."""
    grouped = _GROUPED.fullmatch(written)
    match grouped.lastgroup if grouped else None:
        case "comma":
            return written.replace(",", "")
        case "point":
            return written.replace(".", "").replace(",", ".")
        case "other":
            return re.sub("[ ']", "", written).replace(",", ".")
        case _:
            return written.replace(",", ".")


def _scale_at(text: str, start: int, money: bool) -> tuple[int, int] | None:
    """A factor such as `million` at a place, and where the text goes on after it."""
    match = _SCALE.match(text, start)
    if match is not None:
        return 10 ** _SCALES[match[1] or match[2]], match.end()
    match = _MONEY_SCALE.match(text, start) if money else None
    return (10 ** _SCALES[match[1]], match.end()) if match is not None else None


_LIST_MARK = re.compile(r"\d{1,3}[.)] ")
_BETWEEN = re.compile(r" ?(?:[,;&]|\band\b|\bor\b|\bund\b|\bet\b|\by\b) ?(?:and |or )?|\) ?,? ?\(")
_TO = re.compile(r" ?(?:[-–—]|\bto\b|\bbis\b) ?")
_ABOUT = re.compile(
    r"(?:it is |it's |about |approximately |approx\.? |around |roughly |exactly |only |~ ?|≈ ?|ca\. )*", re.IGNORECASE
)
_FORMULA = re.compile(r"[\d A-Za-zπ√∞+\-*×/^()\[\]{}.,=:!]{1,80}")


def _read_number(written: str) -> Closed | None:
    """The number that a marked answer is, or says."""
    side = re.split(r"(?<![<>=!])[=≈](?!=)", written)[-1].strip() or written
    side = side[_ABOUT.match(side).end() :]  # type: ignore[union-attr]  # it matches even nothing
    numbers = list(_numbers(side))
    if (several := _several(side)) is not None:
        return Closed("number", several, written[:LONGEST])
    if not numbers:
        return _read_word(side, written) or _read_formula(side, written)
    first = numbers[0]
    if first.start == 0:
        return _read_formula(side, written) if _goes_on(side, first) else first.closed(written)
    if _FORMULA.fullmatch(side) and re.search("[π√∞^]", side):
        return _read_formula(side, written)
    return numbers[-1].closed(written)


def _several(text: str) -> str | None:
    """The key of a list or a range of numbers, which is another answer than any of its parts."""
    bare = text.removeprefix("between ").removeprefix("from ").strip("()[]{} ")
    if _only_number(bare) is not None:
        return None
    for between, sign in ((_TO, " to "), (_BETWEEN, "; ")):
        numbers = [_only_number(part.strip("()[]{} ")) for part in between.split(bare)[:32]]
        known = [number.closed("").key for number in numbers if number is not None]
        if len(known) == len(numbers) > 1 and (sign == "; " or len(known) == 2):
            return sign.join(known)
    return None


def _only_number(text: str) -> _Number | None:
    number = next(_numbers(text), None)
    return number if number is not None and (number.start, number.end) == (0, len(text)) else None


def _goes_on(text: str, number: _Number) -> bool:
    """Whether the number is only the beginning of a formula, such as 2x or 3 + 4."""
    rest = text[number.end :]
    return bool(re.match(r"[^\W\d_]|[√π∞(]| ?[+*×/^÷√π∞] ?[\w(√]| - \w", rest))


def _read_word(text: str, written: str) -> Closed | None:
    """A number as a word: "three", "twelve eggs"."""
    for word in re.findall(r"[a-z]+", text.lower()[:LONGEST]):
        if word in _WORDS:
            return Closed("number", str(_WORDS[word]), written[:LONGEST])
    return None


def _read_formula(text: str, written: str) -> Closed | None:
    """A short formula, compared letter by letter: 2π, 3√2, x+1, 12:30."""
    if not _FORMULA.fullmatch(text) or re.search(r"[A-Za-z]{4}", text) or not re.search(r"[\dπ√∞]", text):
        return None
    return Closed("number", re.sub(r"[ {}]", "", text), written[:LONGEST])


_ASIDE = re.compile(r"\([^()]{0,200}\)")


def _last_number(lines: Sequence[str]) -> Closed | None:
    for line in reversed(lines):
        line = _unwrapped_line(line)
        for said in (_ASIDE.sub(" ", line), line):
            if numbers := list(_numbers(said)):
                last = numbers[-1]
                return last.closed(said[last.start : last.end].strip())
    return _read_word(lines[0], lines[0]) if len(lines) == 1 else None


def _unwrapped_line(line: str) -> str:
    """The end of a line of running text, without its mark in a list, without Markdown and TeX."""
    mark = _LIST_MARK.match(line)
    return _unwrapped((line[mark.end() :] if mark else line)[-LONGEST:])


# Choices, yes and no, names

_LETTER = re.compile(
    r"(?:option|choice|answer|antwort|opción|réponse)? ?[(\[{]?(?P<letter>[A-Za-z]|\d{1,2})"
    r"(?:$|(?:[)\]}]|[.:](?= |$)|(?= ?[-–—] )|,? (?:because|since|weil|porque|car) ).*)",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[(\[]?([A-Z])[)\].]?(?:(?: ?[,;&/+] ?| )(?:and |or |und |et |y )?[(\[]?([A-Z])[)\].]?)+")
_CHOSEN = re.compile(r"\b(?:option|choice|choose|pick|select) \(?([A-Z])\b|\(([A-Z])\)|(?<!\S)([A-Z])\)")


def _read_choice(written: str, options: Mapping[str, str]) -> Closed | None:
    """The letter of the option that a marked answer names, several letters where it names several."""
    text = written[:LONGEST]
    if _LETTERS.fullmatch(written):
        letters = sorted(set(re.findall("[A-Z]", re.sub(r"\b(?:and|or|und|et|y)\b", "", written))))
        if not options or options.keys() >= set(letters):
            return Closed("choice", ", ".join(letters), text)
    match = _LETTER.fullmatch(written)
    if match is not None and (not options or match["letter"].upper() in options):
        return Closed("choice", match["letter"].upper(), text)
    said = _fold(written)
    named = [letter for letter, option in options.items() if said and said in (_fold(option), _fold(letter + option))]
    if len(named) != 1:
        letter = written[:1].upper()  # "B Paris"
        named = [letter] if letter in options and _fold(options[letter]) == _fold(written[1:]) != "" else []
    return Closed("choice", named[0], text) if named else None


def _search_choice(lines: Sequence[str], options: Mapping[str, str]) -> Closed | None:
    """A first line such as "B) Paris, because …", else the last option that is named."""
    if (answer := _read_choice(_unwrapped(lines[0]), options)) is not None:
        return answer
    for line in reversed(lines):
        named = ["".join(groups) for groups in _CHOSEN.findall(line)]
        named = [letter for letter in named if not options or letter in options]
        if named:
            return Closed("choice", named[-1], named[-1])
    return None


_YES = frozenset(
    "yes yeah yep true correct right ja wahr richtig oui vrai si sí verdadero cierto sì vero sim verdadeiro tak prawda "
    "ano igen evet да правда верно так 是 是的 对 正确 はい 예 네 نعم हाँ हां".split()
)
_NO = frozenset(
    "no nope false incorrect wrong nein nee falsch non faux falso não nej nei nie fałsz ne nem hayır нет неверно ні "
    "否 不 不是 不对 错 错误 いいえ 아니요 아니오 لا नहीं".split()
)
_NOT_NO = re.compile(
    r"no (?!(?:it|he|she|they|we|you|i|this|that|these|those|the|there|because|since|as)\b)[a-z]", re.IGNORECASE
)
"""Words after which "no" denies nothing: "no doubt", "no idea", "no one"."""
_WORD = re.compile(r"[^\W\d_]+(?=$|[^\w'])")


def _read_yes_no(written: str) -> Closed | None:
    """Yes or no, by the first word, in some languages; true and false are the same."""
    word = _WORD.match(written)
    if word is None or _NOT_NO.match(written):
        return None
    said = word[0].casefold()
    key = "yes" if said in _YES else "no" if said in _NO else None
    return Closed("yes_no", key, written[:LONGEST]) if key else None


def _search_yes_no(lines: Sequence[str]) -> Closed | None:
    """The first word of the last line, else that of the first."""
    return _read_yes_no(_unwrapped(lines[-1])) or _read_yes_no(_unwrapped(lines[0]))


_MONTHS = {
    name[:3]: number
    for number, name in enumerate(
        "january february march april may june july august september october november december".split(), 1
    )
}
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = (
    re.compile(rf"{_DAY} (?:of )?{_MONTH},? (?P<year>\d{{1,4}})", re.IGNORECASE),
    re.compile(rf"{_MONTH} {_DAY},? (?P<year>\d{{1,4}})", re.IGNORECASE),
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"),
)
_FILLER = re.compile(
    r"(?:it|this|that|he|she|they)(?:'s| is| was| are| were) |in (?=\d{3,4}$)|on (?=\d|[a-z]{3,9}\.? \d)", re.IGNORECASE
)
_ARTICLE = re.compile(r"(?:the|an?|der|die|das|le|la|les|el|los|las|il|lo|gli|[ld]') ?(?=\S)")
_SPAN_WORDS = 12


def _read_span(written: str) -> Closed | None:
    """A name, a date or a few words."""
    text = _unwrapped(_FILLER.sub("", written, count=1))
    if not text or len(text) > LONGEST // 2 or len(text.split()) > _SPAN_WORDS or _is_unknown(text):
        return None
    if (number := _only_number(text)) is not None:
        return number.closed(written)
    key = _date(text) or _fold(text)
    return Closed("span", key, written[:LONGEST]) if key else None


def _date(text: str) -> str | None:
    """A whole date as year-month-day. Dates in digits alone mean different days in different countries: not those."""
    for pattern in _DATES:
        if (match := pattern.fullmatch(text)) is not None:
            month = _MONTHS.get(match["month"].lower()[:3]) or int(match["month"])
            return f"{int(match['year']):04}-{month:02}-{int(match['day']):02}"
    return None


def _fold(text: str) -> str:
    """Words without case, punctuation, first article, and accents on Latin letters; initials stand together."""
    plain = "".join(_unaccented(char) for char in text.casefold()) if not text.isascii() else text.casefold()
    plain = _ARTICLE.sub("", plain.strip(), count=1) if _ARTICLE.match(plain.strip()) else plain
    plain = re.sub(r"['.](?=\w|$| )", "", plain)
    plain = re.sub(r"[^\w+#%°$€£]+|_", " ", plain).strip()
    return re.sub(r"\b(\w) (?=\w\b)", r"\1", plain)


def _unaccented(char: str) -> str:
    base = unicodedata.normalize("NFD", char)[0]
    return base if base.isascii() else char


def _read_any(written: str) -> Closed | None:
    """A marked answer to a question whose kind nobody knows."""
    return _read_plain(written) or _read_span(written)


def _read_plain(line: str) -> Closed | None:
    """A line that is a number, a letter, yes or no, and nothing else."""
    written = _unwrapped(line)
    if (number := _only_number(written)) is not None:
        return number.closed(written)
    if re.fullmatch(r"\(?[A-Z]\)?", written):
        return _read_choice(written, {})
    return _read_yes_no(written) if _WORD.fullmatch(written) else None


# What a question asks for

_OPTION = re.compile(
    r"(?:^|(?<=[\s,;:?]))[(\[]?([A-H]|\d)[)\].:]\)? +(\S[^\n]*?)"
    r"(?=[,;]?\s+[(\[]?(?:[A-H]|\d)[)\].:]\)? +\S|\n|$)"
)
_OWN_WORK = re.compile(
    r"(?:please )?(?:explain|show|describe|give|justify|write(?: down)?)(?: me)? (?:your|all|the) "
    r"(?:\w+ )?(?:reasoning|work|working|steps?|thoughts?|calculations?|answer|reasons?)\b[^.?!\n]*|"
    r"think (?:about it |it through )?(?:step by step|carefully)|erkläre deine[^.?!\n]*",
    re.IGNORECASE,
)
"""Asks how to answer, not what."""
_FREE = re.compile(
    r"(?:^|[.?!:\n,] *|\band |\bthen |please |can you |could you |bitte )"
    r"(?:explain|describe|discuss|compare|contrast|summari[sz]e|write|list|outline|suggest|recommend|translate|rewrite|"
    r"rephrase|improve|design|implement|create|generate|draft|brainstorm|analy[sz]e|argue|debate|tell me about|give me|"
    r"help me|erkläre?|beschreibe?|vergleiche?|schreibe?|nenne?|übersetze?|fasse|explique[rz]?|décri[st]|compare[rz]?|"
    r"écri[st]|explica|describe|escribe|resume|spiega|descrivi|scrivi|объясни|опиши|напиши)\b|"
    r"\b(?:why|pros and cons|(?:dis)?advantages|opinion|essay|poem|story|warum|wieso|weshalb|pourquoi|por qué|perché|"
    r"почему)\b|"
    r"为什么|解释|描述|写一|なぜ|説明して|왜|설명",
    re.IGNORECASE,
)
_JUDGED = re.compile(
    r"\b(?:should|shall|would|might|better|best|worst|worth|good idea|how (?:do|does|did|can|could|to|is|are|was)|"
    r"is there|can you|could you|will you|do you|are you|besser|beste[nrs]?|sollten?|soll|meilleure?|mejor|migliore|"
    r"лучше|стоит)\b",
    re.IGNORECASE,
)
"""Asks for a judgement, or for a way: to this there is no short answer that is right or wrong."""
_HOW_MANY = re.compile(
    r"\b(?:how (?:many|much|old|far|long|tall|high|deep|heavy|fast|big|large|wide|often)|"
    r"what(?:'s| is| are| was| will be) (?:the )?(?:\w+ ){0,2}?(?:sum|product|difference|quotient|remainder|total|"
    r"number|amount|percentage|percent|probability|chance|average|mean|median|value of \w|area|volume|perimeter|"
    r"distance|speed|price|cost|age|length|height|width|weight|mass|population)|"
    r"calculate|compute|evaluate|solve for|find the (?:value|sum|number|area|probability)|"
    r"berechne|calcule[rz]?|calcula|calcola|wie ?viele?|wie (?:hoch|lang|alt|weit|groß|schwer)|"
    r"combien|cuánt[oa]s?|quant[oaie]|quant[oa]s|сколько)\b|"
    r"\bwhat(?:'s| is) [-(]?[\d.]+ ?(?:[-+*/^×÷x%]|plus|minus|times|divided by|to the power of|percent of)(?!\w)|"
    r"多少|几[个只次年天岁]|いくつ|何[個人回年歳本枚]|몇",
    re.IGNORECASE,
)
_WHETHER = re.compile(
    r"(?:(?:and |so |then )?(?:is|are|was|were|do|does|did|has|have|had|can|could|will|am)|"
    r"ist|sind|war|waren|hat|haben|kann|können|gibt es|est-ce que?|(?:y )?a-t-il|est-il|sont-ils|"
    r"¿?(?:es|son|está|hay|tiene|puede)|è|sono|ha|é|são|есть ли|является ли|правда ли)\b",
    re.IGNORECASE,
)
_ASKED_YES_NO = re.compile(
    r"\b(?:yes or no|yes/no|true or false|true/false|ja oder nein|wahr oder falsch|oui ou non|vrai ou faux|sí o no|"
    r"verdadero o falso|sì o no|vero o falso|sim ou não|да или нет)\b|是否|吗[??]?$|对还是错|ですか[??]?$",
    re.IGNORECASE,
)
_WHO = re.compile(
    r"(?:^|[,:] )(?:and )?(?:(?:in|on|at|to|from|of|for|by) )?(?:who|whom|whose|when|where|which|"
    r"what (?:year|day|date|month|country|city|colou?r|name|word|language|animal|element|planet|company|team|author|"
    r"song|film|movie|book)|"
    r"what(?:'s| is| was) (?:the )?(?:\w+ ){0,2}?(?:name|capital|year|date|author|currency|symbol|colou?r|title)|"
    r"wer|wen|wem|wann|wo|welche[rsmn]?|qui|quand|où|quel(?:le)?s?|¿?(?:quién|cuándo|dónde|cuál)|"
    r"chi|quando|dove|quale|quem|onde|qual|"
    r"кто|когда|где|какой|какая)\b|谁|哪[里个年一]|什么时候|誰|いつ|どこ|누가|언제|어디",
    re.IGNORECASE,
)
_CHOOSE = re.compile(r"\b(?:which|choose|select|pick|options?|welche|quelle?|cuál)\b|下列|哪", re.IGNORECASE)


_OR_NO = re.compile(r"\b(?:yes or no|ja oder nein|oui ou non|s[ií] o no)\s*\?\s*$", re.IGNORECASE)
"""What makes two questions one that is closed: `Is 7 prime? Yes or no?`"""


def kind_of(question: str) -> Kind:
    """The kind of answers that a question asks for, by its shape. `open` where that is not sure."""
    text = _OWN_WORK.sub(" ", _question(question))
    if _FREE.search(text):
        return "open"
    if options_of(question):
        return "choice"
    if _OR_NO.search(text) and text.count("?") <= 2:
        return "yes_no"
    if text.count("?") > 1:
        return "open"
    asked = _asked(text)
    if _ASKED_YES_NO.search(asked) or _ASKED_YES_NO.search(text):
        return "yes_no"
    if _JUDGED.search(asked):
        return "open"
    if _HOW_MANY.search(asked):
        return "number"
    if not asked.endswith("?") or len(asked) > 2 * LONGEST:
        return "open"
    if _WHETHER.match(asked):
        return "open" if re.search(r"\b(?:or|oder|ou|o)\b", asked) else "yes_no"
    return "span" if _WHO.search(asked) else "open"


def options_of(question: str) -> dict[str, str]:
    """The options that a question offers, by their letters: A, B, … in order, or numbers where it asks to choose."""
    text = _question(question)
    for first in ("A", "1") if _CHOOSE.search(text) else ("A",):
        options: dict[str, str] = {}
        for letter, option in _OPTION.findall(text):
            if letter == chr(ord(first) + len(options)):
                options[letter] = option.strip(" ,;*")[:LONGEST]
        if len(options) > 1:
            return options
    return {}


def _question(question: str) -> str:
    return "\n".join(_clean(line).strip() for line in question[-_QUESTION:].splitlines())


def _asked(text: str) -> str:
    """The sentence that asks: the one with the question mark, else the last."""
    sentences = [part.strip() for part in re.split(r"(?<=[.!。])\s+|(?<=[?])\s*|\n+|(?<=。)", text) if part.strip()]
    return next((part for part in sentences if part.endswith("?")), sentences[-1] if sentences else "")


# Consensus

_NEAR = 1e-9
"""4/5 meets a threshold of 0.8, whatever its binary digits."""


class Position(Struct, frozen=True, omit_defaults=True):
    """What a voice says in a round."""

    voice: str
    round: int
    """The drafts are round 0."""
    answer: Closed | Open | None = None
    """None: the voice abstained."""
    failed: bool = False
    """No answer came: the model failed, or the time was over."""


class Cluster(Struct, frozen=True):
    """The voices behind one answer."""

    key: str
    answer: str
    """As the first of its voices wrote it."""
    voices: tuple[str, ...]
    weight: float


class Change(Struct, frozen=True):
    """A voice that says something else than in the round before; None where it said nothing."""

    voice: str
    before: str | None
    after: str | None


Opinion = Literal["agree", "partial", "disagree"]
_WORTH: dict[Opinion, float] = {"agree": 1.0, "partial": 0.5, "disagree": 0.0}


class Verdict(Struct, frozen=True, omit_defaults=True):
    """What a voice thinks of another's answer."""

    voice: str
    on: str
    opinion: Opinion
    objection: str = ""
    """What is wrong with it."""
    blocking: bool = False
    """The objection must be met: with it there is no consensus. Only where the opinion is `disagree`."""


class Measure(Struct, frozen=True):
    """How far the voices agree after a round."""

    round: int
    agreement: float
    """From 0 to 1."""
    met: bool
    """Whether that is a consensus."""
    clusters: tuple[Cluster, ...]
    """The answers, the one with most weight first."""
    leader: str | None
    """The key of the first cluster; None where nobody answered, and where another one has the same weight."""
    changed: tuple[Change, ...]
    dissent: tuple[str, ...]
    """Voices that answered, and not what the first cluster says."""
    silent: tuple[str, ...]
    """Voices that failed or abstained. They count as voices that agree with nobody."""
    blocking: tuple[str, ...] = ()
    """Objections that must be met."""


def measure_closed(
    positions: Collection[Position],
    selected: Mapping[str, float],
    threshold: float,
    previous: Collection[Position] = (),
) -> Measure:
    """The weight of the largest group that gives the same answer, by the weight of all selected voices.

    A bare number counts as the one with a unit that it can mean, of several as that with most weight: 5 as 5 km, 50 and
    0.5 as 50 %. Two answers of the same weight are no consensus, however low the threshold.

    Args:
        positions: What the voices say in this round; a voice without one is silent.
        selected: All voices that take part, with their weights.
        threshold: The least agreement that is a consensus, from 0 to 1.
        previous: What they said in the round before, to see who changed.

    Raises:
        ValueError: a position of no selected voice, two of one, or a weight that is none.
    """
    _check(positions, selected)
    answers = _answers(positions)
    clusters = _clusters(answers, _same([answers], selected), selected)
    agreement = _share(clusters[0].weight if clusters else 0.0, selected.values())
    alone = len(clusters) == 1 or (len(clusters) > 1 and clusters[0].weight - clusters[1].weight > _NEAR)
    return Measure(
        round=max((position.round for position in positions), default=0),
        agreement=agreement,
        met=alone and agreement > 0 and agreement + _NEAR >= threshold,
        clusters=clusters,
        leader=clusters[0].key if alone else None,
        changed=_changes(_answers(previous), answers) if previous else (),
        dissent=tuple(sorted(voice for cluster in clusters[1:] for voice in cluster.voices)),
        silent=tuple(sorted(selected.keys() - answers.keys())),
    )


def _check(positions: Collection[Position], selected: Mapping[str, float]) -> None:
    voices = [position.voice for position in positions]
    if len(set(voices)) < len(voices) or set(voices) - selected.keys():
        raise ValueError("a position of a voice that is not selected, or two of the same voice")
    if any(not math.isfinite(weight) or weight < 0 for weight in selected.values()):
        raise ValueError("a weight must be a number that is not negative")


def _answers(positions: Iterable[Position]) -> dict[str, Closed]:
    """The answers that can be compared, by voice."""
    return {
        position.voice: position.answer
        for position in positions
        if isinstance(position.answer, Closed) and not position.failed
    }


def _same(said: Sequence[Mapping[str, Closed]], selected: Mapping[str, float]) -> dict[str, str]:
    """For every key the one under which it is counted: that of the weightiest answer that it may mean."""
    answers = [(answer, selected[voice]) for answers in said for voice, answer in answers.items()]
    exact = {answer.key: answer.loose for answer, _ in answers}
    weights = {key: math.fsum(weight for answer, weight in answers if answer.key == key) for key in exact}
    meant = {key: [other for other, loose in exact.items() if key in loose] for key in exact}
    return {key: min(others or [key], key=lambda other: (-weights[other], other)) for key, others in meant.items()}


def _clusters(
    answers: Mapping[str, Closed], same: Mapping[str, str], selected: Mapping[str, float]
) -> tuple[Cluster, ...]:
    groups: dict[str, list[str]] = {}
    for voice in sorted(answers):
        groups.setdefault(same[answers[voice].key], []).append(voice)
    clusters = [
        Cluster(key, answers[voices[0]].text, tuple(voices), math.fsum(selected[voice] for voice in voices))
        for key, voices in groups.items()
    ]
    return tuple(sorted(clusters, key=lambda cluster: (-round(cluster.weight, 9), cluster.voices)))


def _share(part: float, weights: Iterable[float]) -> float:
    whole = math.fsum(weights)
    return min(1.0, part / whole) if whole else 0.0


def _changes(before: Mapping[str, Closed], after: Mapping[str, Closed]) -> tuple[Change, ...]:
    changes: list[Change] = []
    for voice in sorted(before.keys() | after.keys()):
        old, new = before.get(voice), after.get(voice)
        if old is None or new is None or not (old.key == new.key or old.key in new.loose or new.key in old.loose):
            changes.append(Change(voice, old.text if old else None, new.text if new else None))
    return tuple(changes)


def measure_open(
    positions: Collection[Position],
    verdicts: Iterable[Verdict],
    selected: Mapping[str, float],
    threshold: float,
    previous: Iterable[Verdict] = (),
) -> Measure:
    """The mean of what the voices think of each other's answers: agree is 1, partial 0.5, disagree 0.

    All pairs of two selected voices count, each by the product of its weights; a verdict that is missing, and any of or
    on a voice that is silent, counts as 0. Of several verdicts of one voice on another the worst counts; what a voice
    thinks of itself, or of strangers, does not. A blocking objection stands against a consensus.

    A cluster is an answer with the voices that agree with it; its key is its author, its weight what it has of all.
    `changed` tells whose verdicts are others than the `previous` ones.

    Raises:
        ValueError: as `measure_closed`.
    """
    _check(positions, selected)
    texts = {position.voice: position.answer.text for position in positions if position.answer and not position.failed}
    worst = _worst(verdicts, texts)
    pairs = {(one, other): selected[one] * selected[other] for one in selected for other in selected if one != other}
    agreed = math.fsum(_WORTH[verdict.opinion] * pairs[pair] for pair, verdict in worst.items())
    agreement = _share(agreed, pairs.values())
    clusters = tuple(
        sorted(
            (_supporters(voice, text, worst, selected) for voice, text in texts.items()),
            key=lambda cluster: (-round(cluster.weight, 9), cluster.key),
        )
    )
    blocking = tuple(
        f"{voice} on {on}: {verdict.objection}"
        for (voice, on), verdict in sorted(worst.items())
        if verdict.blocking and verdict.opinion == "disagree"
    )
    first = clusters[0].key if clusters else ""
    against = [voice for (voice, on), verdict in worst.items() if on == first and verdict.opinion == "disagree"]
    alone = len(clusters) == 1 or (len(clusters) > 1 and clusters[0].weight - clusters[1].weight > _NEAR)
    return Measure(
        round=max((position.round for position in positions), default=0),
        agreement=agreement,
        met=not blocking and agreement > 0 and agreement + _NEAR >= threshold,
        clusters=clusters,
        leader=first if alone else None,
        changed=_turns(_worst(previous, selected), worst),
        dissent=tuple(sorted(against)),
        silent=tuple(sorted(selected.keys() - texts.keys())),
        blocking=blocking,
    )


def _worst(verdicts: Iterable[Verdict], known: Collection[str]) -> dict[tuple[str, str], Verdict]:
    """For every pair of two voices that are known the verdict of the one on the other."""
    found: dict[tuple[str, str], Verdict] = {}
    for verdict in sorted(verdicts, key=lambda each: (-_WORTH[each.opinion], each.blocking, each.objection)):
        if verdict.voice in known and verdict.on in known and verdict.voice != verdict.on:
            found[verdict.voice, verdict.on] = verdict
    return found


def _supporters(
    author: str, text: str, verdicts: Mapping[tuple[str, str], Verdict], selected: Mapping[str, float]
) -> Cluster:
    opinions = {voice: verdict.opinion for (voice, on), verdict in verdicts.items() if on == author}
    voices = sorted(voice for voice, opinion in opinions.items() if opinion == "agree")
    support = math.fsum(selected[voice] * _WORTH[opinion] for voice, opinion in opinions.items())
    return Cluster(author, text, (author, *voices), selected[author] + support)


def _turns(before: Mapping[tuple[str, str], Verdict], after: Mapping[tuple[str, str], Verdict]) -> tuple[Change, ...]:
    if not before:
        return ()
    voices = sorted({voice for voice, _ in before.keys() | after.keys()})
    stances = [(voice, _stance(voice, before), _stance(voice, after)) for voice in voices]
    return tuple(Change(voice, old, new) for voice, old, new in stances if old != new)


def _stance(voice: str, verdicts: Mapping[tuple[str, str], Verdict]) -> str | None:
    own = sorted((on, verdict.opinion) for (one, on), verdict in verdicts.items() if one == voice)
    return ", ".join(f"{on}: {opinion}" for on, opinion in own) or None


def is_stable(trajectory: Sequence[Measure]) -> bool:
    """Whether the last round changed nothing: more rounds of the same would not either."""
    return len(trajectory) > 1 and not trajectory[-1].changed


Rule = Literal["support", "stability", "drafts", "order"]
"""What decides a vote: more votes; or, of as many, voices that stood by it for longer; more drafts; the first name."""


class Decision(Struct, frozen=True):
    """How a vote ended."""

    key: str
    answer: str
    """As the first of its voices wrote it, the last time."""
    support: float
    """Its share of all votes of all rounds, from 0 to 1."""
    rule: Rule
    why: str
    """The rule as a sentence."""


_WHY: dict[Rule, str] = {
    "support": "most votes over all rounds",
    "stability": "as many votes as another, but its voices have stood by it for longer",
    "drafts": "as many votes as another, but more of them before the voices heard each other",
    "order": "as many votes as another in every way, but the voice that is first by name",
}


def decide_vote(rounds: Sequence[Collection[Position]], selected: Mapping[str, float]) -> Decision | None:
    """The vote over a whole debate: every voice gives its weight once in every round to what it then answered.

    So a first, independent answer counts as much as one that was given after hearing the others. Of answers with the
    same support the one wins whose voices have been the same for longest; then the one with more support among the
    drafts; then the one that has the first voice by name.

    Args:
        rounds: What the voices said, the drafts first.
        selected: All voices that take part, with their weights.

    Returns:
        None where nobody answered.

    Raises:
        ValueError: as `measure_closed`.
    """
    for positions in rounds:
        _check(positions, selected)
    said = [_answers(positions) for positions in rounds]
    same = _same(said, selected)
    ranked = sorted(_standing(key, said, same, selected) for key in set(same.values()))
    if not ranked:
        return None
    votes, _, _, (_, key) = ranked[0]
    rule: Rule = "support"
    if len(ranked) > 1:
        differing = next(i for i, (one, other) in enumerate(zip(*ranked[:2], strict=True)) if one != other)
        rule = ("support", "stability", "drafts", "order")[differing]
    answer = next(
        answers[voice].text
        for answers in reversed(said)
        for voice in sorted(answers)
        if same[answers[voice].key] == key
    )
    support = _share(-votes, [weight * len(rounds) for weight in selected.values()])
    return Decision(key, answer, support, rule, f"{_WHY[rule]} ({support:.0%} of all)")


def _standing(
    key: str, said: Sequence[Mapping[str, Closed]], same: Mapping[str, str], selected: Mapping[str, float]
) -> tuple[float, int, float, tuple[tuple[str, ...], str]]:
    """How an answer stands in the vote, by the rules in turn: of two the lower one wins."""
    voices = [tuple(sorted(voice for voice in answers if same[answers[voice].key] == key)) for answers in said]
    votes = math.fsum(selected[voice] for round_ in voices for voice in round_)
    since = max((i for i, (before, after) in enumerate(pairwise(voices), 1) if before != after), default=0)
    drafts = math.fsum(selected[voice] for voice in voices[0])
    everyone = tuple(sorted({voice for round_ in voices for voice in round_}))
    return (-round(votes, 9), since if voices[-1] else len(said), -round(drafts, 9), (everyone, key))


def note(threshold: float, voices: int) -> str:
    """How many voices of the same weight a threshold asks for: "0.8 of 3 voices means all 3"."""
    needed = next((count for count in range(1, voices + 1) if count / voices + _NEAR >= threshold), voices)
    meaning = f"all {voices}" if needed == voices else f"{needed} that agree"
    return f"{threshold:g} of {voices} voices means {meaning}"
