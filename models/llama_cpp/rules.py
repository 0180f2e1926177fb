"""The rules of a grammar in Lark's notation, as llguidance reads it."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from models.backend import ToolSpec

_SLASH = re.compile(r"(?<!\\)/")
"""A slash that would end a regular expression in Lark."""
_COMPACT = {"whitespace_flexible": False}
_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As models are trained to write calls."""
_NOTHING: dict[str, Any] = {"properties": {}, "additionalProperties": False}


class Rules:
    """Rules under names of their own, for answers in which `marks` may be tokens.

    `token` gives the control token of a name, None where it is written in letters. Before calls stands text only where
    there are `openings`, which tell it from calls.
    """

    def __init__(self, marks: Iterable[str], token: Callable[[str], int | None], openings: Sequence[str] = ()) -> None:
        self._openings = openings
        self._tokens = {mark: number for mark in marks if mark and (number := token(mark)) is not None}
        names = sorted(self._tokens, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._rules: list[str] = []

    def text(self, text: str) -> str:
        """What matches exactly this text, with the family's marks as the tokens that they are."""
        parts, place = [], 0
        for match in self._marks.finditer(text):
            parts += [quoted(text[place : match.start()]), f"<[{self._tokens[match.group()]}]>"]
            place = match.end()
        return " ".join(part for part in [*parts, quoted(text[place:])] if part != '""') or '""'

    def json(self, schema: dict[str, Any], *, spaced: bool = True) -> str:
        """What matches JSON that the schema allows."""
        return self.add(f"%json {json.dumps({**schema, 'x-guidance': _SPACED if spaced else _COMPACT})}")

    def regex(self, pattern: str) -> str:
        """What matches a regular expression, in which `.` is any character but a line break."""
        return self.add(f"/{_SLASH.sub(chr(92) + '/', pattern)}/")

    def grammar(self, lark: str) -> str:
        """What matches a grammar of its own, which begins with `start`."""
        return self.add(f"%lark {{\n{lark}\n}}")

    def until(self, mark: str) -> str:
        """What matches any text up to the mark, and the mark."""
        token = self._marks.search(mark)
        if not token:
            return self.add("/(?s:.*)/", f"[suffix={quoted(mark)}]")
        letters, rest = mark[: token.start()], mark[token.start() :]
        return f"{self.add(f'/(?s:.*){_escaped(letters)}/')} {self.text(rest)}"

    def free_text(self) -> str:
        """What matches text in which nothing opens a call."""
        name = f"TEXT_{len(self._rules)}"
        self._rules.append(f"{name}: /(?s:.*)/ & ~/(?s:.*)({'|'.join(map(_escaped, self._openings))})(?s:.*)/")
        return name

    def calls(self, calls: Iterable[str], opening: str, between: str, closing: str, *, many: bool) -> str:
        """What matches one of these calls, or with `many` any number of them, and the text around them."""
        one = self.add(" | ".join(calls))
        again = f"({self.text(between)} {one})*" if many else ""
        return self.add(f"{self._begun(opening)} {one} {again} {self.text(closing)}")

    def _begun(self, opening: str) -> str:
        if not self._openings:
            return self.text(opening)
        return f"{self.free_text()} {self.text(opening)}" if self._marks.match(opening) else self.until(opening)

    def any_of(self, *choices: str) -> str:
        """What matches one of these."""
        return self.add(" | ".join(choices))

    def arguments(self, tool: ToolSpec) -> str:
        """What matches the arguments of a tool as JSON."""
        return self.json({"type": "object", **(tool.parameters or _NOTHING)})

    def add(self, body: str, attributes: str = "") -> str:
        """Adds a rule and gives its name."""
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def lark(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join([f"start: {start}", *self._rules])


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)
