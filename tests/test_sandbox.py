"""The sandbox: what becomes of code that behaves, of code that does not, and of the server beside it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.live import until
from tests.process import gone
from tools.documents import Section, Unreadable
from tools.folder import remove_tree
from tools.python import Execution, ExtractionFailed, Layers, Limits, Sandbox, Unusable, kernel
from tools.python.survey import survey

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
MB = 1024**2
LIMITS = Limits(
    seconds=0.6,
    grace=0.4,
    memory=256 * MB,
    file_bytes=10 * MB,
    folder_bytes=20 * MB,
    files=100,
    output=1000,
    at_once=2,
    free_bytes=0,
)
BARE = Layers(language=False, audit=False)
"""What the kernel holds alone."""
LOST = "All variables are lost, the files are kept; the next call starts with a fresh interpreter."
ENDLESS = "open('begun', 'w').close()\nwhile True:\n    pass"
MALFORMED = "The process broke the rules of its conversation with the server, and was killed."

Start = Callable[..., Any]
Run = Callable[[str], Any]


async def started(limits: Limits = LIMITS, **options: Any) -> Sandbox:
    sandbox = Sandbox(limits, preload=(), **options)
    await sandbox.start()
    if reason := sandbox.unavailable():
        await sandbox.close()
        pytest.skip(reason)
    return sandbox


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """With all that this host has."""
    sandbox = await started()
    yield sandbox
    await sandbox.close()


@pytest.fixture(scope="module")
async def bare() -> AsyncIterator[Sandbox]:
    """Without the inner layers: code does what it wants, as after an escape from them."""
    sandbox = await started(layers=BARE)
    yield sandbox
    await sandbox.close()


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[Sandbox]:
    """With room for two sessions."""
    sandbox = await started(msgspec.structs.replace(LIMITS, sessions=2, at_once=8))
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a sandbox of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(limits: Limits = LIMITS, **options: Any) -> Sandbox:
            sandbox = await started(limits, **options)
            stack.push_async_callback(sandbox.close)
            return sandbox

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run(sandbox: Sandbox, folder: Path) -> Run:
    """Runs a cell in a session of the test's own."""
    return lambda code: sandbox.run(str(folder), folder, code)


@pytest.fixture
def run_bare(bare: Sandbox, folder: Path) -> Run:
    return lambda code: bare.run(str(folder), folder, code)


def plain(execution: Execution) -> Execution:
    """Without what no test can know."""
    return msgspec.structs.replace(execution, seconds=0.0)


def killed(reason: str, **fields: Any) -> Execution:
    return Execution(**{"error": reason, "ended": "killed", "alive": False, "notes": (LOST,), **fields})


def forgotten(reason: str) -> str:
    return f"The variables of earlier calls are gone; the files are kept. {reason}"


