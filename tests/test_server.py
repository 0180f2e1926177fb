"""The server as a process: its first start and its later ones, what it says, what it logs, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from stat import S_IMODE
from typing import Any

import httpx
import pytest

from tests.fakes.openai import DONE, chunk, listing
from tests.fakes.server import Fake, Stream, Turn, Whole
from tests.process import PATIENCE, Finished, gone, prepare, run, started

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}
SLOW: dict[str, Any] = HELLO | {"model": "slow", "stream": True}
SHUTTING_DOWN = {
    "error": {"message": "The server is shutting down.", "type": "server_error", "param": None, "code": "shutting_down"}
}


@pytest.fixture
async def upstream() -> AsyncIterator[Fake]:
    """An upstream that says one word, and a second one when the test lets it."""
    async with Fake() as fake:
        fake.script("/v1/models", Whole(listing("slow")))
        words: list[bytes | Turn] = [chunk(content="one "), Turn.WAIT, chunk(content="two", finish="stop"), DONE]
        fake.script(CHAT, Stream(words))
        yield fake


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    """A folder whose data has been migrated already: that takes a while, and most tests are about something else."""
    return prepare(tmp_path, empty_database)


@pytest.fixture
def small_disk(tmp_path: Path, empty_database: Path) -> Iterator[Path]:
    """A file system of its own, 8 MiB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("only root can mount, and only where that is allowed")
    yield prepare(folder, empty_database)
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_first_start_makes_all_that_it_needs_and_a_second_one_keeps_it(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        first = await server.stop()
    key = server.key
    models = "  scripted: scripted\nDefault model: scripted\n"
    told = f"Admin's API key, shown only now and kept in data/admin.key:\n{key}\n"
    assert first == Finished(0, models + told, first.err)
    assert {
        path.name: oct(S_IMODE(path.stat().st_mode)) for path in [tmp_path / "data", *(tmp_path / "data").iterdir()]
    } == {
        "data": "0o700",
        "files": "0o700",
        "admin.key": "0o600",
        "secret.key": "0o600",
        "drover.db": "0o600",
    }
    async with started(tmp_path, LOG_FORMAT="text") as server:
        client = await server.http()
        assert (await client.post(CHAT, json=HELLO)).status_code == 200
        assert key not in server.log
        assert await server.stop() == Finished(0, models, server.log)


async def test_first_starts_at_once_agree_on_one_secret_and_one_admin(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        starts = [stack.enter_async_context(started(tmp_path)) for _ in range(3)]
        servers = await asyncio.gather(*starts)
        for server in servers:
            client = await server.http()
            assert (await client.get("/v1/models")).status_code == 200
        printed = [(await server.stop()).out.count("sk-") for server in servers]
    assert sorted(printed) == [0, 0, 1]
    assert (await run(tmp_path, "users", "list")).out.count("\n") == 1


@pytest.mark.parametrize(("content", "reason"), [("short\n", "32 characters"), ("change-me-" * 5, "placeholder")])
async def test_a_bad_secret_file_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret.key").write_text(content)
    finished = await run(tmp_path)
    assert (finished.code, finished.out, finished.err.count("\n")) == (2, "", 1)
    assert finished.err.startswith("SECRET_KEY: data/secret.key: ") and reason in finished.err
    assert content.strip() not in finished.err


async def test_a_port_that_is_taken_is_one_line_and_touches_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        finished = await run(tmp_path, SERVER_PORT=port)
    line = f"Error: Cannot listen on 127.0.0.1:{port}: Address already in use; stop what has it, or set SERVER_PORT.\n"
    assert finished == Finished(1, "", line)
    assert not (tmp_path / "data" / "drover.db").exists()


def _not_a_folder(data: Path) -> str:
    data.write_text("")
    return "DATA_DIRECTORY: data: "


def _not_a_database(data: Path) -> str:
    data.mkdir()
    (data / "drover.db").write_text("This is no database, and it is longer than the header of one." * 100)
    return "Error: The database "


def _of_a_newer_version(data: Path) -> str:
    data.mkdir()
    with closing(sqlite3.connect(data / "drover.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
        database.commit()
    return "Error: The database "


@pytest.mark.parametrize("spoil", [_not_a_folder, _not_a_database, _of_a_newer_version])
async def test_data_that_cannot_be_used_is_one_line(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    begins = spoil(tmp_path / "data")
    finished = await run(tmp_path)
    assert (finished.code in (1, 2), finished.out, finished.err.count("\n")) == (True, "", 1), finished.err
    assert finished.err.startswith(begins)


@pytest.fixture
def frozen_disk(small_disk: Path) -> Path:
    """A file system that can only be read."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk


async def test_a_disk_that_cannot_be_written_is_one_line(frozen_disk: Path) -> None:
    finished = await run(frozen_disk, SECRET_KEY="0123456789abcdef" * 2)
    assert (finished.code, finished.out, finished.err.count("\n")) == (1, "", 1), finished.err


async def test_a_full_disk_costs_no_answer_and_no_record(small_disk: Path, tmp_path: Path) -> None:
    async with started(small_disk, log_folder=tmp_path) as server:
        client = await server.http()
        assert (await client.get("/health/ready")).status_code == 200
        filler = small_disk / "filler"
        _fill(filler)
        asked = 0
        async with asyncio.timeout(PATIENCE):
            while (ready := await client.get("/health/ready")).status_code == 200:
                assert (await client.post(CHAT, json=HELLO)).status_code == 200
                asked += 1
        assert ready.json() == {"status": "unavailable", "reasons": ["the database refuses writes"]}
        assert (await client.post(CHAT, json=HELLO)).status_code == 200
        filler.unlink()
        async with asyncio.timeout(PATIENCE):
            while (await client.get("/health/ready")).status_code != 200:
                pass
        runs = (await client.get("/v1/runs", params={"limit": 100})).json()["data"]
        assert [run["status"] for run in runs] == ["completed"] * min(asked + 1, 100)
        finished = await server.stop()
    assert finished.err.count("runs cannot be written") == 1 and "Traceback" not in finished.err


async def test_a_log_on_a_full_disk_costs_no_answer(small_disk: Path) -> None:
    async with started(small_disk) as server:
        client = await server.http()
        _fill(small_disk / "filler")
        for _ in range(50):
            assert (await client.post(CHAT, json=HELLO)).status_code == 200
            assert (await client.get("/v1/unknown")).status_code == 404
        (small_disk / "filler").unlink()
        assert (await server.stop()).code == 0


async def test_a_server_stops_in_peace_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    async with started(small_disk, log_folder=tmp_path) as server:
        client = await server.http()
        _fill(small_disk / "filler")
        async with asyncio.timeout(PATIENCE):
            while (await client.get("/health/ready")).status_code == 200:
                assert (await client.post(CHAT, json=HELLO)).status_code == 200
        finished = await server.stop()
    assert finished.code == 0 and "Traceback" not in finished.err, finished.err


def _fill(file: Path) -> None:
    """Takes all room that is left on a disk."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        for size in (4096, 1):
            while True:
                filler.write(bytes(size))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stream_that_ends_in_time_is_not_disturbed_by_a_shutdown(
    home: Path, upstream: Fake, number: signal.Signals
) -> None:
    async with started(home, **_slow(upstream), SHUTDOWN_GRACE=60) as server:
        client = await server.http()
        async with client.stream("POST", CHAT, json=SLOW) as stream:
            lines = stream.aiter_lines()
            await _until(lines, "one ")
            server.signal(number)
            reasons = await _until_not_ready(client)
            refused = await client.post(CHAT, json=SLOW)
            alive = await client.get("/health/live")
            upstream.go_on.set()
            rest = [line async for line in lines if line]
        finished = await server.ended()
    assert reasons == ["shutting down"]
    assert (refused.status_code, refused.json(), alive.status_code) == (503, SHUTTING_DOWN, 200)
    assert refused.headers["retry-after"] == "2"
    assert '"two"' in rest[0] and "error" not in "".join(rest) and rest[-1] == "data: [DONE]"
    assert finished.code == 0 and "Traceback" not in finished.err, finished.err


async def test_a_stream_that_takes_too_long_is_told_of_the_shutdown(home: Path, upstream: Fake) -> None:
    async with started(home, **_slow(upstream), SHUTDOWN_GRACE=0.2) as server:
        client = await server.http()
        whole = asyncio.ensure_future(client.post(CHAT, json=SLOW | {"stream": False}))
        await upstream.begun.wait()
        async with client.stream("POST", CHAT, json=SLOW) as stream:
            lines = stream.aiter_lines()
            await _until(lines, "one ")
            server.signal(signal.SIGTERM)
            rest = [line.removeprefix("data: ") async for line in lines if line]
        answer = await whole
        finished = await server.ended()
    assert (json.loads(rest[-2]), rest[-1]) == (SHUTTING_DOWN, "[DONE]")
    assert (answer.status_code, answer.json()) == (503, SHUTTING_DOWN)
    assert finished.code == 0 and "Traceback" not in finished.err, finished.err


async def test_a_second_signal_ends_it_at_once(home: Path, upstream: Fake) -> None:
    async with started(home, **_slow(upstream), SHUTDOWN_GRACE=300) as server:
        client = await server.http()
        async with client.stream("POST", CHAT, json=SLOW) as stream:
            lines = stream.aiter_lines()
            await _until(lines, "one ")
            server.signal(signal.SIGINT)
            await _until_not_ready(client)
            server.signal(signal.SIGINT)
            rest = [line.removeprefix("data: ") async for line in lines if line]
        finished = await server.ended()
    assert (json.loads(rest[-2]), rest[-1]) == (SHUTTING_DOWN, "[DONE]")
    assert finished.code == 0 and "Traceback" not in finished.err, finished.err


async def test_a_run_that_a_crash_interrupted_is_there_with_its_events_after_the_restart(
    home: Path, upstream: Fake
) -> None:
    async with started(home, **_slow(upstream)) as server:
        client = await server.http()
        async with client.stream("POST", CHAT, json=SLOW) as stream:
            lines = stream.aiter_lines()
            await _until(lines, "one ")
            await client.get("/v1/runs")  # which writes down what is known so far
            server.signal(signal.SIGKILL)
            await server.process.wait()
        run_id = stream.headers["x-run-id"]
        await server.ended()
    async with started(home, **_slow(upstream)) as server:
        client = await server.http()
        kept = (await client.get(f"/v1/runs/{run_id}")).json()
        events = (await client.get(f"/v1/runs/{run_id}/events")).text
        await server.stop()
    assert (kept["status"], kept["model"]) == ("interrupted", "slow")
    assert [line for line in events.splitlines() if line.startswith("event:")] == ["event: asked"]
    assert '"Hello"' in events


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_engines_end_with_the_server(home: Path, number: signal.Signals) -> None:
    async with started(home, BACKENDS="llama_cpp") as server:
        client = await server.http()
        question = HELLO | {"model": "drover-tiny", "max_tokens": 1}
        assert (await client.post(CHAT, json=question)).status_code == 200
        status = (await client.get("/health/status")).json()
        engine = os.pidfd_open(status["backends"]["llama_cpp"]["status"]["models"]["drover-tiny"]["pid"])
        server.signal(number)
        await gone(engine)
        finished = await server.ended()
    assert finished.code == (0 if number == signal.SIGTERM else -9)


CANARIES = {
    "prompt": "canary-prompt",
    "answer": "canary-answer",
    "system": "canary-system",
    "password": "canary-password",
    "wrong password": "canary-wrong-password",
    "wrong key": "sk-canary-wrong-key",
    "wrong token": "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOjF9.canary-signature",
    "query": "canary-query",
    "path": "canary-path",
    "header": "canary-header",
    "secret": "canary-secret-0123456789-abcdefghijklm",
    "upstream key": "canary-upstream-key",
}


@pytest.mark.parametrize("settings", [{}, {"LOG_FORMAT": "text", "LOG_LEVEL": "debug"}], ids=["json", "text, debug"])
async def test_the_log_has_a_line_a_request_and_nothing_that_was_said(home: Path, settings: dict[str, Any]) -> None:
    async with Fake() as fake:
        fake.script("/v1/models", Whole(listing("m")))
        failure = Whole({"error": {"message": CANARIES["answer"]}}, 500)
        fake.script(CHAT, Stream([chunk(content=CANARIES["answer"], finish="stop"), DONE]), failure)
        keys: dict[str, Any] = {"SECRET_KEY": CANARIES["secret"], "UPSTREAM_API_KEY": CANARIES["upstream key"]}
        backend: dict[str, Any] = {
            "BACKENDS": "openai",
            "UPSTREAM_BASE_URL": f"http://u:canary-url-password@127.0.0.1:{fake.port}/v1",
        }
        async with started(home, **keys, **backend, **settings) as server:
            tokens = await _talk(await server.http())
            finished = await server.stop()
    for secret in [*CANARIES.values(), *tokens, server.key, "canary", "eyJ"]:
        assert secret not in finished.err
    assert "Traceback" not in finished.err
    if not settings:
        _check_lines([json.loads(line) for line in finished.err.splitlines()])


async def _talk(client: httpx.AsyncClient) -> list[str]:
    """Says all canaries, and gives the tokens that were handed out meanwhile."""
    messages = [{"role": "system", "content": CANARIES["system"]}, {"role": "user", "content": CANARIES["prompt"]}]
    body = {"model": "m", "messages": messages, "stream": True}
    await client.post(CHAT, json=body, headers={"x-anything": CANARIES["header"]})
    await client.post(CHAT, json=body | {"stream": False, "user": CANARIES["prompt"]})
    await client.post(CHAT, content=f'{{"model": "{CANARIES["prompt"]}')
    await client.post(CHAT, json={"model": CANARIES["prompt"]})
    await client.get(f"/{CANARIES['path']}", params={"api_key": CANARIES["query"]})
    for token in (CANARIES["wrong key"], CANARIES["wrong token"]):
        await client.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
    person = {"username": "ann", "password": CANARIES["password"]}
    created = await client.post("/api/users", json=person)
    login = await client.post("/api/auth/login", json=person)
    assert (created.status_code, login.status_code) == (201, 200), (created.text, login.text)
    await client.post("/api/auth/login", json=person | {"password": CANARIES["wrong password"]})
    key = (await client.post("/api/auth/keys", json={"name": "mine"})).json()
    return [login.json()["access_token"], login.json()["refresh_token"], key["key"]]


def _check_lines(lines: list[dict[str, Any]]) -> None:
    requests = [line for line in lines if line["event"] == "request"]
    chat = requests[0]
    assert {name: type(value).__name__ for name, value in chat.items() if name != "logger"} == {
        "timestamp": "str",
        "level": "str",
        "event": "str",
        "request_id": "str",
        "method": "str",
        "route": "str",
        "status": "int",
        "ms": "float",
        "user": "str",
        "key": "str",
        "run": "str",
        "mode": "str",
        "model": "str",
        "first_token_ms": "float",
        "prompt_tokens": "int",
        "completion_tokens": "int",
        "run_status": "str",
    }
    assert len(requests) == 11 and len({line["request_id"] for line in requests}) == 11
    assert not [line for line in lines if line.get("logger", "").startswith("uvicorn")]


def _slow(upstream: Fake) -> dict[str, Any]:
    return {"BACKENDS": "openai", "UPSTREAM_BASE_URL": f"{upstream.url}/v1"}


async def _until(lines: AsyncIterator[str], word: str) -> None:
    """Reads a stream until a line has that word."""
    async with asyncio.timeout(PATIENCE):
        async for line in lines:
            if word in line:
                return
    raise AssertionError(f"the stream ended before {word!r}")


async def _until_not_ready(client: httpx.AsyncClient) -> list[str]:
    """Asks until the server is not ready, and gives its reasons."""
    async with asyncio.timeout(PATIENCE):
        while (response := await client.get("/health/ready")).status_code == 200:
            pass
    reasons: list[str] = response.json()["reasons"]
    return reasons
