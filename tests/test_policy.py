"""The language layer of the Python tool: ordinary code works, what cannot be had is told in words, no way leads out."""

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sandbox_files import Case, benign, files, ordinary
from tools.python import Limits, Sandbox
from tools.python.policy import PolicyError, compile_cell

pytestmark = pytest.mark.anyio

CASES = [*benign(), *ordinary()]
ROOT = Path(__file__).parent.parent
_NO_DEL = "`__del__` is a reserved name: write a context manager, or call the clean-up yourself"
_RELATIVE = "from . import a"


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """As well confined as this host can."""
    sandbox = Sandbox(Limits(free_bytes=0), isolation="none")
    await sandbox.start()
    yield sandbox
    await sandbox.close()


def test_there_is_ordinary_code_enough() -> None:
    names = [case.id for case in CASES]
    assert len(names) == len(set(names)) > 180


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_ordinary_code_works_and_refusals_say_what_to_do(case: Case, sandbox: Sandbox, tmp_path: Path) -> None:
    if absent := [name for name in case.needs if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    failed = []
    for number, (cell, expected) in enumerate(zip(case.cells, case.expect, strict=True)):
        execution = await sandbox.run(case.id, tmp_path, cell)
        text = f"{execution.output}{execution.value}{execution.error or ''}"
        assert [each for each in expected if each not in text and each != f"^{execution.value}"] == [], text
        if execution.error is not None:
            failed.append(number)
            assert str(ROOT) not in execution.error
    assert failed == case.expect_error
    assert [name for name in case.expect_files if not (tmp_path / name).exists()] == []
    await sandbox.forget(case.id)


@pytest.mark.parametrize(
    ("source", "message", "line", "text"),
    [
        ("x = 1\n\nclass A:\n  __del__ = 1", _NO_DEL, 4, "__del__ = 1"),
        ("y = [\n  1,\n  f.__globals__]", "`__globals__` is not available", 3, "f.__globals__]"),
        ("g.gi_frame", "the attribute `gi_frame` is not available: code cannot look into frames", 1, "g.gi_frame"),
        ("a = 1\n!ls", "shell commands cannot be run: do it in Python, such as os.listdir() and open()", 2, "!ls"),
        ("%who", "the notebook command %who is not available: write Python", 1, "%who"),
        ("from . import a", "relative imports are not available: there is no package around this code", 1, _RELATIVE),
        ("_getattr_ = 1", "`_getattr_` is a reserved name: choose another one", 1, "_getattr_ = 1"),
        ("class A(**x): 1", "`**` is not available in a class statement: write the arguments", 1, "class A(**x): 1"),
        ("-" * 100_000 + "1", "the code is nested too deeply: write shorter expressions", 1, ""),
        ("1" + "+1" * 50_000, "the code is nested too deeply: write shorter expressions", 1, ""),
    ],
)  # fmt: skip
def test_a_refusal_tells_where_and_what_instead(source: str, message: str, line: int, text: str) -> None:
    with pytest.raises(PolicyError) as raised:
        compile_cell(source, "<cell 7>")
    error = raised.value
    assert (error.filename, error.msg, error.lineno, (error.text or "").strip()) == ("<cell 7>", message, line, text)


def test_half_a_surrogate_pair_is_no_code() -> None:
    with pytest.raises(PolicyError, match="surrogates not allowed"):
        compile_cell("x = '\ud800'", "<cell 1>")


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("x = 1; x", True),
        ("x = 1\nx;", False),
        ("x ;  # comment; with one", False),
        ("x  # comment;", True),
        ("'é; ü'", True),
        ("'é';", False),
        ("(\n1,\n)\n\n", True),
        ("def f(): pass", False),
        ("", False),
        ("# nothing", False),
    ],
)
def test_the_last_expression_is_shown_unless_a_semicolon_follows(source: str, shows: bool) -> None:
    assert (compile_cell(source, "<cell 1>").value is not None) == shows


_WALK = """
import builtins, ctypes, importlib, io, os, subprocess, sys, types, warnings
from importlib.util import find_spec
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import matplotlib; matplotlib.use("Agg")
from tools.python.policy import make_globals
from tools.python.policy.attributes import get_attribute
from tools.python.policy.modules import CHOSEN, PACKAGES, WHOLE

make_globals(print, print)
run = sys.modules["__main__"].__dict__["__builtins__"]["__import__"]
ways_out = [os, sys, builtins, subprocess, ctypes, importlib, io.FileIO, io.open_code, os.open, os.fdopen, os.system,
    os.popen, subprocess.Popen, subprocess.run, importlib.import_module, type,
    *(getattr(builtins, name) for name in "compile delattr eval exec getattr globals open setattr vars".split())]
ways_out += [builtins.__import__]
identities = {id(way): getattr(way, "__name__", repr(way)) for way in ways_out}
importers = {"import_module", "import_optional_dependency", "import_string", "load_module", "exec_module"}

todo, seen, edges = [], set(), 0
for name in sorted(WHOLE | CHOSEN.keys() | PACKAGES):
    if find_spec(name.partition(".")[0]) is not None:
        package, _, module = name.rpartition(".")
        todo.append((name, getattr(run(package, fromlist=(module,)), module) if package else run(name)))
for path, thing in todo:
    if id(thing) in seen or path.count(".") > 5:
        continue
    seen.add(id(thing))
    for name in dir(thing):
        try:
            value = get_attribute(thing, name)
        except Exception:
            continue
        edges += 1
        if id(value) in identities or getattr(value, "__name__", "") in importers:
            print(f"{path}.{name}")
        if isinstance(value, types.ModuleType | type):
            todo.append((f"{path}.{name}", value))
assert edges > 20_000, edges
"""


def test_no_attribute_of_what_may_be_imported_leads_out(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-I", "-c", _WALK, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