def state(pid: int) -> str:
    """How a process is: R, S, T (stopped), Z, …; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What code that behaves gets


async def test_a_session_is_like_a_notebook(run: Run) -> None:
    assert plain(await run("x = 20\nprint('set')")) == Execution("set\n")
    assert plain(await run("def double(n):\n    return 2 * n\nprint(x)\ndouble(x)")) == Execution("20\n", "40")
    assert plain(await run("None")) == Execution()


async def test_files_stay_and_are_told_of(run: Run, folder: Path) -> None:
    (folder / "in.txt").write_text("given")
    code = "text = open('in.txt').read()\nwith open('out.txt', 'w') as file:\n    file.write(text.upper())"
    assert plain(await run(code)) == Execution(files=("out.txt",))
    assert plain(await run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()")) == Execution(files=("a/b/c",))
    assert plain(await run("open('out.txt').read()")) == Execution(value="'GIVEN'")
    assert (folder / "out.txt").read_text() == "GIVEN"


async def test_a_file_that_comes_later_can_be_read_and_changed(run: Run, folder: Path) -> None:
    await run("x = 1")
    (folder / "later.txt").write_text("a")
    code = "with open('later.txt', 'a') as file:\n    file.write('b')\nopen('later.txt').read()"
    assert plain(await run(code)) == Execution(value="'ab'", files=("later.txt",))


async def test_an_error_shows_the_lines_of_cells_and_nothing_of_the_host(run: Run) -> None:
    await run("import json\ndef parse(text):\n    return json.loads(text)")
    execution = await run("parse('[1,')")
    assert plain(execution) == Execution(
        error="Traceback (most recent call last):\n"
        '  File "<cell 2>", line 1, in <module>\n'
        "    parse('[1,')\n"
        '  File "<cell 1>", line 3, in parse\n'
        "    return json.loads(text)\n"
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 4 (char 3)\n",
        ended="error",
    )


async def test_a_cause_is_told_where_the_code_has_named_it(run: Run) -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('no') from error"
    told = (await run(code)).error
    assert told is not None
    assert [line for line in told.splitlines() if not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "ZeroDivisionError: division by zero",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        "ValueError: no",
    ]


async def test_wrong_syntax_is_told_with_its_line(run: Run) -> None:
    told = (await run("x = 1\ny = = 2")).error
    assert told == '  File "<cell 1>", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax\n'


async def test_an_exit_ends_the_cell_only(run: Run) -> None:
    await run("x = 1")
    assert (await run("import sys\nsys.exit(3)")).ended == "error"
    assert plain(await run("x")) == Execution(value="1")


async def test_warnings_name_no_path(run: Run) -> None:
    code = "import warnings\nwarnings.warn('careful')"
    assert plain(await run(code)) == Execution("UserWarning: careful\n")


async def test_text_that_cannot_be_encoded_is_shown_escaped(run: Run) -> None:
    assert plain(await run("print(chr(0xD800))\nchr(0xD800)")) == Execution("\\ud800\n", "'\\ud800'")
    assert (await run("print('\ud800')")).output == "?\n"


async def test_calls_of_one_session_run_in_order(sandbox: Sandbox, folder: Path) -> None:
    await sandbox.run("order", folder, "seen = []")
    codes = [f"seen.append({number})\nlen(seen)" for number in range(8)]
    executions = await asyncio.gather(*(sandbox.run("order", folder, code) for code in codes))
    assert [each.value for each in executions] == [str(number + 1) for number in range(8)]


async def test_sessions_share_nothing(bare: Sandbox, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    code = "import os\nx = 1\nopen('mine', 'w').write('secret')\nos.getpid(), os.getuid()"
    one = await bare.run("one", folders[0], code)
    assert "NameError: name 'x' is not defined" in str((await bare.run("two", folders[1], "x")).error)
    two = await bare.run("two", folders[1], "import os\nos.getpid(), os.getuid()")
    (pid_one, uid_one), (pid_two, uid_two) = (eval(each.value) for each in (one, two))
    assert pid_one != pid_two
    if "uid" in bare.layers:
        assert uid_one != uid_two
    look = await bare.run("two", folders[1], f"open({str(folders[0] / 'mine')!r}).read()")
    assert look.ended == "error" and "secret" not in str(look.error)


async def test_a_session_does_nothing_between_its_calls(run_bare: Run) -> None:
    pid = int((await run_bare("import os\nos.getpid()")).value)
    await until(lambda: state(pid) == "T")
    assert plain(await run_bare("1")) == Execution(value="1")
    await until(lambda: state(pid) == "T")


# What code that does not behave gets


async def test_what_takes_too_long_is_interrupted_and_keeps_its_variables(run: Run) -> None:
    execution = await run("x = 1\nprint('begun')\nwhile True:\n    x += 1")
    assert (execution.output, execution.ended, execution.alive) == ("begun\n", "timeout", True)
    assert execution.error.endswith("TimeUp: stopped after 0.6 seconds\n")
    assert execution.notes == ("The code was interrupted. The variables are kept.",)
    assert plain(await run("x > 1")) == Execution(value="True")


@pytest.mark.parametrize(
    "code",
    [
        "sum(range(10**12))",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
    ],
)
async def test_what_cannot_be_interrupted_is_killed(run_bare: Run, code: str) -> None:
    await run_bare("x = 1")
    late = "The code did not end within 0.6 seconds, and the process was killed."
    assert plain(await run_bare(f"print('begun')\n{code}")) == killed(late, output="begun", ended="timeout")
    assert plain(await run_bare("'x' in globals()")) == Execution(value="False", fresh=True, notes=(forgotten(late),))
    assert plain(await run_bare("1")) == Execution(value="1")


async def test_an_error_that_never_ends_to_be_told_is_cut_off(run_bare: Run) -> None:
    await run_bare("x = 1\nclass Endless(Exception):\n    def __str__(self):\n        while True:\n            pass")
    execution = await run_bare("raise Endless")
    assert (execution.error.splitlines()[-1], execution.alive) == ("Endless: <exception str() failed>", True)
    assert plain(await run_bare("x")) == Execution(value="1")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import ctypes\nctypes.string_at(0)", "The process crashed: Segmentation fault (signal 11)."),
        ("import os\nos.abort()", "The process crashed: Aborted (signal 6)."),
        ("import os\nos._exit(0)", "The code ended the process."),
        ("import os\nos.close(3)", "The code ended the process."),
    ],
)
async def test_a_process_that_ends_takes_its_variables_along(run_bare: Run, code: str, reason: str) -> None:
    (await run_bare("x = 1"))
    assert plain(await run_bare(code)) in (killed(reason), killed(KILLED))
    execution = await run_bare("'x' in globals()")
    assert (execution.value, execution.fresh, execution.alive) == ("False", True, True)


KILLED = "The process was killed; the machine may have run out of memory."


async def test_too_much_memory_is_an_error_that_the_session_survives(run: Run) -> None:
    await run("x = 1")
    execution = await run(f"y = bytearray({300 * MB})")
    assert (execution.ended, execution.error.splitlines()[-1]) == ("error", "MemoryError")
    execution = await run("z = []\nwhile True:\n    z.append(bytes(10**7))")
    assert (execution.ended, execution.error.splitlines()[-1]) == ("error", "MemoryError")
    assert plain(await run("x")) == Execution(value="1")


async def test_too_much_output_is_left_out(run: Run) -> None:
    execution = await run("for _ in range(100_000):\n    print('0123456789' * 10)")
    assert len(execution.output) == 1000
    assert execution.notes == ("10099000 more characters of output were left out.",)
    assert len((await run("'x' * 10**6")).value) < 17_000
    assert len((await run("raise ValueError('x' * 10**6)")).error) < 5_000


async def test_too_much_cpu_ends_the_session(start: Start, folder: Path) -> None:
    sandbox = await start(msgspec.structs.replace(LIMITS, cpu=1, seconds=10.0))
    execution = await sandbox.run("a", folder, "while True:\n    pass")
    assert plain(execution) == killed("The session has used up its 1 seconds of CPU, and was ended.")


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n    os.fork()",
        "import threading\nwhile True:\n    threading.Thread(target=print).start()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.execv('/bin/true', ['true'])",
    ],
)
async def test_no_other_process_comes_about(run_bare: Run, code: str) -> None:
    pid = int((await run_bare("import os\nos.getpid()")).value)
    execution = await run_bare(code)
    assert execution.ended == "error" and execution.alive
    assert children(pid) == set()


async def test_a_large_file_cannot_be_written(run: Run, folder: Path) -> None:
    execution = await run(f"with open('large', 'wb') as file:\n    file.write(bytes({11 * MB}))")
    assert execution.error.splitlines()[-1] == "OSError: [Errno 27] File too large"
    assert (folder / "large").stat().st_size <= 10 * MB


FULL = "The working folder holds more than 21 MB. Delete what is not needed."
CROWDED = "The working folder holds more than 100 files and folders. Delete what is not needed."


async def test_a_folder_that_grows_too_large_ends_the_session(run: Run, folder: Path) -> None:
    execution = await run(
        "import os\nfor number in range(1000):\n    with open(f'{number:04}', 'wb') as file:\n"
        f"        file.write(os.urandom({MB}))\n        file.flush()"
    )
    assert (execution.ended, execution.error, execution.alive) == ("killed", FULL, False)
    assert survey(str(folder), 10_000).bytes < 200 * MB
    code = "import os\nfor name in os.listdir():\n    os.remove(name)"
    assert plain(await run(code)) == Execution(fresh=True, notes=(forgotten(FULL),))
    assert plain(await run("1")) == Execution(value="1")


async def test_a_folder_with_too_many_files_ends_the_session(run: Run) -> None:
    execution = await run("for number in range(150):\n    open(f'{number}', 'w').close()")
    assert (execution.ended, execution.error, execution.alive) == ("killed", CROWDED, False)


async def test_a_folder_that_is_full_already_may_not_grow(run: Run, folder: Path) -> None:
    for number in range(120):
        (folder / f"upload-{number}").touch()
    assert plain(await run("open('upload-1').read()")) == Execution(value="''")
    execution = await run("open('one more', 'w').close()")
    more = "The working folder holds more than 120 files and folders. Delete what is not needed."
    assert plain(execution) == killed(more, files=("one more",), notes=())


async def test_hidden_folders_hide_nothing_from_the_count(run_bare: Run) -> None:
    code = "import os\nos.mkdir('hidden', 0o300)\nfor number in range(150):\n    open(f'hidden/{number}', 'w').close()"
    assert (await run_bare(code)).error == CROWDED


async def test_code_that_is_too_long_is_not_run(run: Run) -> None:
    assert plain(await run("#" * 200_001)) == Execution(
        error="The code is longer than 200000 characters.", ended="error"
    )


# Lives and deaths


async def test_cancelling_a_call_kills_its_process(run_bare: Run, folder: Path) -> None:
    pid = int((await run_bare("x = 1\nimport os\nos.getpid()")).value)
    handle = os.pidfd_open(pid)
    call = asyncio.create_task(run_bare(ENDLESS))
    await until((folder / "begun").exists)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await gone(handle)
    execution = await run_bare("'x' in globals()")
    assert plain(execution) == Execution(value="False", fresh=True, notes=(forgotten("The last call was cancelled."),))


async def test_the_least_recently_used_session_makes_room(small: Sandbox, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    for name in "abac":
        await small.run(name, tmp_path / name, "x = 1")
    assert [session["key"] for session in small.status()["sessions"]] == ["a", "c"]
    assert plain(await small.run("a", tmp_path / "a", "x")) == Execution(value="1")
    assert plain(await small.run("b", tmp_path / "b", "'x' in dir()")) == Execution(
        value="False", fresh=True, notes=(forgotten("Other sessions needed the room."),)
    )


async def test_more_sessions_at_once_than_may_live(small: Sandbox, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / str(number)).mkdir()
    calls = [small.run(str(number), tmp_path / str(number), "1 + 1") for number in range(6)]
    assert [plain(each) for each in await asyncio.gather(*calls)] == [Execution(value="2")] * 6
    assert len(small.status()["sessions"]) == 2


async def test_an_idle_session_ends(start: Start, folder: Path) -> None:
    sandbox = await start(msgspec.structs.replace(LIMITS, idle=0.05), layers=BARE)
    pid = int((await sandbox.run("a", folder, "import os\nos.getpid()")).value)
    await until(lambda: state(pid) == "")
    assert sandbox.status()["sessions"] == []
    assert plain(await sandbox.run("a", folder, "1")) == Execution(
        value="1", fresh=True, notes=(forgotten("They were not used for 0.05 seconds."),)
    )


async def test_a_session_that_is_forgotten_is_gone(bare: Sandbox, folder: Path) -> None:
    pid = int((await bare.run("forgotten", folder, "import os\nos.getpid()")).value)
    await bare.forget("forgotten")
    assert state(pid) in ("", "Z")
    assert plain(await bare.run("forgotten", folder, "1")) == Execution(value="1")
    call = asyncio.create_task(bare.run("forgotten", folder, ENDLESS))
    await until((folder / "begun").exists)
    await bare.forget("forgotten")
    assert (await call).ended == "killed"
    await bare.forget("nobody")


async def test_a_folder_that_was_replaced_gets_a_new_process(run: Run, folder: Path) -> None:
    await run("x = 1\nopen('old', 'w').close()")
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    assert plain(await run("import os\nos.listdir()")) == Execution(
        value="[]", fresh=True, notes=(forgotten("The working folder is another one."),)
    )


async def test_a_worker_that_is_killed_between_calls_is_replaced(run_bare: Run) -> None:
    pid = int((await run_bare("import os\nos.getpid()")).value)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: state(pid) == "")
    assert plain(await run_bare("1")) == Execution(value="1", fresh=True, notes=(forgotten("The process had ended."),))


async def test_a_worker_that_is_killed_in_a_call_is_told_of(run_bare: Run, folder: Path) -> None:
    pid = int((await run_bare("import os\nos.getpid()")).value)
    call = asyncio.create_task(run_bare(ENDLESS))
    await until((folder / "begun").exists)
    os.kill(pid, signal.SIGKILL)
    assert plain(await call) == killed(KILLED, files=("begun",))


async def test_the_death_of_the_zygote_is_survived(start: Start, folder: Path) -> None:
    before = children(os.getpid())
    sandbox = await start(layers=BARE)
    (zygote,) = children(os.getpid()) - before
    pid = int((await sandbox.run("a", folder, "import os\nos.getpid()")).value)
    assert children(zygote) == {pid}
    call = asyncio.create_task(sandbox.run("a", folder, ENDLESS))
    await until((folder / "begun").exists)
    os.kill(zygote, signal.SIGKILL)
    assert plain(await call) == killed("The process ended, since the one that all come from did.", files=("begun",))
    assert state(pid) in ("", "Z")
    execution = await sandbox.run("a", folder, "1")
    assert (execution.value, execution.fresh) == ("1", True)


async def test_many_timeouts_leak_nothing_and_leave_other_sessions_alone(start: Start, tmp_path: Path) -> None:
    sandbox = await start(msgspec.structs.replace(LIMITS, seconds=0.02, grace=0.02), layers=BARE)
    for name in ("calm", "wild"):
        (tmp_path / name).mkdir()
    await sandbox.run("calm", tmp_path / "calm", "x = 1")
    await sandbox.run("wild", tmp_path / "wild", "1")
    open_before, before = descriptors(), children(os.getpid())
    for _ in range(20):
        assert (await sandbox.run("wild", tmp_path / "wild", "sum(range(10**12))")).ended == "timeout"
    assert plain(await sandbox.run("calm", tmp_path / "calm", "x")) == Execution(value="1")
    await sandbox.run("wild", tmp_path / "wild", "1")
    assert (descriptors(), children(os.getpid())) == (open_before, before)


async def test_closing_ends_everything(folder: Path) -> None:
    before, open_before = children(os.getpid()), descriptors()
    sandbox = await started(layers=BARE)
    pid = int((await sandbox.run("a", folder, "import os\nos.getpid()")).value)
    call = asyncio.create_task(sandbox.run("a", folder, ENDLESS))
    await until((folder / "begun").exists)
    await sandbox.close()
    assert plain(await call) == killed("The server is ending.", files=("begun",))
    assert state(pid) in ("", "Z")
    assert (children(os.getpid()), descriptors()) == (before, open_before)
    assert sandbox.unavailable() == "it was closed"
    with pytest.raises(Unusable):
        await sandbox.run("a", folder, "1")


async def test_the_death_of_the_server_ends_everything(tmp_path: Path, folder: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = f"""
import asyncio, os, pathlib, uvloop
from tools.python import Layers, Sandbox
async def main():
    sandbox = Sandbox(preload=(), layers=Layers(language=False, audit=False))
    await sandbox.start()
    folder = pathlib.Path({str(folder)!r})
    execution = await sandbox.run("a", folder, "import os\\nos.getppid(), os.getpid()")
    print(execution.value, flush=True)
    await sandbox.run("a", folder, "while True:\\n    pass")
