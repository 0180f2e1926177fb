"""The commands beside `serve`, each as a process, and what they change for a server that runs."""

import asyncio
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import Finished, prepare, run, started

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    """A folder with a migrated database."""
    return prepare(tmp_path, empty_database)


async def test_users_are_added_listed_and_disabled(home: Path) -> None:
    added = await run(home, "users", "add", "ann", "--role", "admin", "--password-stdin", text="correct horse\n")
    assert (added.code, added.err) == (0, "") and added.out.startswith("added ann (admin), id usr_")
    again, weak, taken = await asyncio.gather(
        run(home, "users", "add", "Ann", "--password-stdin", text="battery staple\n"),
        run(home, "users", "add", "bob", "--password-stdin", text="short\n"),
        run(home, "users", "add", "ann", "--no-password"),
    )
    assert again == Finished(0, "ann exists; the password was changed and all logins ended\n", "")
    assert (weak.code, weak.out, weak.err.count("\n")) == (1, "", 1) and "short" not in weak.err.split()
    assert taken == Finished(1, "", "Error: There is a user ann already.\n")
    last, unknown, listed = await asyncio.gather(
        run(home, "users", "disable", "ann"), run(home, "users", "disable", "nobody"), run(home, "users", "list")
    )
    assert last == Finished(1, "", "This is the last admin: make another one first.\n")
    assert unknown == Finished(1, "", "There is no such user.\n")
    assert [line.split()[1:] for line in listed.out.splitlines()] == [["admin", "enabled", "ann"]]


async def test_keys_are_created_listed_and_revoked(home: Path) -> None:
    await run(home, "users", "add", "ann", "--no-password")
    created = await run(home, "keys", "create", "ann", "laptop", "--scope", "chat", "--days", "1")
    first, key, _ = created.out.split("\n")
    key_id = first.split()[0]
    assert first == f"{key_id} for ann; shown only now:" and key.startswith("sk-")
    listed, nobody, forever = await asyncio.gather(
        run(home, "keys", "list"),
        run(home, "keys", "create", "nobody"),
        run(home, "keys", "create", "ann", "--days", "0"),
    )
    assert [line.split() for line in listed.out.splitlines()] == [
        [key_id, f"{key[:9]}…", "valid", "ann", "laptop", "[chat]"]
    ]
    assert nobody == Finished(1, "", "There is no such user.\n")
    assert (forever.code, forever.out) == (2, "") and "Invalid value for '--days'" in forever.err
    assert await run(home, "keys", "revoke", key_id) == Finished(0, f"{key_id} is revoked\n", "")
    listed, unknown = await asyncio.gather(run(home, "keys", "list", "ann"), run(home, "keys", "revoke", "key_unknown"))
    assert listed.out.split()[2] == "revoked"
    assert (unknown.code, unknown.out, unknown.err.count("\n")) == (1, "", 1)


async def test_what_commands_change_holds_at_once_for_a_server_that_runs(home: Path) -> None:
    async with started(home) as server:
        assert (await run(home, "users", "add", "ann", "--no-password")).err == ""
        created = await asyncio.gather(*(run(home, "keys", "create", "ann") for _ in range(2)))
        assert [finished.err for finished in created] == ["", ""]
        keys = [finished.out.split() for finished in created]
        revoked, kept = [await server.http(key[-1]) for key in keys]
        assert [(await client.get("/v1/models")).status_code for client in (revoked, kept)] == [200, 200]
        assert (await run(home, "keys", "revoke", keys[0][0])).err == ""
        await _until_refused(revoked)
        assert (await kept.get("/v1/models")).status_code == 200
        assert (await run(home, "users", "disable", "ann")).err == ""
        await _until_refused(kept)
        await server.stop()


async def _until_refused(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):  # a second, on a machine that has time
        while (await client.get("/v1/models")).status_code != 401:
            pass


async def test_models_are_listed_with_what_they_can(home: Path) -> None:
    listed, none = await asyncio.gather(
        run(home, "models", BACKENDS="llama_cpp,scripted"),
        run(home, "models", BACKENDS="ollama", OLLAMA_HOST="127.0.0.1:1"),
    )
    assert listed.code == 0 and listed.err == ""
    builtin, scripted = listed.out.splitlines()
    assert builtin.startswith("drover-tiny  llama_cpp  context ") and "chat" in builtin
    assert scripted == "scripted  scripted  context ?  [chat embed tools vision]"
    assert (none.code, none.out, none.err.count("\n")) == (1, "", 1) and none.err.startswith("ollama: ")
    assert not (home / "data" / "secret.key").exists()


async def test_the_openapi_document_is_printed(home: Path) -> None:
    finished = await run(home, "openapi")
    assert finished.code == 0, finished.err
    document = json.loads(finished.out)
    assert document["openapi"].startswith("3.") and "/v1/chat/completions" in document["paths"]


