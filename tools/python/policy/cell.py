"""From source text to code that may run: a cell as in a notebook, with the habits that models bring from there."""

import ast
import re
from types import CodeType

from msgspec import Struct

from tools.python.policy.modules import SHOWN
from tools.python.policy.transform import Policy, PolicyError

_FENCE = re.compile(r"\s*```[\w ]*\n(.*?)\n?```\s*", re.DOTALL)
_MAGIC = re.compile(r"\s*(%%?(?=[a-z])|!)(\w*)(.*)")
_DROPPED = frozenset(("matplotlib", "pylab", "config", "load_ext", "reload_ext", "autoreload", "precision", "capture"))
_TIMED = frozenset(("time", "timeit"))
_INSTALL = re.compile(r"\s*(%|!)?\s*(python3? -m )?(pip3?|conda|apt|apt-get) (install|list|show)\b")
_NO_PACKAGES = f"packages cannot be installed: there is no network. There are: {SHOWN}"
_NO_SHELL = "shell commands cannot be run: do it in Python, such as os.listdir() and open()"
_TOO_DEEP = "the code is nested too deeply: write shorter expressions"


class Cell(Struct, frozen=True):
    """A compiled cell."""

    body: CodeType
    """All but the last expression."""
    value: CodeType | None
    """The last expression, whose value is to be shown; None: there is none, or it ends in `;`."""


def compile_cell(source: str, name: str) -> Cell:
    """Compiles a cell under the policy.

    Args:
        source: the text. Notebook commands that change nothing here, such as `%matplotlib inline`, and a fence of
            Markdown around it are left out.
        name: the file name in its tracebacks, such as `<cell 3>`.

    Raises:
        PolicyError: it may not run here; the text says what to write instead.
        SyntaxError: it is no Python.
    """
    if fenced := _FENCE.fullmatch(source):
        source = fenced[1]
    try:
        tree = _parse(source, name)
        shows = _shows_last(tree, source)
        tree = Policy(name, source.splitlines()).visit(tree)
        ast.fix_missing_locations(tree)
        value = ast.Expression(tree.body.pop().value) if shows else None
        return Cell(
            compile(tree, name, "exec", dont_inherit=True),
            compile(value, name, "eval", dont_inherit=True) if value else None,
        )
    except (RecursionError, MemoryError):
        raise PolicyError(_TOO_DEEP, (name, 1, 1, "")) from None


def _parse(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source, name)
    except SyntaxError as error:
        if (plain := _without_commands(source, name)) == source:
            raise _explained(error, source) from None
    except ValueError as error:  # a null byte, or half of a surrogate pair
        raise PolicyError(str(error), (name, 1, 1, "")) from None
    return ast.parse(plain, name)


def _without_commands(source: str, name: str) -> str:
    """The source without the lines that are commands to a notebook, in as many lines.

    Raises:
        PolicyError: there is a command that cannot be done.
    """
    return "\n".join(_without_command(line, number, name) for number, line in enumerate(source.split("\n"), 1))


def _without_command(line: str, number: int, name: str) -> str:
    if _INSTALL.match(line):
        raise PolicyError(_NO_PACKAGES, (name, number, 1, line))
    if not (command := _MAGIC.fullmatch(line)):
        return line
    mark, word, rest = command.groups()
    if mark == "!":
        raise PolicyError(_NO_SHELL, (name, number, 1, line))
    if word in _TIMED:
        return line[: len(line) - len(line.lstrip())] + rest.strip()
    if word not in _DROPPED:
        raise PolicyError(f"the notebook command {mark}{word} is not available: write Python", (name, number, 1, line))
    return ""


def _explained(error: SyntaxError, source: str) -> SyntaxError:
    if "line continuation" in (error.msg or "") and "\\n" in source and "\n" not in source.strip():
        error.msg = "there is \\n where line breaks should be: send the code with real line breaks"
    return error


def _shows_last(tree: ast.Module, source: str) -> bool:
    """Whether the last statement is an expression without `;` behind it."""
    if not tree.body or not isinstance(last := tree.body[-1], ast.Expr):
        return False
    assert last.end_lineno is not None and last.end_col_offset is not None
    rest = re.split("\r\n|\r|\n", source)[last.end_lineno - 1 :]
    return not rest[0].encode()[last.end_col_offset :].lstrip().startswith(b";")