uvloop.run(main())
"""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    line = (await server.stdout.readline()).decode()
    if not line:
        _, errors = await server.communicate()
        pytest.skip(errors.decode().splitlines()[-1])
    handles = [os.pidfd_open(pid) for pid in eval(line)]
    server.kill()
    for handle in handles:
        await gone(handle)
    await server.communicate()
    assert list(temporary.iterdir()) == []


async def test_what_it_tells_of_itself(small: Sandbox, tmp_path: Path) -> None:
    for name in ("short", "0123456789"):
        await small.run(name, tmp_path, "1")
    status = small.status()
    assert all(0 <= session.pop("idle_seconds") < 60 for session in status["sessions"])
    assert status == {
        "available": True,
        "reason": None,
        "level": small.level,
        "layers": list(small.layers),
        "missing": list(small.missing),
        "limits": msgspec.to_builtins(small.limits),
        "sessions": [
            {"key": "short", "calls": 1, "busy": False},
            {"key": "01234567…", "calls": 1, "busy": False},
        ],
    }


# What a worker says is not believed

SAY = """
import os, msgspec
def frame(message):
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4, "big") + data
"""


@pytest.mark.parametrize(
    "code",
    [
        "os.write(3, b'garbage that is no frame')",
        "os.write(3, (2**31).to_bytes(4, 'big'))",
        "os.write(3, frame({'type': 'ran', 'number': 99}))",
        "os.write(3, frame({'type': 'ran', 'number': 'one'}))",
        "os.write(3, frame({'type': 'hello', 'confined': {'layers': [], 'missing': {}}}))",
        "os.write(3, frame({'type': 'piece', 'data': b'x'}))",
        "os.write(3, frame({'type': 'unknown'}))",
        "os.write(3, frame([[[[]]]]))",
        "os.write(3, bytes([0, 0, 4, 0]) + bytes([0x91]) * 1024)",
        "while True:\n    os.write(3, frame({'type': 'printed', 'number': 1, 'text': 'x' * 100_000}))",
        "while True:\n    os.write(3, frame({'type': 'printed', 'number': 1, 'text': ''}))",
    ],
)
async def test_a_worker_that_says_what_none_says_is_killed(run_bare: Run, code: str) -> None:
    execution = await run_bare(f"{SAY}\n{code}\nwhile True:\n    pass")
    assert (execution.ended, execution.error, execution.alive) == ("killed", MALFORMED, False)
    assert len(execution.output) <= LIMITS.output
    assert (await run_bare("1 + 1")).value == "2"


async def test_a_session_deceives_nobody_but_itself(run_bare: Run) -> None:
    forged = "frame({'type': 'ran', 'number': 1, 'value': 'v' * 10**5, 'error': 'e' * 10**5})"
    execution = await run_bare(
        f"{SAY}\nos.write(3, {forged} + frame({{'type': 'ran', 'number': 2, 'value': 'later'}}))"
    )
    assert (len(execution.value), len(execution.error or "")) == (17_000, 5_000)
    assert plain(await run_bare("'mine'")) == Execution(
        value="'mine'", fresh=True, notes=(forgotten("The process had ended."),)
    )


async def test_what_is_patched_in_the_worker_lifts_no_limit(run_bare: Run) -> None:
    code = "import sys\nsys.stdout._left = 10**12\nfor _ in range(100):\n    print('x' * 1000)"
    execution = await run_bare(code)
    assert (execution.ended, execution.error, len(execution.output)) == ("killed", MALFORMED, LIMITS.output)


# What lies in the folder


async def test_only_plain_files_are_given_out(run_bare: Run, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    names = ["tab\there", "line\nbreak", "right\u202eleft", "\udcff", "x" * 201]
    code = f"for name in {[*names, 'grün 1.txt', '.hidden']!r}:\n    open(name, 'w').close()"
    execution = await run_bare(code)
    assert (execution.files, execution.notes) == (
        ("grün 1.txt",),
        ("Some of what is in the folder cannot be given out: only plain files with plain names can.",),
    )
    (folder / "link").symlink_to(secret)
    (folder / "name").hardlink_to(secret)
    os.mkfifo(folder / "pipe")
    execution = await run_bare("open('real', 'w').close()")
    assert (execution.files, execution.ended) == (("real",), "ok")
    assert secret.stat().st_uid == os.geteuid()


async def test_files_deeper_than_eight_folders_are_not_given_out(run_bare: Run) -> None:
    execution = await run_bare("import os\nos.makedirs('d/' * 7)\nopen('d/' * 7 + 'file', 'w').close()")
    assert execution.files == ("d/" * 7 + "file",)
    execution = await run_bare("os.makedirs('e/' * 8)\nopen('e/' * 8 + 'file', 'w').close()")
    assert (execution.files, execution.ended) == ((), "ok")


async def test_a_folder_of_thousands_of_levels_is_survived(run_bare: Run, folder: Path) -> None:
    code = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')"
    execution = await run_bare(code)
    assert (execution.ended, execution.error) == ("killed", CROWDED)
    assert survey(str(folder), 1_000).endless
    remove_tree(folder)
    assert not folder.exists()


async def test_what_nobody_may_read_is_survived(run_bare: Run, folder: Path) -> None:
    code = "import os\nos.mkdir('shut', 0)\nos.close(os.open('file', os.O_CREAT, 0))\nopen('open', 'w').close()"
    execution = await run_bare(code)
    assert execution.ended == "ok" and "open" in execution.files
    assert plain(await run_bare("1")) == Execution(value="1")
    remove_tree(folder)
    assert not folder.exists()


# How well this host confines


@pytest.mark.parametrize(
    ("layers", "isolation", "level", "missing"),
    [
        (Layers(namespaces=False), "kernel", "kernel", "namespaces (left out)"),
        (Layers(namespaces=False), "full", "kernel", "namespaces (left out)"),
        (Layers(landlock=0), "auto", "kernel", "landlock (left out)"),
        (Layers(landlock=0, namespaces=False), "auto", "none", "the self-test could read a file outside"),
        (Layers(seccomp=False), "auto", "none", "seccomp (left out)"),
    ],
)
async def test_the_level_is_what_the_self_test_finds(
    layers: Layers, isolation: Any, level: str, missing: str, folder: Path, sandbox: Sandbox
) -> None:
    if sandbox.level != "full":
        pytest.skip(f"this host has less to leave out: {sandbox.missing}")
    weak = Sandbox(LIMITS, preload=(), isolation=isolation, layers=layers)
    await weak.start()
    try:
        assert weak.level == level
        assert missing in "; ".join(weak.missing)
        if level == "kernel" and isolation != "full":
            assert plain(await weak.run("a", folder, "1 + 1")) == Execution(value="2")
            return
        with pytest.raises(Unusable, match=f"this host confines it only at the level '{level}'"):
            await weak.run("a", folder, "1")
        with pytest.raises(Unusable):
            await weak.extract(ROOT / "README.md", "describe", name="README.md")
    finally:
        await weak.close()


async def test_no_isolation_must_be_asked_for(start: Start, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    weak = Layers(landlock=0, namespaces=False, seccomp=False)
    sandbox = await start(isolation="none", layers=weak)
    assert (sandbox.level, sandbox.unavailable()) == ("none", None)
    assert "code that models write runs with your user's rights" in caplog.text
    assert (await sandbox.run("a", folder, "open('/etc/passwd')")).ended == "error"
    for name in ("sqlite3", "lxml.etree"):
        assert "ModuleNotFoundError" in str((await sandbox.run("a", folder, f"import {name}")).error)
    assert plain(await sandbox.run("a", folder, "1 + 1")) == Execution(value="2")


REFUSE = """
import asyncio, ctypes, pathlib, struct, sys, tempfile
from tools.python import Layers, Sandbox, kernel
number = int(sys.argv[1])
filter_ = b"".join(struct.pack("=HBBI", *each) for each in [
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)])
code = ctypes.create_string_buffer(filter_, len(filter_))
kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
program = struct.pack("@HP", 4, ctypes.addressof(code))
seccomp = {"x86_64": 317, "aarch64": 277}[kernel.MACHINE]
kernel.syscall(seccomp, 1, 0, ctypes.create_string_buffer(program, len(program)))
async def main():
    sandbox = Sandbox(preload=(), layers=Layers(language=False))
    await sandbox.start()
    print(sandbox.level, *sandbox.missing, sep="; ")
    if sandbox.unavailable() is None:
        with tempfile.TemporaryDirectory() as folder:
            print((await sandbox.run("a", pathlib.Path(folder), "open('file', 'w').close()\\n1 + 1")).value)
    await sandbox.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("call", ["unshare", "mount"])
