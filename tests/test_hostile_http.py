"""Hostile and unlucky clients of files, sessions and runs: broken forms, races, and what a killed server leaves."""

import asyncio
import json
import os
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.scripted import Script, Scripted
from tests.live import Live, Serve
from tests.test_files import FORM, folder, second_user, upload
from tests.test_run_control import ASK, DONE, READ, begin, kinds, reach
from tests.wire import CHAT, HELLO, refusal

pytestmark = pytest.mark.anyio


def left(live: Live) -> list[Path]:
    """The bytes of files that there are."""
    return list((live.settings.data_directory / "files").iterdir())


def part(rng: random.Random) -> bytes:
    """A part of a form, more or less."""
    name = rng.choice([b"file", b"files", b"purpose", b"session_id", b"messages", b"", b"x" * 300, b"\xff"])
    disposition = b'Content-Disposition: form-data; name="' + name + b'"'
    if rng.random() < 0.5:
        hostile = [b"../../a", b"a\0b", b"a\rX: y", b"\xe2\x80\xaeb", b"x" * 3000, b"", b'a"b', b"CON", b"."]
        filename = rng.choice(hostile)
        disposition += rng.choice([b'; filename="%b"', b"; filename*=UTF-8''%b", b"; filename=%b"]) % filename
    more = rng.choice(
        [b"", b"", b"", b"X: " + b"y" * 5000, b"nocolon", b":", b"Content-Type: multipart/mixed; boundary=B"]
    )
    content = rng.choice([b"", b"x", rng.randbytes(500), b"\r\n--", b"[" * 2000, b"9" * 5000, b"%PDF-1.4", b"\xff\xfe"])
    return b"\r\n".join(filter(None, [disposition, more])) + b"\r\n\r\n" + content


