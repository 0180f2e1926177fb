"""The life of llama.cpp engines, seen from the server: loading, sharing memory, unloading, and all ways to die."""

import asyncio
import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from gateway.settings import SettingsError, load
from models.backend import (
    BackendFailed,
    Busy,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    ModelRequest,
    Sampling,
    Unavailable,
)
from models.duration import seconds
from models.llama_cpp import LlamaCpp
from models.llama_cpp.breaker import Breaker
from models.llama_cpp.places import Places
from models.llama_cpp.protocol import Report
from models.llama_cpp.tally import Tally
from models.messages import Delta, Message
from tests.live import PATIENCE, Serve, until
from tests.llama_gguf import write_variant
from tests.process import gone
from tests.wire import CHAT, failure, frames

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
TINY = ROOT / "models/builtin/tiny.gguf"
GREETING = "Hello! I am a tiny demonstration model. How can I help?"
BRIEF = Sampling(temperature=0.0)
ENDLESS = Sampling(temperature=1.0, seed=1, logit_bias={1418: -1000.0, 1420: -1000.0})
"""Without the tokens that end an answer."""

Make = Callable[..., LlamaCpp]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes backends, on the built-in model unless told otherwise."""
    async with AsyncExitStack() as stack:

        def made(*paths: Path, folder: Path | None = None, builtin: Path | None = TINY, **values: Any) -> LlamaCpp:
            backend = LlamaCpp(paths, folder, builtin, **({"threads": 1} | values))
            stack.push_async_callback(backend.close)
            return backend

        yield made


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three models: a, b and c. What is endless ends later in them."""
    return [write_variant(TINY, tmp_path / f"{name}.gguf", llama__context_length=8192) for name in "abc"]


def talk(
    backend: LlamaCpp, model: str = "drover-tiny", sampling: Sampling = BRIEF, **more: Any
) -> AsyncGenerator[Delta, None]:
    return backend.chat(ModelRequest(model, (Message("user", "Hello"),), sampling, **more))


async def hear(backend: LlamaCpp, model: str = "drover-tiny", **more: Any) -> str:
    async with aclosing(talk(backend, model, **more)) as answer:
        return "".join([delta.text async for delta in answer])


