"""Versions of our own of library functions that would read attributes, open files or evaluate text past the guards."""

import functools
import inspect
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import timeit
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

from tools.python.policy.attributes import get_attribute, is_own, kind_of
from tools.python.policy.modules import OWN, Facade, stands_for
from tools.python.policy.names import special

STACK = 8 * 1024
"""Calls within calls that code may allow itself: more do not fit into the memory of a thread's stack."""


@stands_for("sys")
class Sys(Facade):
    """The module sys. Its streams are the real ones, so that what code puts in their place takes all output."""

    settable: ClassVar = frozenset(("stdout", "stderr"))
    argv: ClassVar = [""]
    path: ClassVar[list[str]] = []

    @property
    def stdout(self) -> Any:
        """Where print() writes."""
        return sys.stdout

    @stdout.setter
    def stdout(self, stream: Any) -> None:
        sys.stdout = stream

    @property
    def stderr(self) -> Any:
        """Where warnings go."""
        return sys.stderr

    @stderr.setter
    def stderr(self, stream: Any) -> None:
        sys.stderr = stream


OWN["sys.argv"] = [""]
OWN["sys.path"] = []
OWN["os.environ"] = {}
OWN["os.getenv"] = lambda key, default=None: default


@stands_for("sys.setrecursionlimit")
def setrecursionlimit(limit: int) -> None:
    """As far as there is memory for it."""
    sys.setrecursionlimit(min(limit, STACK))


@stands_for("sys.exc_info")
def exc_info() -> tuple[Any, Any, None]:
    """Without the traceback, whose frames code cannot look into."""
    kind, error, _ = sys.exc_info()
    return kind, error, None


@stands_for("os.chdir")
def chdir(path: str) -> None:
    """Stays where it is, if told to go there."""
    if os.path.realpath(path) != os.path.realpath("."):
        raise PermissionError(f"the working folder cannot be changed: use paths in it, without os.chdir({path!r})")