async def test_a_host_without_namespaces_is_served_by_landlock(sandbox: Sandbox, call: str) -> None:
    if "landlock" not in sandbox.layers:
        pytest.skip("there is no Landlock")
    number = {"unshare": {"x86_64": 272, "aarch64": 97}, "mount": {"x86_64": 165, "aarch64": 40}}[call][kernel.MACHINE]
    out, errors = await finished(sys.executable, "-c", REFUSE, str(number))
    first, *rest = out.splitlines()
    assert first.startswith("kernel; namespaces (namespaces: [Errno 1] Operation not permitted"), errors
    assert rest == ["2"]


async def finished(*command: str, **options: Any) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, **options
    )
    out, errors = await process.communicate()
    return out.decode(), errors.decode()


# Reading documents


async def test_a_document_is_read_in_a_process_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("name,age\nAnn,3\nBob,4\n")
    described = await sandbox.extract(file, "describe", name="table.csv")
    assert "name" in described and "age" in described
    with file.open("rb") as opened:
        opened.read()
        calls = [sandbox.extract(opened, "sections", returns=list[Section], name="table.csv") for _ in range(3)]
        one, two, three = await asyncio.gather(*calls)
    assert one == two == three
    assert "Ann" in one[0].text


async def test_a_document_that_cannot_be_read_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "broken.pdf"
    file.write_bytes(b"%PDF-1.7\nbroken")
    with pytest.raises(Unreadable) as raised:
        await sandbox.extract(file, "sections", returns=list[Section], name="broken.pdf")
    assert isinstance(raised.value, ExtractionFailed) and str(raised.value)
    with pytest.raises(ExtractionFailed, match="AttributeError"):
        await sandbox.extract(file, "no_such_function")
    with pytest.raises(ExtractionFailed, match="makes no sense"):
        await sandbox.extract(ROOT / "README.md", "describe", returns=int, name="README.md")


