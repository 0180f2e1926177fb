"""The tool `python`: what a model is told of it, and what it reads of its code's work."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from tools import Result, Session, Toolbox
from tools.python import Limits, Sandbox, python_tool
from tools.session import File

pytestmark = pytest.mark.anyio

LIMITS = Limits(seconds=2.0, grace=0.5, free_bytes=0)


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(LIMITS)
    await sandbox.start()
    if reason := sandbox.unavailable():
        await sandbox.close()
        pytest.skip(reason)
    yield sandbox
    await sandbox.close()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, id=str(tmp_path))


@pytest.fixture
def toolbox(sandbox: Sandbox) -> Toolbox:
    return Toolbox([python_tool(sandbox)])


async def call(toolbox: Toolbox, session: Session, code: str) -> Result:
    return msgspec.structs.replace(await toolbox.run("python", {"code": code}, session), seconds=0.0)


def chart(name: str, session: Session) -> File:
    with Image.open(session.folder / name) as image:
        assert image.format == "PNG"
        assert len(image.getcolors(image.width * image.height) or []) > 1
    return File(name, "image/png", (session.folder / name).stat().st_size)


async def test_it_is_offered_only_where_code_is_confined(toolbox: Toolbox) -> None:
    (spec,) = toolbox.specs()
    assert (spec.name, spec.parameters) == (
        "python",
        {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "the Python code."}},
            "required": ["code"],
            "additionalProperties": False,
        },
    )
    cold = Toolbox([python_tool(Sandbox(LIMITS))])
    assert cold.specs() == ()


async def test_calling_it_where_it_is_not_offered_says_why(session: Session) -> None:
    cold = Toolbox([python_tool(Sandbox(LIMITS))])
    assert await call(cold, session, "1") == Result(
        "", error="The tool python is not available: it has not been started"
    )


async def test_output_and_value_are_told_and_files_given(toolbox: Toolbox, session: Session) -> None:
    code = "print('writing')\nwith open('out.csv', 'w') as file:\n    file.write('a,b')\n40 + 2"
    assert await call(toolbox, session, code) == Result("writing\n42", files=(File("out.csv", "text/csv", 3),))
    assert await call(toolbox, session, "x = 1") == Result("")


async def test_an_error_is_told_with_what_was_printed_before(toolbox: Toolbox, session: Session) -> None:
    assert await call(toolbox, session, "print('before')\n1 / 0") == Result(
        "before",
        error='Traceback (most recent call last):\n  File "<cell 1>", line 2, in <module>\n    1 / 0\n'
        "ZeroDivisionError: division by zero\n",
    )


async def test_lost_variables_are_told_of(sandbox: Sandbox, session: Session) -> None:
    toolbox = Toolbox([python_tool(sandbox)])
    await call(toolbox, session, "x = 1\nopen('kept', 'w').close()")
    await sandbox.run("other", session.folder, "1")
    late = "The code did not end within 2 seconds, and the process was killed."
    assert await call(toolbox, session, "print(1)\nsum(range(10**12))") == Result(
        "1\n[All variables are lost, the files are kept; the next call starts with a fresh interpreter.]", error=late
    )
    assert await call(toolbox, session, "import os\nos.listdir()") == Result(
        f"['kept']\n[The variables of earlier calls are gone; the files are kept. {late}]"
    )


async def test_charts_become_files(toolbox: Toolbox, session: Session) -> None:
    first = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.show()"
    code = f"{first}\n_, axes = plt.subplots()\naxes.bar(['a'], [1]);"
    result = await call(toolbox, session, code)
    assert result == Result("", files=(chart("plot_1_1.png", session), chart("plot_1_2.png", session)))
    assert await call(toolbox, session, "plt.show()") == Result("")


async def test_a_chart_that_code_saves_is_not_saved_twice(toolbox: Toolbox, session: Session) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.savefig('mine.png')"
    assert await call(toolbox, session, code) == Result("", files=(chart("mine.png", session),))


async def test_a_chart_of_code_that_fails_is_dropped(toolbox: Toolbox, session: Session) -> None:
    failed = await call(toolbox, session, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n1 / 0")
    assert (failed.error is not None, failed.files) == (True, ())
    assert await call(toolbox, session, "1") == Result("1")


async def test_a_chart_takes_no_other_files_name(sandbox: Sandbox, toolbox: Toolbox, session: Session) -> None:
    (session.folder / "plot_1_1.png").write_text("somebody's")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.show()"
    assert await call(toolbox, session, code) == Result("", files=(chart("plot_1_2.png", session),))
    assert (session.folder / "plot_1_1.png").read_text() == "somebody's"


async def test_tables_are_shown_as_text(toolbox: Toolbox, session: Session) -> None:
    code = "import pandas as pd\npd.DataFrame({'city': ['Oslo', 'Rome'], 'sun': [5, 9]})"
    assert await call(toolbox, session, code) == Result("   city  sun\n0  Oslo    5\n1  Rome    9")
    wide = await call(toolbox, session, "pd.DataFrame({f'column {n}': [n] for n in range(30)})")
    assert "column 29" in wide.output and "..." not in wide.output


async def test_large_tables_are_read_without_threads(toolbox: Toolbox, session: Session) -> None:
    lines = "\n".join(f"{number},{number * 2},word" for number in range(300_000))
    (session.folder / "large.csv").write_text(f"a,b,c\n{lines}\n")
    assert await call(toolbox, session, "import pandas as pd\nint(pd.read_csv('large.csv').b.sum())") == Result(
        str(sum(number * 2 for number in range(300_000)))
    )


async def test_workbooks_are_written_and_read(toolbox: Toolbox, session: Session) -> None:
    code = "import pandas as pd\npd.DataFrame({'a': [1, 2]}).to_excel('book.xlsx', index=False)"
    result = await call(toolbox, session, code)
    assert [file.name for file in result.files] == ["book.xlsx"]
    assert await call(toolbox, session, "int(pd.read_excel('book.xlsx').a.sum())") == Result("3")


async def test_chance_is_different_in_every_session(sandbox: Sandbox, tmp_path: Path) -> None:
    code = "import random, numpy\nrandom.random(), float(numpy.random.rand())"
    toolbox = Toolbox([python_tool(sandbox)])
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        texts.append((await call(toolbox, Session(tmp_path / name, id=name), code)).output)
    one, two = (set(text.strip("()").split(", ")) for text in texts)
    assert one & two == set()
