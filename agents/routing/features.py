"""A request as numbers from 0 to 1: what it asks for, by its shape and by the words of `words`."""

import re
from collections.abc import Mapping
from functools import lru_cache
from math import log2

from msgspec import Struct

from agents.routing.own import Own, own_words
from agents.routing.words import WORD, folded, groups_in, lexicon
from tools.session import File


class Situation(Struct, frozen=True):
    """What is known of a request before anything is done about it."""

    text: str
    """The user's last message."""
    turns: int = 1
    """Messages of the user up to this one."""
    images: bool = False
    """The message has pictures, and the model can see."""
    files: tuple[File, ...] = ()
    """The session's files."""
    client_tools: tuple[str, ...] = ()
    """Names of tools that the client runs."""
    server_tools: tuple[str, ...] = ()
    """Tools that the server runs: a name, or `name: description`."""
    system: str = ""
    """The client's instructions."""


class Reading(Struct, frozen=True):
    """What a request looks like."""

    shape: Mapping[str, float]
    """The features that need no list of words."""
    groups: Mapping[str, int]
    """How often the words of each group are met."""
    doubt: str
    """Why the features may not tell what is asked for; empty where they do."""

    @property
    def kinds(self) -> int:
        """How many sorts of work are asked for."""
        return sum(group in self.groups for group in _WORK)

    @property
    def features(self) -> dict[str, float]:
        """All features, from 0 to 1; those that are missing are 0."""
        kinds = self.kinds
        return {
            **self.shape,
            "two_kinds": float(kinds == 2),
            "three_kinds": float(kinds == 3),
            "many_kinds": float(kinds > 3),
            "calculable": float("computing" in self.groups and self.shape["numbers"] > 0),
            "unusual": float(not self.groups.keys() - _VAGUE),
            **{group: min(count, 3) / 3 for group, count in self.groups.items()},
        }


REASONS = {
    "always": "most requests are like that",
    "few_words": "few words",
    "length": "its length",
    "clauses": "several sentences",
    "commas": "an enumeration",
    "items": "a list of items",
    "asks": "a question",
    "numbers": "numbers",
    "large_numbers": "large numbers",
    "operators": "a formula",
    "amounts": "amounts with their units",
    "yes_or_no": "a question to be answered by yes or no",
    "calculable": "a calculation, and numbers for it",
    "unusual": "nothing that is known",
    "address": "a web address",
    "addresses": "several web addresses",
    "file_names": "the name of a file",
    "code": "a piece of code",
    "material": "a text to work on",
    "follows": "goes on with the conversation",
    "files": "a file is there",
    "several_files": "several files are there",
    "table": "a table is there",
    "tool_named": "the words of a tool's name",
    "tool_described": "the words of a tool's description",
    "two_kinds": "two sorts of work",
    "three_kinds": "three sorts of work",
    "many_kinds": "many sorts of work",
    "greeting": "a greeting",
    "creative": "writing",
    "rewriting": "work on a given text",
    "explaining": "an explanation",
    "coding": "code",
    "fresh": "what is new or changes",
    "lookup": "a search",
    "computing": "a calculation",
    "data": "data",
    "documents": "documents",
    "acting": "an action",
    "chaining": "steps that follow each other",
    "delivering": "a product of several parts",
    "several": "the same for several things",
    "comparing": "a comparison",
    "views": "several views",
    "weighing": "weighing up",
    "deciding": "a decision",
    "contested": "a contested question",
    "either": "a choice between two",
    "ourselves": "something of one's own",
    "personal": "something personal",
}
"""Every feature, in words for people."""

UNKNOWN_LANGUAGE = "its language is not known"
"""A doubt: none of our lists has its words."""

_WORK = ("fresh", "lookup", "computing", "data", "acting", "chaining", "delivering", "several", "comparing")
_TELLING = ("operators", "address", "code", "material", "follows", "files", "tool_named")
"""Shapes that say enough without any word."""
_VAGUE = frozenset(("either", "ourselves"))
"""Groups that say nothing by themselves."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPERATION = re.compile(r"\d ?[-+*/^\u00d7\u00f7=] ?-?\d|\d ?%|\w\^\d|[=<>] ?-?\d|√")
_UNIT = r"%|°|[kcm]?m|kg|g|m?l|km/h|mph|[gm]b|h|min|ft|lbs?|usd|eur|euros?|dollars?|kwh|k"
_AMOUNT = re.compile(rf"[$€£¥] ?\d|\d ?(?:{_UNIT})\b")
_YES_OR_NO = re.compile(
    r"(?:^|[.!?…,] )[¿ ]*(?:is|are|was|were|do|does|did|has|have|should|would|could"
    r"|ist|sind|war|darf|soll|sollten?|hat|est|faut|peut|doit|es|esta|puede|deberian?)\b"
)
_ADDRESS = re.compile(r"\bhttps?://\S|\bwww\.\w")
_FILE_NAME = re.compile(r"\w\.(?:csv|tsv|xlsx?|ods|pdf|docx?|odt|pptx?|txt|md|json|xml|log|html?|parquet|zip)\b")
_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\(?\w{1,2}[.)])[ \t]", re.MULTILINE)
_INLINE_ITEM = re.compile(r"\(\w\)|\b\d\) ")
_END = re.compile(r"[.!?;\n]+(?=\s|$)")
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet", ".sav")
_STEM = 5
"""Letters by which two forms of a word are taken for the same."""
_DESCRIPTION = 500
"""Characters of a tool's name and description that are read."""
_NAMELESS = frozenset(
    ("tools", "these", "those", "their", "there", "which", "where", "other", "about", "every", "gives")
)
"""Words that are in the descriptions of most tools."""


