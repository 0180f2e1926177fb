"""Runs cells as a notebook does: variables stay, the last expression's value is shown, charts become files."""

import ast
import linecache
import re
import sys
import traceback
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, Protocol

from msgspec import Struct

from tools.python import policy
from tools.python.charts import Charts

LONGEST_VALUE = 16_000
LONGEST_ERROR = 4_000
"""Characters."""
_FRAMES = 8
"""Frames that are shown, the last ones."""
_DEEPEST = 1000
"""Frames among which these are looked for."""
_CELL = re.compile(r"<cell \d+>")


class Cell(Protocol):
    """A compiled cell."""

    @property
    def body(self) -> CodeType:
        """All but the last expression."""

    @property
    def value(self) -> CodeType | None:
        """The last expression, where there is one to be shown."""


class Interpreter:
    """The variables of a session, and what runs on them.

    Args:
        language: whether the language layer is there; without it code is compiled as it is.
        write: takes what is printed.
    """

    def __init__(self, language: bool, write: Callable[[str], Any]) -> None:
        self._charts = Charts()
        self._compile, self._globals = _restricted(write, self._show) if language else _plain()
        self._write = write

    def run(self, number: int, code: str) -> str:
        """Runs a cell, and gives the last expression's value as text. Raises whatever the code raises."""
        name = f"<cell {number}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        self._charts.begin(number)
        cell = self._compile(code, name)
        exec(cell.body, self._globals)
        value = eval(cell.value, self._globals) if cell.value is not None else None
        text = shown(value)
        self._charts.save_all()
        return text

    def _show(self, value: Any) -> None:
        self._write(shown(value) + "\n")


def shown(value: Any) -> str:
    """A value as a notebook would show it, without the middle of what is too long; nothing for None."""
    if value is None:
        return ""
    text = str.__str__(repr(value))
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE // 2]}\n[… {len(text) - LONGEST_VALUE} characters …]\n{text[-LONGEST_VALUE // 2 :]}"


def told(error: BaseException) -> str:
    """An error as its author needs it: the frames in cells, each with its line, and what was raised.

    It may run code of the cell's, such as an exception's `__str__`.
    """
    story = traceback.TracebackException.from_exception(error, limit=-_DEEPEST, max_group_width=5, max_group_depth=3)
    chapter = story
    while True:
        frames = [each for each in chapter.stack if _CELL.fullmatch(each.filename)][-_FRAMES:]
        # Without columns: the language layer has moved them.
        chapter.stack = traceback.StackSummary.from_list(
            [traceback.FrameSummary(each.filename, each.lineno, each.name, line=each.line) for each in frames]
        )
        chapter.__context__ = None
        cause = chapter.__cause__
        if cause is None or not any(_CELL.fullmatch(frame.filename) for frame in cause.stack):
            chapter.__cause__ = None
            break
        chapter = cause
    text = "".join(story.format())
    return text if len(text) <= LONGEST_ERROR else f"{text[:1000]}\n[…]\n{text[1000 - LONGEST_ERROR :]}"


class _Plain(Struct, frozen=True):
    body: CodeType
    value: CodeType | None


def _compile_plain(source: str, name: str) -> Cell:
    tree = ast.parse(source, name)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        return _Plain(compile(tree, name, "exec"), None)
    body = ast.Module(tree.body[:-1], tree.type_ignores)
    return _Plain(compile(body, name, "exec"), compile(ast.Expression(last.value), name, "eval"))


def _plain() -> tuple[Callable[[str, str], Cell], dict[str, Any]]:
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    return _compile_plain, module.__dict__


def _restricted(
    write: Callable[[str], Any], show: Callable[[Any], None]
) -> tuple[Callable[[str, str], Cell], dict[str, Any]]:
    policy.harden()
    return policy.compile_cell, policy.make_globals(write, show)