@stands_for("io.open")
def open_file(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> IO[Any]:
    """open() for files in the working folder, by their names.

    Raises:
        PermissionError: the path leads out of it.
    """
    return open(within(file), mode, buffering, encoding, errors, newline)  # noqa: PTH123


@stands_for("codecs.open")
def open_encoded(filename: Any, mode: str = "r", encoding: str | None = None, errors: str = "strict") -> IO[Any]:
    """codecs.open() for the same files."""
    return open_file(filename, mode, encoding=encoding, errors=errors)


def within(path: Any) -> str | bytes:
    """A path of a file in the working folder.

    Raises:
        PermissionError: it leads out of it.
    """
    if isinstance(path, int):
        raise PermissionError("files are opened by their names only")
    name: str | bytes = os.fspath(path)
    full = os.path.realpath(os.fsdecode(name))
    folders = (os.path.realpath("."), os.path.realpath(tempfile.gettempdir()))
    if full != os.devnull and not any(full == folder or full.startswith(folder + os.sep) for folder in folders):
        raise PermissionError(
            f"only files in the working folder can be opened, by a relative path such as 'data.csv', not {name!r}"
        )
    return name


@stands_for("shutil.copy")
@stands_for("shutil.copy2")
def copy(source: Any, target: Any) -> Any:
    """Copies a file, but not its times and permissions, which cannot be set here."""
    if Path(target).is_dir():
        target = Path(target, Path(source).name)
    shutil.copyfile(within(source), within(target))
    return target


@stands_for("functools.wraps")
def wraps(wrapped: Any, **_: Any) -> Callable[[Any], Any]:
    """Copies a function's name and docstring to one of the code's own."""

    def decorate(wrapper: Any) -> Any:
        if isinstance(wrapper, types.FunctionType) and is_own(wrapper):
            for name in ("__name__", "__qualname__", "__doc__"):
                if isinstance(value := getattr(wrapped, name, None), str):
                    setattr(wrapper, name, value)
        return wrapper

    return decorate


@stands_for("operator.attrgetter")
def attrgetter(*names: str) -> Callable[[Any], Any]:
    """Reads attributes as code may."""

    def read(thing: Any) -> Any:
        values = [functools.reduce(get_attribute, name.split("."), thing) for name in names]
        return values[0] if len(values) == 1 else tuple(values)

    return read


@stands_for("operator.methodcaller")
def methodcaller(name: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    """Reads the method as code may."""
    return lambda thing: get_attribute(thing, name)(*args, **options)


@stands_for("inspect.signature")
def signature(function: Any) -> inspect.Signature:
    """Without an option that evaluates annotations."""
    return inspect.signature(function)


@stands_for("typing.get_origin")
def get_origin(kind: Any) -> Any:
    """Without the real `type`."""
    origin = typing.get_origin(kind)
    return kind_of(origin) if isinstance(origin, type) else origin


@stands_for("types.SimpleNamespace")
class SimpleNamespace(types.SimpleNamespace):
    """Without attributes of special names, from which libraries take orders."""

    def __init__(self, **values: Any) -> None:
        if strays := [name for name in values if special(name)]:
            raise AttributeError(f"`{strays[0]}` cannot be set")
        super().__init__(**values)


@stands_for("traceback.format_exc")
def format_exc(limit: int | None = None, chain: bool = True) -> str:
    """The exception that is being handled, with the frames of cells only."""
    error = sys.exception()
    if error is None:
        return "NoneType: None\n"
    story = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in story.stack if frame.filename.startswith("<cell")]
    story.stack = traceback.StackSummary.from_list(frames[:limit])
    return "".join(story.format(chain=False))


@stands_for("traceback.print_exc")
def print_exc(limit: int | None = None, file: Any = None, chain: bool = True) -> None:
    """Prints it."""
    print(format_exc(limit), end="", file=file or sys.stderr)


@stands_for("timeit.timeit")
def measure(
    stmt: Any = None, setup: Any = None, timer: Any = timeit.default_timer, number: int = 1000, globals: Any = None
) -> float:
    """Times a function; text is not evaluated."""
    if not callable(stmt):
        raise TypeError("timeit takes a function here, not text: timeit.timeit(lambda: f(1), number=1000)")
    if callable(setup):
        setup()
    began = timer()
    for _ in range(number):
        stmt()
    return float(timer() - began)


@stands_for("timeit.repeat")
def measure_again(stmt: Any = None, setup: Any = None, *, repeat: int = 5, number: int = 1000) -> list[float]:
    """Times a function several times."""
    return [measure(stmt, setup, number=number) for _ in range(repeat)]


@stands_for("logging.basicConfig")
def configure_logging(**options: Any) -> None:
    """Takes effect although logging is configured already."""
    logging.basicConfig(**{"force": True, **options})


@stands_for("logging.Formatter")
class Formatter(logging.Formatter):
    """Without the style `{`, which reads attributes past the guards."""

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, style: str = "%", **options: Any) -> None:
        if style == "{":
            raise ValueError("the style '{' is not available: use '%'")
        super().__init__(fmt, datefmt, "$" if style == "$" else "%", **options)


@stands_for("sqlite3.Connection")
class Connection(sqlite3.Connection):
    """A connection to one database, which attaches no other."""

    def __init__(self, database: Any, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        super().set_authorizer(_authorize)

    def set_authorizer(self, *_: Any) -> NoReturn:
        """Not available."""
        raise PermissionError("set_authorizer() is not available here")


@stands_for("sqlite3.connect")
def connect(database: Any, *args: Any, **options: Any) -> sqlite3.Connection:
    """Opens a database in memory or in the working folder."""
    if options.pop("uri", False):
        raise PermissionError("databases are opened by their paths only, without uri=True")
    options.pop("factory", None)
    name = database if database in (":memory:", "") else within(database)
    return sqlite3.connect(name, *args[:4], factory=Connection, **options)


def _authorize(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH) else sqlite3.SQLITE_OK