COMMANDS = [
    (),
    ("serve",),
    ("users",),
    ("users", "add"),
    ("users", "list"),
    ("users", "disable"),
    ("keys",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("models",),
    ("doctor",),
    ("openapi",),
]


async def test_every_command_explains_itself_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    helped = await asyncio.gather(*(run(tmp_path, *command, "--help") for command in COMMANDS))
    for command, finished in zip(COMMANDS, helped, strict=True):
        assert (finished.code, finished.err) == (0, ""), command
        assert finished.out.startswith(" ".join(["Usage: server.py", *command])), command
    wrong = await asyncio.gather(*(run(tmp_path, *command, "--nonsense") for command in COMMANDS[:3]))
    assert {(finished.code, finished.out, finished.err.splitlines()[-1]) for finished in wrong} == {
        (2, "", "Error: No such option '--nonsense'.")
    }
    assert list(tmp_path.iterdir()) == []


async def test_the_doctor_finds_nothing_and_changes_nothing_on_a_healthy_installation(home: Path) -> None:
    assert (await run(home, "users", "add", "ann", "--no-password")).code == 0
    before = _snapshot(home)
    finished = await run(home, "doctor", without=("BACKENDS",), OLLAMA_HOST="")
    assert finished.code == 0, finished.out
    marks = [line.split()[0] for line in finished.out.splitlines() if not line.startswith(" ")]
    del marks[4]  # whether this machine can confine code
    assert marks in (["ok"] * 5 + ["none"], ["ok"] * 6)  # with or without an Ollama on this machine
    assert _snapshot(home) == before


async def test_the_doctor_makes_nothing_on_an_empty_folder(tmp_path: Path) -> None:
    finished = await run(tmp_path, "doctor")
    assert finished.code == 0, finished.out
    assert finished.out.count("made at the first start") == 3
    assert list(tmp_path.iterdir()) == []


def _snapshot(folder: Path) -> dict[str, Any]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) for path in files}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something else has."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


async def test_the_doctor_says_all_that_is_wrong_and_how_to_mend_it(home: Path, taken: int) -> None:
    (home / "data" / "secret.key").write_text("canary")
    with closing(sqlite3.connect(home / "data" / "drover.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    finished = await run(
        home,
        "doctor",
        SERVER_PORT=taken,
        BACKENDS="openai,ollama,llama_cpp",
        UPSTREAM_BASE_URL="http://127.0.0.1:1/v1",
        OLLAMA_HOST="127.0.0.1:1",
        LLAMACPP_MODEL_PATH="/nowhere/m.gguf",
    )
    report = _report(finished)
    assert finished.code == 1 and "canary" not in finished.out
    assert {name: line[:4] for name, line in report.items()} == {
        "data folder": "ok  ",
        "secret": "FAIL",
        "database": "FAIL",
        "port": "FAIL",
        "python tool": report["python tool"][:4],
        "backend openai": "FAIL",
        "backend ollama": "FAIL",
        "backend llama_cpp": "FAIL",
    }
    for name, hint in {
        "secret": "set SECRET_KEY, or remove data/secret.key",
        "database": "update Drover, or restore a backup",
        "port": "see what it is: ss -ltnp",
        "backend openai": "its base URL",
        "backend ollama": "ollama serve",
        "backend llama_cpp": "/nowhere/m.gguf",
    }.items():
        assert hint in report[name]


async def test_the_doctor_sees_secrets_that_others_can_read_and_databases_that_are_none(home: Path) -> None:
    (home / "data" / "secret.key").write_text("0123456789abcdef" * 4)
    (home / "data" / "secret.key").chmod(0o644)
    (home / "data" / "drover.db").write_bytes(b"nonsense" * 1000)
    report = _report(await run(home, "doctor"))
    assert "FAIL" in report["secret"] and "chmod 600 data/secret.key" in report["secret"]
    assert "FAIL" in report["database"] and "check DATABASE_URL" in report["database"]


async def test_the_doctor_misses_a_lost_secret_and_a_model_among_others(home: Path) -> None:
    report = _report(await run(home, "doctor", BACKENDS="llama_cpp", LLAMACPP_MODEL_PATH="/nowhere/m.gguf"))
    assert "FAIL" in report["secret"] and "from a backup" in report["secret"]
    assert "FAIL" in report["backend llama_cpp"] and "/nowhere/m.gguf" in report["backend llama_cpp"]


async def test_the_doctor_sees_a_data_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    finished = await run(tmp_path, "doctor")
    assert finished.code == 1 and "DATA_DIRECTORY" in _report(finished)["data folder"]


async def test_the_doctor_needs_a_backend_that_answers(home: Path) -> None:
    finished = await run(home, "doctor", BACKENDS="openai", UPSTREAM_BASE_URL="http://127.0.0.1:1/v1")
    assert finished.code == 1 and finished.out.endswith("No backend answers: there would be nothing to ask.\n")


def _report(finished: Finished) -> dict[str, str]:
    """What the doctor says of each part, its hints included."""
    assert finished.err == ""
    parts: dict[str, str] = {}
    for line in finished.out.splitlines():
        if line.startswith(("ok ", "FAIL ", "none ")):
            name = line[6:].partition(": ")[0]
            parts[name] = line
        elif line.startswith("  "):
            parts[name] += line
    return parts


async def test_the_doctor_knows_who_has_the_port(home: Path, taken: int) -> None:
    async with started(home) as server:
        port = httpx.URL(server.url).port
        by_drover, by_another = await asyncio.gather(
            run(home, "doctor", SERVER_PORT=port), run(home, "doctor", SERVER_PORT=taken)
        )
        await server.stop()
    assert (by_drover.code, f"ok    port: 127.0.0.1:{port}: Drover is running there" in by_drover.out) == (0, True)
    assert (by_another.code, f"FAIL  port: Cannot listen on 127.0.0.1:{taken}" in by_another.out) == (1, True)


async def test_a_reader_that_has_enough_is_no_error(home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        finished = await run(home, "doctor", stdout=writer)
    finally:
        os.close(writer)
    assert (finished.code, finished.err) == (0, "")