async def test_with_hardly_any_time_and_space(start: Start, tmp_path: Path) -> None:
    sandbox = await start(msgspec.structs.replace(LIMITS, seconds=0.05, free_bytes=2**60))
    with pytest.raises(Unusable, match="The disk is nearly full"):
        await sandbox.run("a", tmp_path, "1")
    file = tmp_path / "long.json"
    file.write_text("[" + ",".join(str(number) for number in range(3_000_000)) + "]")
    with pytest.raises(ExtractionFailed, match="took more than"):
        await sandbox.extract(file, "sections", returns=list[Section], name="long.json")


# Escapes, with nothing but the kernel in their way


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that anybody may read and change, were there no sandbox."""
    canary = tmp_path / "canary"
    canary.write_text("feathers")
    canary.chmod(0o666)
    tmp_path.chmod(0o777)
    return canary


ESCAPES = {
    "read": "open({path!r}).read()",
    "write": "open({path!r}, 'w').write('gone')",
    "append": "open({path!r}, 'a').write('gone')",
    "truncate": "import os\nos.truncate({path!r}, 0)",
    "truncate by opening": "import os\nos.open({path!r}, os.O_RDONLY | os.O_TRUNC)",
    "truncate by the odd mode": "import os\nos.open({path!r}, 3 | os.O_TRUNC)",
    "delete": "import os\nos.remove({path!r})",
    "rename": "import os\nos.rename({path!r}, 'mine')",
    "replace": "import os\nopen('mine', 'w').write('gone')\nos.rename('mine', {path!r})",
    "link and read": "import os\nos.symlink({path!r}, 'link')\nopen('link').read()",
    "second name": "import os\nos.link({path!r}, 'name')",
    "change the mode": "import os\nos.chmod({path!r}, 0)",
    "change the times": "import os\nos.utime({path!r}, (1, 1))",
    "change the owner": "import os\nos.chown({path!r}, os.getuid(), os.getgid())",
    "by the parent folder": "import os\nos.chdir('..')\nopen('canary').read()",
    "by a descriptor of the root": "import os\nopen(os.open('/' + {path!r}, os.O_PATH)).read()",
    "by /proc": "import os\nopen(f'/proc/{{os.getppid()}}/root' + {path!r}).read()",
    "by SQLite": "import sqlite3\nsqlite3.connect('x').execute('ATTACH ? AS y', ({path!r},))",
    "by native code": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unlink({path!r}.encode())",
    "by a mount": "import ctypes\nctypes.CDLL(None).mount({path!r}.encode(), b'.', None, 4096, None)",
}


@pytest.fixture(scope="module", params=["all", "kernel 5.13", "no Landlock"])
async def open_door(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Without the inner layers, on hosts of several kinds."""
    layers = {
        "all": BARE,
        "kernel 5.13": msgspec.structs.replace(BARE, landlock=1, namespaces=False),
        "no Landlock": msgspec.structs.replace(BARE, landlock=0),
    }
    sandbox = await started(layers=layers[request.param])
    yield sandbox
    await sandbox.close()