async def error_of(backend: LlamaCpp, model: str = "drover-tiny", **more: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await hear(backend, model, **more)
    return caught.value


def status(backend: LlamaCpp, model: str = "drover-tiny") -> dict[str, Any]:
    found: dict[str, Any] = backend.status()["models"].get(model, {"state": "unknown", "pid": None, "queue": 0})
    return found


def loaded(backend: LlamaCpp) -> str:
    return "".join(sorted(model for model, state in backend.status()["models"].items() if state["loaded"]))


def kill(backend: LlamaCpp, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(status(backend)["pid"], number)


def children() -> list[int]:
    """The engine processes of this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"llama_cpp.engine" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # It has ended meanwhile.
    return found


# Loading and unloading


async def test_concurrent_first_requests_load_the_model_once(make: Make) -> None:
    backend = make()
    before = set(children())
    asked = [asyncio.create_task(hear(backend)) for _ in range(8)]
    most = 0
    while not all(task.done() for task in asked):
        await asyncio.wait(asked, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        most = max(most, len(set(children()) - before))
    assert [await task for task in asked] == [GREETING] * 8
    assert most == 1


async def test_a_model_is_unloaded_when_it_has_rested_and_loaded_again(make: Make) -> None:
    backend = make(keep_alive=0.05)
    assert await hear(backend) == GREETING
    process = os.pidfd_open(status(backend)["pid"])
    (info,) = await backend.models()
    assert info.loaded
    await gone(process)
    await until(lambda: status(backend)["state"] == "stopped")
    (info,) = await backend.models()
    assert not info.loaded
    assert await hear(backend) == GREETING
    assert status(backend)["crashes"] == 0


async def test_a_model_is_not_unloaded_while_it_works(make: Make) -> None:
    backend = make(keep_alive=0)
    async with aclosing(talk(backend, sampling=ENDLESS)) as working:
        await anext(working)
        pid = status(backend)["pid"]
        assert await hear(backend) == GREETING
        assert (status(backend)["pid"], status(backend)["state"]) == (pid, "ready")
    await until(lambda: status(backend)["state"] == "stopped")


async def test_a_request_says_how_long_its_model_stays(make: Make) -> None:
    backend = make(keep_alive=-1)
    await hear(backend)
    pid = status(backend)["pid"]
    await hear(backend, keep_alive="1h")
    assert status(backend)["pid"] == pid
    await hear(backend, keep_alive=0)
    await until(lambda: status(backend)["state"] == "stopped")
    await hear(backend, keep_alive="1ms")
    await until(lambda: status(backend)["state"] == "stopped")
    await hear(backend)  # As it was set for all: what the last one said went with its engine.
    await asyncio.sleep(0.02)
    assert status(backend)["state"] == "ready"


async def test_a_request_that_comes_while_its_model_is_unloaded_is_served(make: Make) -> None:
    backend = make(keep_alive=0)
    await hear(backend)
    async with asyncio.timeout(PATIENCE):
        while status(backend)["state"] != "stopping":  # noqa: ASYNC110 - see `until`; this passes quickly
            await asyncio.sleep(0)
    assert await hear(backend) == GREETING


async def test_a_keep_alive_that_is_none(make: Make) -> None:
    error = await error_of(make(), keep_alive="a while")
    assert (type(error), error.message, error.param) == (
        InvalidRequest,
        "'keep_alive' must be seconds, or a duration such as '5m'.",
        "keep_alive",
    )


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("5", 5),
        (7, 7),
        (0.5, 0.5),
        ("0", 0),
        ("-1", math.inf),
        (-1, math.inf),
        ("-5m", math.inf),
    ],
)
def test_durations(duration: str | float, expected: float) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize("duration", ["", "m", "5 m", "5x", "1m5", "1e3", "--1", "nan", "5m\n"])
def test_what_is_no_duration(duration: str) -> None:
    with pytest.raises(ValueError, match="must be seconds, or a duration such as '5m'"):
        seconds(duration)


async def test_a_request_that_is_cancelled_while_its_model_loads(make: Make) -> None:
    backend = make(keep_alive=0.01)
    asked = asyncio.create_task(hear(backend))
    await until(lambda: status(backend)["state"] == "loading" and status(backend)["pid"])
    asked.cancel()
    await asyncio.wait([asked])
    assert status(backend)["queue"] == 0
    await until(lambda: status(backend)["state"] == "stopped")
    assert await hear(backend) == GREETING


async def test_nothing_is_left_after_close_and_a_closed_backend_can_start_again(make: Make) -> None:
    backend = make()
    await hear(backend)
    pid = status(backend)["pid"]
    await backend.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (status(backend)["pid"], status(backend)["state"], status(backend)["crashes"]) == (None, "stopped", 0)
    assert await hear(backend) == GREETING


async def test_a_backend_can_be_closed_while_it_loads(make: Make) -> None:
    backend = make()
    asked = asyncio.create_task(hear(backend))
    await until(lambda: bool(status(backend)["pid"]))
    process = os.pidfd_open(status(backend)["pid"])
    await backend.close()
    await gone(process)
    with pytest.raises(Unavailable, match="is not running"):
        await asked
    assert status(backend)["crashes"] == 0


# Places in memory


async def test_the_least_recently_used_model_goes(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=2)
    for model in "aba":
        assert await hear(backend, model) == GREETING
    assert loaded(backend) == "ab"
    assert await hear(backend, "c") == GREETING
    assert loaded(backend) == "ac"
    assert await hear(backend, "b") == GREETING
    assert loaded(backend) == "bc"


async def test_a_model_at_work_is_not_unloaded_for_another(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=2)
    async with aclosing(talk(backend, "a", ENDLESS)) as working:
        await anext(working)
        for model in "bcb":
            assert await hear(backend, model) == GREETING
        assert "a" in loaded(backend)
        await anext(working)


async def test_who_finds_all_places_taken_waits_and_may_give_up(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=1)
    async with aclosing(talk(backend, "a", ENDLESS)) as working:
        await anext(working)
        newcomer = asyncio.create_task(hear(backend, "b"))
        await until(lambda: status(backend, "b")["state"] == "waiting")
        late = asyncio.create_task(hear(backend, "a"))  # It would hold up the newcomer: it waits for the next turn.
        await until(lambda: status(backend, "a")["queue"] == 1)
        newcomer.cancel()
        await asyncio.wait([newcomer])
        assert await late == GREETING
        await until(lambda: status(backend, "b")["state"] == "stopped")
        newcomer = asyncio.create_task(hear(backend, "b"))
        await until(lambda: status(backend, "b")["state"] == "waiting")
    assert await newcomer == GREETING
    assert loaded(backend) == "b"


async def test_a_newcomer_gets_its_turn_under_any_load(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=1)
    over = asyncio.Event()

    async def busy() -> int:
        answers = 0
        while not over.is_set():
            assert await hear(backend, "a") == GREETING
            answers += 1
        return answers

    load = [asyncio.create_task(busy()) for _ in range(3)]
    await until(lambda: loaded(backend) == "a")
    async with asyncio.timeout(PATIENCE):
        for model in "bc":
            assert await hear(backend, model) == GREETING
    over.set()
    assert all(await asyncio.gather(*load))


async def test_more_models_than_places_all_at_once(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=2, keep_alive=0)
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*(hear(backend, model) for model in "abcabcbac"))
    assert answers == [GREETING] * 9


class Guest:
    """A tenant without a process: it is told what to do, and does it at once."""

    def __init__(self, places: Places) -> None:
        self.rested_at: float | None = None
        self.asked = False
        self._places = places

    def make_way(self, yes: bool) -> None:
        self.asked = yes

    async def come(self) -> bool:
        self.rested_at = None
        return await self._places.take(self)

    def rest(self, now: float) -> None:
        self.rested_at = now
        self._places.arrange()

    def go(self) -> None:
        self.asked = False
        self._places.give(self)


async def test_one_at_work_is_asked_to_make_way_only_until_another_rests() -> None:
    places = Places(2)
    a, b, c = Guest(places), Guest(places), Guest(places)
    assert await a.come() and await b.come()
    newcomer = asyncio.create_task(c.come())
    await asyncio.sleep(0)
    assert (a.asked, b.asked) == (True, False)
    b.rest(1.0)
    assert (a.asked, b.asked) == (False, True)
    b.go()
    assert await newcomer
    assert not a.asked


async def test_nobody_waits_for_ever_whatever_happens() -> None:
    random = Random(7)
    places = Places(3)
    guests = [Guest(places) for _ in range(8)]
    present = 0

    async def live(guest: Guest) -> None:
        nonlocal present
        for _ in range(60):
            if random.random() < 0.2:
                coming = asyncio.create_task(guest.come())
                await asyncio.sleep(0)
                places.withdraw(guest) if random.random() < 0.5 else coming.cancel()
                await asyncio.wait([coming])
                if coming.cancelled() or not coming.result():
                    continue
            elif not await guest.come():
                continue
            present += 1
            assert present <= 3
            while not guest.asked:  # Under load: it leaves only when it is asked to.
                await asyncio.sleep(0)
                if random.random() < 0.1:
                    guest.rest(random.random())
                    break
            present -= 1
            guest.go()

    async with asyncio.timeout(PATIENCE):
        tasks = [asyncio.create_task(live(guest)) for guest in guests]
        while pending := [task for task in tasks if not task.done()]:
            await asyncio.sleep(0)
            if len(pending) <= 3:  # Nobody is left to ask them.
                for guest in guests:
                    guest.asked = True
    for task in tasks:
        task.result()


# The queue


async def test_a_full_queue_refuses_and_a_closed_request_leaves_it(make: Make) -> None:
    backend = make(parallel=1, queue=1)
    working = talk(backend, sampling=ENDLESS)
    await anext(working)
    waiting = asyncio.create_task(hear(backend))
    await until(lambda: status(backend)["queue"] == 1)
    assert status(backend)["active"] == 1
    error = await error_of(backend)
    assert (type(error), error.message) == (Busy, "The model `drover-tiny` has 2 requests under way already.")
    await working.aclose()
    assert await waiting == GREETING


async def test_a_full_queue_is_a_429_over_http(make: Make, serve: Serve) -> None:
    backend = make(parallel=1, queue=1)
    client = await (await serve([backend])).http()
    async with aclosing(talk(backend, sampling=ENDLESS)) as working:
        await anext(working)
        waiting = asyncio.create_task(client.post(CHAT, json=hello()))
        await until(lambda: status(backend)["queue"] == 1)
        refusals = [await client.post(CHAT, json=hello(stream=stream)) for stream in (False, True)]
        metrics = (await client.get("/metrics")).text
    for refusal in refusals:
        code, body, headers = failure(refusal)
        assert (code, body["error"]["code"], headers["retry-after"]) == (429, "rate_limit_exceeded", "2")
    assert 'drover_queue{backend="llama_cpp",model="drover-tiny"} 1.0' in metrics
    assert 'drover_engine_active{backend="llama_cpp",model="drover-tiny"} 1.0' in metrics
    assert (await waiting).json()["choices"][0]["message"]["content"] == GREETING


async def test_the_queue_is_bounded_while_the_model_loads_or_waits_for_a_place(make: Make, files: list[Path]) -> None:
    backend = make(*files, max_loaded=1, parallel=1, queue=1)
    first = [asyncio.create_task(hear(backend, "a")) for _ in range(2)]
    await until(lambda: status(backend, "a")["state"] == "loading" and status(backend, "a")["queue"] == 2)
    assert isinstance(await error_of(backend, "a"), Busy)
    second = [asyncio.create_task(hear(backend, "b")) for _ in range(2)]
    await until(lambda: status(backend, "b")["state"] == "waiting" and status(backend, "b")["queue"] == 2)
    assert isinstance(await error_of(backend, "b"), Busy)
    assert await asyncio.gather(*first, *second) == [GREETING] * 4


# Death


async def test_an_engine_killed_under_load_ends_its_streams_with_an_error_each(make: Make, serve: Serve) -> None:
    backend = make(parallel=8, cache=8 * 2048)
    client = await (await serve([backend], keep_alive_seconds=60)).http()
    opened = asyncio.Semaphore(0)
    endless = hello(stream=True, temperature=1, seed=1, logit_bias={"1418": -100, "1420": -100})

    async def stream() -> list[Any]:
        async with client.stream("POST", CHAT, json=endless) as response:
            assert response.status_code == 200
            opened.release()
            return frames((await response.aread()).decode())

    streams = [asyncio.create_task(stream()) for _ in range(8)]
    for _ in streams:
        await opened.acquire()
    await until(lambda: status(backend)["active"] == 8)
    pid = status(backend)["pid"]
    kill(backend)
    expected = {
        "message": "The engine process of `drover-tiny` ended: killed (out of memory?).",
        "type": "upstream_error",
        "param": None,
        "code": "upstream_error",
    }
    for stream_ in streams:
        assert (await stream_)[-2:] == [{"error": expected}, "[DONE]"]
    answer = await client.post(CHAT, json=hello())
    assert answer.json()["choices"][0]["message"]["content"] == GREETING
    assert status(backend)["pid"] != pid
    assert (
        'drover_engine_crashes_total{backend="llama_cpp",model="drover-tiny"} 1.0'
        in (await client.get("/metrics")).text
    )


async def test_what_a_killed_engine_had_not_begun_goes_to_the_next_one(make: Make) -> None:
    backend = make(parallel=1)
    working = talk(backend, sampling=ENDLESS)
    await anext(working)
    waiting = asyncio.create_task(hear(backend))
    await until(lambda: status(backend)["queue"] == 1)
    pid = status(backend)["pid"]
    kill(backend)
    with pytest.raises(
        BackendFailed, match=r"^The engine process of `drover-tiny` ended: killed \(out of memory\?\)\.$"
    ):
        async for _ in working:
            pass
    assert await waiting == GREETING
    assert status(backend)["pid"] != pid


async def test_an_abort_says_so(make: Make) -> None:
    backend = make()
    working = talk(backend, sampling=ENDLESS)
    await anext(working)
    kill(backend, signal.SIGABRT)
    with pytest.raises(BackendFailed, match=r"ended: signal 6 \(Aborted\)\."):
        async for _ in working:
            pass
    assert await hear(backend) == GREETING


async def test_an_idle_engine_that_was_killed_is_replaced(make: Make) -> None:
    backend = make()
    await hear(backend)
    kill(backend)
    assert await hear(backend) == GREETING


async def crash(backend: LlamaCpp, cause: signal.Signals = signal.SIGKILL) -> None:
    """Kills an engine at work."""
    async with aclosing(talk(backend, sampling=ENDLESS)) as working:
        await anext(working)
        kill(backend, cause)
        with pytest.raises(BackendFailed):
            async for _ in working:
                pass


async def test_two_crashes_are_a_503_for_a_while(make: Make, serve: Serve) -> None:
    backend = make(crash_pause=0.5)
    client = await (await serve([backend])).http()
    await crash(backend)
    await crash(backend, signal.SIGABRT)
    before = children()
    refusals = [await client.post(CHAT, json=hello(stream=stream)) for stream in (False, True)]
    assert status(backend)["state"] == "broken"
    assert children() == before
    for refusal in refusals:
        code, body, headers = failure(refusal)
        assert (code, body["error"]["code"], headers) == (503, "upstream_unavailable", {"retry-after": "1"})
        assert body["error"]["message"] == (
            "The engine of `drover-tiny` crashed twice within 60 s: signal 6 (Aborted). It is tried again in 1 s."
        )
    await until(lambda: status(backend)["state"] == "stopped")
    assert await hear(backend) == GREETING
    assert status(backend)["crashes"] == 2


async def test_the_second_crash_refuses_those_who_wait_too(make: Make) -> None:
    backend = make(parallel=1)
    await crash(backend)
    async with aclosing(talk(backend, sampling=ENDLESS)) as working:
        await anext(working)
        waiting = asyncio.create_task(hear(backend))
        await until(lambda: status(backend)["queue"] == 1)
        kill(backend)
        with pytest.raises(Unavailable, match="crashed twice within 60 s"):
            await waiting


async def test_one_model_s_crashes_are_not_another_s(make: Make, files: list[Path]) -> None:
    backend = make(files[0])
    await crash(backend)
    await crash(backend)
    assert isinstance(await error_of(backend), Unavailable)
    assert await hear(backend, "a") == GREETING


async def test_a_fault_while_loading_is_no_crash_but_a_second_one_is(make: Make) -> None:
    backend = make()
    asked = asyncio.create_task(hear(backend))
    await until(lambda: bool(status(backend)["pid"]))
    first = status(backend)["pid"]
    os.kill(first, signal.SIGSEGV)  # As on a CPU that cannot compute with rearranged weights.
    await until(lambda: status(backend)["pid"] not in (first, None))
    kill(backend, signal.SIGSEGV)
    with pytest.raises(BackendFailed, match=r"ended: signal 11 \(Segmentation fault\)\."):
        await asked
    assert status(backend)["crashes"] == 1
    assert await hear(backend) == GREETING


def test_the_breaker() -> None:
    now = 0.0
    breaker = Breaker("m", clock=lambda: now)

    def crash_at(time: float) -> str | None:
        nonlocal now
        now = time
        breaker.crashed("signal 6")
        return breaker.refusal.message if breaker.refusal else None

    def open_at(time: float) -> bool:
        nonlocal now
        now = time
        return breaker.refusal is not None

    twice = "The engine of `m` crashed twice within 60 s: signal 6. It is tried again in 30 s."
    again = "The engine of `m` crashed again: signal 6. It is tried again in 30 s."
    assert [crash_at(0), crash_at(61), crash_at(100)] == [None, None, twice]
    assert [open_at(129), open_at(130)] == [True, False]
    assert crash_at(1000) == again
    assert [open_at(1029.5), open_at(1030)] == [True, False]
    breaker.worked()
    assert [crash_at(2000), crash_at(2060)] == [None, twice]
    breaker.forgive()
    assert not open_at(2060)
    assert [crash_at(2061), crash_at(2062)] == [None, twice]
    assert breaker.crashes == 8


# Files


async def test_files_that_cannot_be_loaded_start_no_breaker(make: Make, tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(TINY.read_bytes()[:1_000_000])
    (tmp_path / "folder.gguf").mkdir()
    backend = make(tmp_path / "folder.gguf", folder=tmp_path)
    errors = [await error_of(backend, "half") for _ in range(3)]
    assert [type(error) for error in errors] == [Unavailable] * 3
    assert all("cannot be loaded: llama.cpp cannot load half.gguf: " in error.message for error in errors)
    assert status(backend, "half")["crashes"] == 0
    unreadable = await error_of(backend, "folder")
    assert (type(unreadable), unreadable.message) == (
        Unavailable,
        "The model `folder` cannot be used: the file folder.gguf cannot be read: Is a directory.",
    )
    (tmp_path / "half.gguf").write_bytes(TINY.read_bytes())
    assert await hear(backend, "half") == GREETING


async def test_a_file_that_is_gone_is_no_model_any_more(make: Make, files: list[Path]) -> None:
    backend = make(folder=files[0].parent)
    async with aclosing(talk(backend, "a", ENDLESS)) as working:
        await anext(working)
        files[0].unlink()
        await anext(working)
        assert await hear(backend, "a") == GREETING  # It is in memory, and at work.
    assert isinstance(await error_of(backend, "a"), ModelNotFound)


async def test_a_file_that_was_replaced_is_loaded_anew(make: Make, files: list[Path]) -> None:
    backend = make(folder=files[0].parent)
    await hear(backend, "a")
    pid = status(backend, "a")["pid"]
    write_variant(TINY, files[0], llama__context_length=1024)
    os.utime(files[0], (1, 1))
    assert await hear(backend, "a") == GREETING
    assert status(backend, "a")["pid"] != pid
    assert (status(backend, "a")["context"], status(backend, "a")["crashes"]) == (1024, 0)


async def test_a_file_that_was_replaced_gets_a_fresh_chance(make: Make, files: list[Path]) -> None:
    backend = make(files[0], builtin=None)
    for _ in range(2):
        await hear(backend, "a")
        os.kill(status(backend, "a")["pid"], signal.SIGKILL)
        await until(lambda: status(backend, "a")["pid"] is None)
    assert isinstance(await error_of(backend, "a"), Unavailable)
    os.utime(files[0], (1, 1))
    assert await hear(backend, "a") == GREETING


async def test_an_engine_that_cannot_be_started(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    error = await error_of(backend)
    assert isinstance(error, Unavailable)
    assert error.message.startswith("The engine of `drover-tiny` cannot be started: ")
    monkeypatch.undo()
    assert await hear(backend) == GREETING


SAYING_HELLO = """
import asyncio, sys
from pathlib import Path
from models.backend import ModelRequest
from models.llama_cpp import LlamaCpp
from models.messages import Message

async def main():
    backend = LlamaCpp([], None, Path(sys.argv[1]), threads=1)
    answer = backend.chat(ModelRequest("drover-tiny", (Message("user", "Hello"),)))
    print(len([delta async for delta in answer]) > 1)
    await backend.close()

asyncio.run(main())
"""


def test_an_engine_needs_no_room_on_disk(tmp_path: Path) -> None:
    full = f"ulimit -f 0; export TMPDIR={tmp_path}/gone; exec {sys.executable} -c '{SAYING_HELLO}' {TINY}"
    done = subprocess.run(["bash", "-c", full], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "True\n", done.stderr


# What an engine is to others


ORPHANING = """
import asyncio, sys
from pathlib import Path
from models.backend import ModelRequest, Sampling
from models.llama_cpp import LlamaCpp
from models.messages import Message

async def main():
    backend = LlamaCpp([], None, Path(sys.argv[1]))
    sampling = Sampling(logit_bias={1418: -1000.0, 1420: -1000.0})
    async for _ in backend.chat(ModelRequest("drover-tiny", (Message("user", "Hello"),), sampling)):
        print(backend.status()["models"]["drover-tiny"]["pid"], "llama_cpp" in sys.modules, flush=True)

asyncio.run(main())
"""


def test_an_engine_dies_with_its_server_which_never_loads_llama_cpp() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING, str(TINY)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        pid, imported = server.stdout.readline().split()
        engine = os.pidfd_open(int(pid))
        server.kill()
    ended, _, _ = select.select([engine], [], [], 5)
    os.close(engine)
    assert ended
    assert imported == "False"


async def test_an_engine_knows_no_secrets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_TEST_SECRET", "hunter2")
    backend = make()
    await hear(backend)
    environment = Path(f"/proc/{status(backend)['pid']}/environ").read_text()
    assert "hunter2" not in environment
    assert "GGML_NO_BACKTRACE=1" in environment


# Figures


async def test_status_and_metrics_tell_what_engines_do_and_never_fall(make: Make, serve: Serve) -> None:
    backend = make(parallel=4, cache=4096)
    client = await (await serve([backend])).http()

    async def figures() -> dict[str, float]:
        text = (await client.get("/metrics")).text
        labels = '{backend="llama_cpp",model="drover-tiny"} '
        return {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if labels in line}

    assert await figures() == {}
    for _ in range(2):
        await hear(backend)
    await until(lambda: status(backend)["generated_tokens"] >= 40)
    first = await figures()
    seen = (await client.get("/health/status")).json()["backends"]["llama_cpp"]["status"]["models"]["drover-tiny"]
    assert {name: seen[name] for name in ("state", "slots", "active", "queue", "cells", "context")} == {
        "state": "ready",
        "slots": 4,
        "active": 0,
        "queue": 0,
        "cells": 4096,
        "context": 2048,
    }
    assert seen["prompt_tokens"] == 22 and seen["generated_tokens"] == first["drover_engine_generated_tokens_total"]
    assert seen["engine"].keys() == {"steps", "computing", "overhead"}
    assert seen["tokens_per_second"] > 0 and seen["cells_used"] > 0
    assert (first["drover_engine_loaded"], first["drover_engine_slots"], first["drover_engine_cells"]) == (1, 4, 4096)

    kill(backend)
    await until(lambda: not status(backend)["loaded"] and status(backend)["crashes"] == 1)
    after = await figures()
    assert (after["drover_engine_loaded"], after["drover_engine_crashes_total"]) == (0, 1)
    await hear(backend)
    await until(lambda: status(backend)["prompt_tokens"] >= 33)
    last = await figures()
    totals = [name for name in first if name.endswith("_total") and name != "drover_engine_crashes_total"]
    assert len(totals) == 6
    assert all(last[name] >= after[name] == first[name] for name in totals)


def test_the_tally() -> None:
    def report(tokens: int, computing: float, cells_used: int = 5) -> Report:
        return Report(2, 1, 0, 64, cells_used, 2 * tokens, tokens, tokens, tokens, computing, computing / 4)

    tally = Tally()
    assert tally.status()["tokens_per_second"] == 0
    tally.take(report(10, 0.8))
    assert tally.status()["tokens_per_second"] == 10
    tally.take(report(50, 1.6))
    assert tally.status() == {
        "cells_used": 5,
        "prompt_tokens": 100,
        "cached_tokens": 50,
        "generated_tokens": 50,
        "tokens_per_second": 40,
        "engine": {"steps": 50, "computing": 1.6, "overhead": 0.4},
    }
    tally.end()
    assert tally.status() == {
        "cells_used": 0,
        "prompt_tokens": 100,
        "cached_tokens": 50,
        "generated_tokens": 50,
        "tokens_per_second": 0,
        "engine": {"steps": 50, "computing": 1.6, "overhead": 0.4},
    }
    tally.take(report(10, 0.8))
    assert tally.status()["generated_tokens"] == 60


# Settings


def test_a_setting_that_is_no_duration_is_a_line() -> None:
    with pytest.raises(SettingsError, match="LLAMACPP_KEEP_ALIVE: must be seconds, or a duration such as '5m'"):
        load(_env_file=None, llamacpp_keep_alive="soon")


async def test_settings_reach_the_engines(serve: Serve, tmp_path: Path) -> None:
    live = await serve(
        llamacpp_models_directory=tmp_path / "none",
        llamacpp_parallel=2,
        llamacpp_queue=1,
        llamacpp_cache=4096,
        llamacpp_keep_alive="10ms",
        llamacpp_threads=1,
    )
    client = await live.http()
    backend = live.server.parts.catalog.backends[0]
    assert isinstance(backend, LlamaCpp)
    answers = await asyncio.gather(*(client.post(CHAT, json=hello()) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429]
    assert (status(backend)["slots"], status(backend)["cells"]) == (2, 4096)
    await until(lambda: status(backend)["state"] == "stopped")
    assert (await said(client, keep_alive="1h")).status_code == 200
    await asyncio.sleep(0.05)
    assert status(backend)["state"] == "ready"


def hello(**more: Any) -> dict[str, Any]:
    return {"model": "drover-tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0} | more


async def said(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    return await client.post(CHAT, json=hello(**more))
