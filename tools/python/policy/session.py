"""The global variables of a session: the built-in functions as restricted code gets them, and the guards."""

# ruff: noqa: SIM905 - long lists of words read best as text

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from tools.python.policy import own
from tools.python.policy.attributes import (
    Variables,
    attributes,
    check_update,
    check_write,
    delete_attribute,
    get_attribute,
    has_attribute,
    kind_of,
    metaclass,
    plain_names,
    set_attribute,
)
from tools.python.policy.modules import imported, load_for_library
from tools.python.policy.names import refused_name
from tools.python.policy.patterns import Lookups, class_pattern

_BUILTINS = """
__build_class__ __debug__
Ellipsis False None NotImplemented True abs all any ascii bin bool bytearray bytes callable chr
classmethod complex dict divmod enumerate filter float format frozenset hash hex id int isinstance issubclass iter len
list map max memoryview min next object oct ord pow property range repr reversed round set slice sorted staticmethod str
sum super tuple zip
""".split()

_EXCEPTIONS = [
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)
]

_INSTEAD = {
    "breakpoint": "there is no debugger here: use print()",
    "compile": "write the code itself",
    "eval": "write the expression itself; ast.literal_eval() reads literals, json.loads() reads JSON",
    "exec": "write the code itself",
    "help": "use print(thing.__doc__)",
    "input": "nobody can answer here: write the value into the code",
}


def make_globals(write: Callable[[str], Any], show: Callable[[Any], None]) -> dict[str, Any]:
    """The global variables of a new session, which is the process's only one: they are those of its `__main__`.

    Args:
        write: takes what is printed.
        show: takes what code displays.
    """
    main = types.ModuleType("__main__")
    # dataclasses and typing look there for what a session's classes are made of.
    sys.modules["__main__"] = main
    main.__dict__.update(
        __builtins__=_builtins(write, show),
        _getattr_=get_attribute,
        _write_=check_write,
        _update_=check_update,
        _metaclass_=metaclass,
        _plain_names_=plain_names,
        _lookups_=Lookups,
        _class_pattern_=class_pattern,
    )
    return main.__dict__


def _builtins(write: Callable[[str], Any], show: Callable[[Any], None]) -> dict[str, Any]:
    return {
        **{name: getattr(builtins, name) for name in (*_BUILTINS, *_EXCEPTIONS)},
        **{name: _unavailable(name, instead) for name, instead in _INSTEAD.items()},
        "__import__": _import,
        "delattr": delete_attribute,
        "dir": _dir,
        "display": _displayer(show),
        "exit": sys.exit,
        "getattr": get_attribute,
        "globals": _globals,
        "hasattr": has_attribute,
        "locals": _locals,
        "open": own.open_file,
        "print": _printer(write),
        "quit": sys.exit,
        "setattr": set_attribute,
        "type": kind_of(type),
        "vars": _vars,
    }


def _printer(write: Callable[[str], Any]) -> Callable[..., None]:
    stream = _Stream(write)
    original = sys.stdout

    def print(
        *values: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
    ) -> None:
        """Prints the values, with `sep` between them and `end` behind them."""
        if file is None:
            file = stream if sys.stdout is original else sys.stdout
        builtins.print(*values, sep=sep, end=end, file=file, flush=flush)

    return print


def _displayer(show: Callable[[Any], None]) -> Callable[..., None]:
    def display(*values: Any) -> None:
        for value in values:
            show(value)

    return display


class _Stream:
    """What print() writes to."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self.write = write

    def flush(self) -> None:
        """Whoever takes the text does that."""


def _unavailable(name: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"{name}() is not available: {instead}")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    # PyImport_Import(), by which C code imports, calls the built-in `__import__` of the running frame, with an empty
    # list for the names; an import statement gives None or a tuple (Python/import.c and Python/ceval.c of CPython).
    if isinstance(fromlist, list):
        return load_for_library(name)
    return imported(name, fromlist, get_attribute)


def _caller() -> types.FrameType:
    """The frame of the code that called a built-in function of this module."""
    return sys._getframe(2)


def _seen(name: str) -> bool:
    return refused_name(name) is None and name not in builtins.__dict__


def _globals() -> Variables:
    return Variables(_caller().f_globals, _seen, _check_variable)


def _locals() -> Variables:
    return Variables(_caller().f_locals, _seen, _check_variable)


def _vars(*thing: Any) -> dict[str, Any]:
    return attributes(*thing) if thing else Variables(_caller().f_locals, _seen, _check_variable)


def _dir(*thing: Any) -> list[str]:
    return dir(*thing) if thing else sorted(name for name in _caller().f_locals if _seen(name))


def _check_variable(name: str) -> None:
    if reason := refused_name(name):
        raise NameError(reason)