def read(situation: Situation) -> Reading:
    """What a request looks like. Its time grows with the length of the text, and is bounded."""
    own = own_words(situation.text)
    plain = folded(own.text)
    words = WORD.findall(plain)
    groups = groups_in(words)
    tools = _read_tools(situation.server_tools)
    named = any(name.issubset(words) for name in tools.names)
    described = len(tools.stems.intersection(word[:_STEM] for word in words))
    shape = {
        **_shape(own, plain, words),
        **_around(situation, len(words)),
        "tool_named": float(named),
        "tool_described": min(described, 4) / 4,
    }
    doubt = _doubt(words, groups, shape)
    if not (tools.web or named or described):
        groups.pop("fresh", None)  # no tool knows it better than the model
    return Reading(shape, groups, doubt)


def _shape(own: Own, plain: str, words: list[str]) -> dict[str, float]:
    numbers = _NUMBER.findall(plain)
    addresses = len(_ADDRESS.findall(plain))
    items = len(_ITEM.findall(plain)) + len(_INLINE_ITEM.findall(plain))
    return {
        "always": 1.0,
        "few_words": float(len(words) < 4 and all(word.isascii() for word in words)),
        "length": min(log2(1 + len(words)), 8) / 8,
        "clauses": min(max(len(_END.findall(plain)) - 1, 0), 3) / 3,
        "commas": min(plain.count(", ") + plain.count("、"), 5) / 5,
        "items": min(items, 4) / 4,
        "asks": float("?" in plain),
        "numbers": min(len(numbers), 5) / 5,
        "large_numbers": float(any(len(number) > 2 and not _is_year(number) for number in numbers)),
        "operators": float(bool(_OPERATION.search(plain))),
        "amounts": min(len(_AMOUNT.findall(plain)), 3) / 3,
        "yes_or_no": float("?" in plain and bool(_YES_OR_NO.search(plain))),
        "address": float(addresses > 0),
        "addresses": float(addresses > 1),
        "file_names": float(bool(_FILE_NAME.search(plain))),
        "code": float(own.code),
        "material": min(log2(1 + own.material), 8) / 8,
    }


def _is_year(number: str) -> bool:
    return len(number) == 4 and number[:2] in ("18", "19", "20")


def _around(situation: Situation, words: int) -> dict[str, float]:
    files = situation.files
    return {
        "follows": float(situation.turns > 1 and words < 12),
        "files": float(bool(files)),
        "several_files": float(len(files) > 1),
        "table": float(any(file.name.lower().endswith(_TABLES) for file in files)),
    }


class Tools(Struct, frozen=True):
    """The words by which tools are known."""

    names: tuple[frozenset[str], ...]
    """The words of each name that has several: one alone, such as `python`, says too little."""
    stems: frozenset[str]
    """How the words of their names and descriptions begin."""
    web: bool
    """Whether one reaches the web."""


@lru_cache(maxsize=64)
def _read_tools(tools: tuple[str, ...]) -> Tools:
    lines = [folded(tool[:_DESCRIPTION]) for tool in tools]
    names = [frozenset(WORD.findall(line.partition(":")[0])) for line in lines]
    words = {word for line in lines for word in WORD.findall(line) if len(word) >= _STEM} - _NAMELESS
    several = tuple(name for name in names if len(name) > 1)
    return Tools(several, frozenset(word[:_STEM] for word in words), any("web" in name for name in names))


def _doubt(words: list[str], groups: Mapping[str, int], shape: Mapping[str, float]) -> str:
    if any(shape[name] for name in _TELLING) or (len(words) < 3 and all(word.isascii() for word in words)):
        return ""
    known = sum(word in lexicon().common for word in words) + sum(groups.values())
    if known * 5 < len(words):
        return UNKNOWN_LANGUAGE
    return "" if groups.keys() - _VAGUE else "no word in it tells what it asks for"