def form(rng: random.Random) -> bytes:
    """A form that is broken somewhere, or not."""
    body = bytearray(b"".join(b"--B\r\n" + part(rng) + b"\r\n" for _ in range(rng.choice([0, 1, 1, 2, 5]))))
    body += rng.choice([b"--B--\r\n"] * 6 + [b"--B--", b"--B", b""])
    if rng.random() < 0.3 and body:
        at = rng.randrange(len(body))
        body[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return bytes(body)


async def test_no_form_breaks_the_server(live: Live, client: httpx.AsyncClient) -> None:
    rng = random.Random(4)
    statuses = set()
    for _ in range(150):
        path = rng.choice(["/v1/files", "/api/upload", CHAT])
        response = await client.post(path, headers=FORM, content=form(rng))
        statuses.add(response.status_code)
        if response.status_code != 200:
            assert refusal(response, response.status_code)["message"]
    assert statuses <= {200, 400, 404, 413}
    assert {path.name for path in left(live)} == {
        file["id"] for file in (await client.get("/v1/files", params={"limit": 10_000})).json()["data"]
    }


async def test_the_fields_of_a_form_are_held_to_a_limit_together(live: Live, client: httpx.AsyncClient) -> None:
    async def fields() -> Any:
        for number in range(5):
            yield b'--B\r\nContent-Disposition: form-data; name="%d"\r\n\r\n' % number + b"x" * 8_000_000 + b"\r\n"
        yield b"--B--\r\n"

    response = await client.post("/api/upload", headers=FORM, content=fields())
    assert refusal(response, 413)["message"] == "What the form holds besides its files is larger than 33554432 bytes."


async def test_a_file_in_a_message_is_base64_or_refused(client: httpx.AsyncClient) -> None:
    """Percent-encoding of 30 MB would take the interpreter for ten seconds."""
    for data in ("data:text/plain,%41%42", "data:,A", "data:text/plain;base64", "data:", "é", "QUJ"):
        content = [{"type": "file", "file": {"filename": "a", "file_data": data}}]
        response = await client.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": content}]})
        assert refusal(response, 400)["param"] == "messages[0].content[0].file.file_data"


async def test_uploads_at_once_never_exceed_a_quota(serve: Serve) -> None:
    live = await serve([], session_max_bytes=5000)
    client = await live.http()
    responses = await asyncio.gather(
        *(client.post("/api/upload", files={"f": b"x" * 1000}, data={"session_id": "s"}) for _ in range(12))
    )
    assert sorted(response.status_code for response in responses) == [200] * 5 + [413] * 7
    assert sum(path.stat().st_size for path in left(live)) == 5000
    assert sum(path.stat().st_size for path in folder(live, "s").iterdir()) == 5000


async def test_sessions_are_deleted_while_files_come(live: Live, client: httpx.AsyncClient) -> None:
    def sent() -> list[Any]:
        files = [("f", (f"{number}.txt", b"x" * 50_000)) for number in range(2)]
        uploads = [client.post("/api/upload", files=files, data={"session_id": "s"}) for _ in range(4)]
        return [*uploads, *(client.delete("/api/sessions/s") for _ in range(4))]

    for _ in range(4):
        for response in await asyncio.gather(*sent()):
            assert response.status_code == 200 or refusal(response, 404)["code"] == "session_not_found"
    await client.delete("/api/sessions/s")
    assert left(live) == []


async def test_chats_and_deletions_of_one_session_at_once(client: httpx.AsyncClient) -> None:
    def sent() -> list[Any]:
        chats = [client.post(CHAT, json=HELLO | {"session_id": "s"}) for _ in range(6)]
        return [*chats, *(client.delete("/api/sessions/s") for _ in range(6))]

    for _ in range(3):
        statuses = {response.status_code for response in await asyncio.gather(*sent())}
        assert statuses <= {200, 404, 499}


async def test_a_session_of_one_name_begins_once(client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(upload(client, (f"{i}", b"x"), session_id="s") for i in range(10)))
    files = (await client.get("/api/sessions/s")).json()["file_list"]
    assert sorted(file["filename"] for file in files) == [str(i) for i in range(10)]


async def test_what_a_session_has_left_is_not_the_next_ones(live: Live, client: httpx.AsyncClient) -> None:
    """As where a server was killed between forgetting a session and deleting its folder."""
    await upload(client, ("secret.txt", b"secret"), session_id="s")
    with sqlite3.connect(live.settings.data_directory / "drover.db") as database:
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("DELETE FROM sessions")
    database.close()
    other = await second_user(client, live)
    listed = await other.post("/api/tools/list_files", json={"session_id": "s"})
    assert listed.json()["output"] == "There are no files in this conversation."
    assert list(folder(live, "s").iterdir()) == []


async def test_folders_and_bytes_that_nobody_knows_go_in_the_end(live: Live, client: httpx.AsyncClient) -> None:
    await upload(client, ("a.txt", b"a"), session_id="known")
    (orphan,) = left(live)
    for name in ("known", "old", "new"):
        (folder(live, name) / "deep").mkdir(parents=True)
    stray = orphan.with_name("file-stray")
    stray.write_bytes(b"x")
    for path in (folder(live, "known"), folder(live, "old"), orphan, stray):
        os.utime(path, (0, 0))
    await live.server.parts.files.sweep()
    await live.server.parts.sessions.sweep()
    assert left(live) == [orphan]
    assert sorted(path.name for path in folder(live, "known").parent.iterdir()) == ["known", "new"]


async def test_a_file_whose_bytes_are_gone_is_not_there(live: Live, client: httpx.AsyncClient) -> None:
    file_id = (await upload(client, ("a.txt", b"a")))["data"][0]["id"]
    (live.settings.data_directory / "files" / file_id).unlink()
    assert refusal(await client.get(f"/v1/files/{file_id}/content"), 404)["code"] == "file_not_found"
    content = [{"type": "file", "file": {"file_id": file_id}}]
    response = await client.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": content}]})
    assert refusal(response, 404)["code"] == "file_not_found"
    assert (await client.delete(f"/v1/files/{file_id}")).status_code == 200


async def test_a_download_that_is_not_read_holds_nothing(client: httpx.AsyncClient, live: Live) -> None:
    file_id = (await upload(client, ("a.bin", b"x" * 3_000_000)))["data"][0]["id"]

    def held() -> list[str]:
        links = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return [link for link in links if file_id in link]

    head = await client.head(f"/v1/files/{file_id}/content")
    assert (head.headers["content-length"], head.content) == ("3000000", b"")
    async with client.stream("GET", f"/v1/files/{file_id}/content") as response:
        assert await anext(response.aiter_raw(1000)) == b"x" * 1000
    async with asyncio.timeout(10):
        while held():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", [CHAT, "/v1/runs"])
async def test_twenty_at_once_with_one_key_are_one_run(
    client: httpx.AsyncClient, scripted: Scripted, path: str
) -> None:
    scripted.script = [READ, DONE]
    key = {"Idempotency-Key": "k"}
    responses = await asyncio.gather(*(client.post(path, json=ASK, headers=key) for _ in range(20)))
    assert {response.status_code for response in responses} <= {200, 202}
    (run_id,) = {response.headers["x-run-id"] for response in responses}
    await reach(client, run_id, "completed")
    assert len(scripted.asked) == 2


async def left_by_a_dead_server(serve: Serve, body: dict[str, Any]) -> tuple[httpx.AsyncClient, Scripted, str]:
    """A run that had an Idempotency-Key when its server died; a client of the next server, and that one's model."""
    stuck, fresh = Scripted([Script(text="never", delay=60)]), Scripted([DONE])
    live = await serve([stuck])
    request = asyncio.create_task((await live.http()).post("/v1/runs", json=body, headers={"Idempotency-Key": "k"}))
    run_id = (await request).json()["id"]
    await live.server.parts.recorder.flush()
    live.server.parts.runs.draining = True
    other = await (await serve([fresh])).http()
    assert (await other.get(f"/v1/runs/{run_id}")).json()["status"] == "interrupted"
    return other, fresh, run_id


async def test_a_repeated_request_goes_on_with_what_a_dead_server_left(serve: Serve) -> None:
    client, model, run_id = await left_by_a_dead_server(serve, ASK)
    responses = await asyncio.gather(*(client.post(CHAT, json=ASK, headers={"Idempotency-Key": "k"}) for _ in range(4)))
    assert [response.headers["x-run-id"] for response in responses] == [run_id] * 4
    assert {each.json()["choices"][0]["message"]["content"] for each in responses} == {"It is done."}
    assert len(model.asked) == 1


async def test_a_repeated_request_whose_answer_never_came_is_done_anew(serve: Serve) -> None:
    client, _, run_id = await left_by_a_dead_server(serve, HELLO)
    response = await client.post(CHAT, json=HELLO, headers={"Idempotency-Key": "k"})
    assert response.json()["choices"][0]["message"]["content"] == "It is done."
    assert response.headers["x-run-id"] != run_id


async def test_a_run_is_taken_up_once(serve: Serve) -> None:
    client, model, run_id = await left_by_a_dead_server(serve, ASK)
    responses = await asyncio.gather(*(client.post(f"/v1/runs/{run_id}/resume") for _ in range(10)))
    assert {response.status_code for response in responses} <= {200, 409}
    await reach(client, run_id, "completed")
    assert await kinds(client, run_id) == ["asked", "spoke", "answer"]
    assert len(model.asked) == 1


async def test_junk_begins_no_run(client: httpx.AsyncClient) -> None:
    for body in (b"", b"[]", b"null", b'{"messages":' + b"[" * 3000, b"\xff", b"--B--"):
        assert (await client.post("/v1/runs", content=body)).status_code == 400
    assert (await client.get("/v1/runs")).json()["data"] == []


async def test_other_users_ids_are_of_no_use_anywhere(
    live: Live, client: httpx.AsyncClient, scripted: Scripted
) -> None:
    file_id = (await upload(client, ("a.txt", b"secret"), session_id="s"))["data"][0]["id"]
    run_id = await begin(client, session_id="s")
    await reach(client, run_id, "completed")
    other = await second_user(client, live)
    collection = (await other.post("/api/knowledge", json={"name": "c"})).json()["id"]
    asked = len(scripted.asked)
    content, said = [{"type": "file", "file": {"file_id": file_id}}], json.dumps(HELLO["messages"])
    for response in (
        await other.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": content}]}),
        await other.post(f"/api/knowledge/{collection}/documents", json={"file_id": file_id}),
        await other.post("/v1/runs", json=ASK | {"metadata": {"session_id": "s"}}),
        await other.post(CHAT, data={"messages": said, "session_id": "s", "model": "scripted"}, files={"f": b""}),
        await other.post("/api/tools/list_files", json={}, headers={"X-Session-Id": "s"}),
        await other.post("/v1/files", files={"file": b"1"}, headers={"X-Session-Id": "s"}),
        *[await other.post(f"/v1/runs/{run_id}/{move}") for move in ("pause", "resume", "cancel")],
        *[await other.get(f"/v1/runs/{run_id}/{what}") for what in ("events", "replay")],
    ):
        assert refusal(response, 404)["code"] in ("file_not_found", "session_not_found", "run_not_found")
    assert len(scripted.asked) == asked


async def test_five_hundred_files_are_listed_at_once(live: Live, client: httpx.AsyncClient) -> None:
    await upload(client, ("a.txt", b"a"), session_id="s")
    for number in range(500):
        (folder(live, "s") / f"{number}.txt").write_bytes(b"x")
    began = time.monotonic()
    listed = (await client.post("/api/tools/list_files", json={"session_id": "s"})).json()["output"]
    assert listed.count("text/plain") == 200 and listed.endswith("… and 300 more.")
    assert time.monotonic() - began < 5