async def test_no_way_leads_to_another_file(open_door: Sandbox, folder: Path, canary: Path) -> None:
    before = canary.stat()
    for name, code in ESCAPES.items():
        execution = await open_door.run(str(folder), folder, code.format(path=str(canary)))
        assert "feathers" not in execution.output + execution.value, name
        after = canary.stat()
        assert (canary.read_text(), after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink) == (
            "feathers",
            before.st_mode,
            before.st_uid,
            before.st_mtime_ns,
            before.st_nlink,
        ), name
    assert sorted(path.name for path in canary.parent.iterdir()) == ["canary", "work"]


async def test_the_server_is_out_of_reach(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "feathers")
    sandbox = await start(layers=BARE)
    server = os.getpid()
    attempts = [
        "import os\ndict(os.environ)",
        "open('/proc/self/environ').read()",
        f"open('/proc/{server}/environ').read()",
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
        f"import os\nos.kill({server}, 9)",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.killpg(0, 9)",
        f"import signal, os\nsignal.pidfd_send_signal(os.pidfd_open({server}), 9)",
        f"import os\nos.setpriority(os.PRIO_PROCESS, {server}, 19)",
        f"import os\nos.sched_setaffinity({server}, [0])",
        f"import resource\nresource.prlimit({server}, resource.RLIMIT_NOFILE, (3, 3))",
        f"import ctypes\nctypes.CDLL(None).ptrace(16, {server}, 0, 0)",
        "import gc\n[each for each in gc.get_objects() if isinstance(each, dict) and 'A_SECRET' in each]",
        "import os\n[each for each in range(4, 1024) if os.path.exists(f'/dev/fd/{each}')]",
        "import socket\nsocket.socket()",
        "import socket\nsocket.socketpair()",
    ]
    nice = os.getpriority(os.PRIO_PROCESS, server)
    for code in attempts:
        execution = await sandbox.run("a", folder, code)
        assert "feathers" not in execution.output + execution.value, code
        assert execution.alive, code
        assert execution.ended == "error" or execution.value in ("[]", "-1") or "HOME" in execution.value, code
    assert os.getpriority(os.PRIO_PROCESS, server) == nice
