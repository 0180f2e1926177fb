"""Sessions: what the server remembers of a conversation, for whom, and for how long."""

import asyncio
import base64
import json
import sqlite3
from typing import Any

import httpx
import pytest

from models.backend import BackendFailed, ContextTooLong, ModelInfo, ModelRequest
from models.messages import Image, Message, Text, ToolCall
from models.scripted import Script, Scripted
from tests.live import Live, Serve
from tests.wire import CHAT, HELLO, refusal

pytestmark = pytest.mark.anyio

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def say(client: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> httpx.Response:
    """A chat that ends well."""
    headers = fields.pop("headers", None)
    response = await client.post(CHAT, json={"model": "scripted", "messages": list(messages)} | fields, headers=headers)
    assert response.status_code == 200, response.text
    return response


async def conversation(client: httpx.AsyncClient, session_id: str) -> list[tuple[str, str]]:
    body = (await client.get(f"/api/sessions/{session_id}")).json()
    return [(said["role"], said["content"]) for said in body["conversation"]]


async def test_a_plain_chat_keeps_no_session(client: httpx.AsyncClient) -> None:
    response = await say(client, user("Hi"))
    assert "x-session-id" not in response.headers and "x_session_id" not in response.json()
    assert (await client.get("/api/sessions")).json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"session_id": "abc"}, {}),
        ({}, {"X-Session-Id": "abc"}),
        ({}, {"X-OpenWebUI-Chat-Id": "abc"}),
        ({"metadata": {"session_id": "abc"}}, {}),
        ({"session_id": "abc"}, {"X-Session-Id": "another"}),
    ],
)
async def test_a_session_is_named_by_field_or_header(
    client: httpx.AsyncClient, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    response = await say(client, user("Hi"), headers=headers, **fields)
    assert response.headers["x-session-id"] == "abc"
    assert response.json()["x_session_id"] == "abc"
    assert await conversation(client, "abc") == [("user", "Hi"), ("assistant", "Hi")]


async def test_a_single_message_continues_what_was_said(client: httpx.AsyncClient, scripted: Scripted) -> None:
    await say(client, {"role": "system", "content": "Be brief."}, user("one"), session_id="s")
    await say(client, {"role": "system", "content": "Be kind."}, user("two"), session_id="s")
    assert scripted.asked[1].messages == (
        Message("system", "Be kind."),
        Message("user", "one"),
        Message("assistant", "one"),
        Message("user", "two"),
    )
    assert await conversation(client, "s") == [
        ("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two"),
    ]  # fmt: skip


async def test_a_transcript_of_the_client_wins(client: httpx.AsyncClient, scripted: Scripted) -> None:
    await say(client, user("one"), session_id="s")
    await say(client, user("two"), session_id="s")
    edited = [user("ONE"), {"role": "assistant", "content": "1"}, user("three")]
    await say(client, *edited, session_id="s")
    assert scripted.asked[2].messages == (
        Message("user", "ONE"),
        Message("assistant", "1"),
        Message("user", "three"),
    )
    assert await conversation(client, "s") == [
        ("user", "ONE"), ("assistant", "1"), ("user", "three"), ("assistant", "three"),
    ]  # fmt: skip


async def test_a_streamed_answer_is_there_when_the_stream_has_ended(
    client: httpx.AsyncClient, scripted: Scripted
) -> None:
    scripted.script = [Script(text="first answer"), Script(text="second")]
    response = await say(client, user("one"), session_id="s", stream=True)
    last = json.loads(response.text.split("\n\n")[-3].removeprefix("data: "))
    assert (last["x_session_id"], response.headers["x-session-id"]) == ("s", "s")
    await say(client, user("two"), session_id="s")
    assert [message.text for message in scripted.asked[1].messages] == ["one", "first answer", "two"]


async def test_calls_of_the_clients_tools_are_remembered(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(calls=(ToolCall("x", "look", '{"at":1}'),)), Script(text="seen")]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    first = (await say(client, user("look"), session_id="s", tools=tools)).json()["choices"][0]["message"]
    result = {"role": "tool", "content": "a cat", "tool_call_id": first["tool_calls"][0]["id"]}
    await say(client, user("look"), first, result, session_id="s", tools=tools)
    await say(client, user("and now?"), session_id="s")
    call = ToolCall(first["tool_calls"][0]["id"], "look", '{"at":1}')
    assert scripted.asked[2].messages == (
        Message("user", "look"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "a cat", tool_call_id=call.id, name="look"),
        Message("assistant", "seen"),
        Message("user", "and now?"),
    )


async def test_what_was_said_until_it_broke_is_kept(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [
        Script(text="half an ans", error=BackendFailed("broke")),
        Script(text="", error=BackendFailed("x")),
    ]
    response = await client.post(CHAT, json=HELLO | {"session_id": "s", "stream": True})
    assert "broke" in response.text
    assert await conversation(client, "s") == [("user", HELLO["messages"][0]["content"]), ("assistant", "half an ans")]
    refusal(await client.post(CHAT, json=HELLO | {"session_id": "s"}), 502)
    assert len(await conversation(client, "s")) == 2


async def test_an_answer_nobody_waited_for_is_kept(live: Live, client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(text="one two", pieces=4, delay=0.05), Script(text="later")]
    impatient = await live.http()
    request = asyncio.create_task(impatient.post(CHAT, json=HELLO | {"session_id": "s"}))
    await scripted.started.wait()
    await asyncio.sleep(0.07)
    request.cancel()
    await scripted.stopped.wait()
    run_id = (await client.get("/v1/runs")).json()["data"][0]["id"]
    await client.get(f"/v1/runs/{run_id}/events")
    assert (await conversation(client, "s"))[1] == ("assistant", "one ")


async def test_chores_of_open_webui_are_no_part_of_the_conversation(client: httpx.AsyncClient) -> None:
    chat = {"X-OpenWebUI-Chat-Id": "chat-1"}
    await say(client, user("Hi"), headers=chat)
    await say(client, user("### Task:\nGenerate a title"), headers=chat)
    assert await conversation(client, "chat-1") == [("user", "Hi"), ("assistant", "Hi")]


@pytest.mark.parametrize("session_id", ["../etc", "", ".", "a b", "a/b", "ü", "x" * 129, "-a"])
async def test_an_id_that_no_session_can_have_is_refused(client: httpx.AsyncClient, session_id: str) -> None:
    response = await client.post(CHAT, json=HELLO | {"session_id": session_id})
    if session_id == "":
        assert "x-session-id" not in response.headers  # the same as none
    else:
        assert refusal(response, 400)["param"] == "session_id"


async def test_another_users_session_is_not_there(live: Live, client: httpx.AsyncClient, scripted: Scripted) -> None:
    await say(client, user("secret"), session_id="mine")
    account = (await client.post("/api/users", json={"username": "mallory"})).json()
    key = (await client.post("/api/auth/keys", json={"name": "k", "user_id": account["id"]})).json()["key"]
    other = await live.http(key)
    asked = len(scripted.asked)
    for response in (
        await other.post(CHAT, json=HELLO | {"session_id": "mine"}),
        await other.post(CHAT, json=HELLO, headers={"X-Session-Id": "mine"}),
        await other.get("/api/sessions/mine"),
        await other.delete("/api/sessions/mine"),
        await other.get("/api/sessions", params={"after": "mine"}),
        await other.post("/api/tools/list_files", json={"session_id": "mine"}),
    ):
        assert refusal(response, 404)["code"] in ("session_not_found", "tool_not_found")
    assert len(scripted.asked) == asked
    assert (await other.get("/api/sessions")).json()["data"] == []


async def test_sessions_are_listed_the_last_used_first(client: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await say(client, user("Hi"), session_id=name)
    await say(client, user("Hi"), session_id="a")
    page = (await client.get("/api/sessions", params={"limit": 2})).json()
    assert ([session["id"] for session in page["data"]], page["has_more"]) == (["a", "c"], True)
    rest = (await client.get("/api/sessions", params={"after": page["last_id"]})).json()
    assert ([session["id"] for session in rest["data"]], rest["has_more"]) == (["b"], False)
    (b,) = rest["data"]
    assert (b["object"], b["messages"], b["files"]) == ("session", 2, 0)
    assert b["expires_at"] == pytest.approx(b["used_at"] + 30 * 86400)


async def test_a_deleted_session_leaves_nothing(live: Live, client: httpx.AsyncClient) -> None:
    marker = "unmistakable-words"
    response = await client.post("/api/upload", files=[("f", ("a.txt", marker.encode()))], data={"session_id": "s"})
    file_id = response.json()["data"][0]["id"]
    run_id = (await say(client, user(marker), session_id="s")).headers["x-run-id"]
    data = live.settings.data_directory
    deep = data / "sessions" / "s" / "d"
    deep.mkdir()
    (deep / "link").symlink_to(data)
    assert (await client.delete("/api/sessions/s")).json() == {"id": "s", "object": "session", "deleted": True}
    assert refusal(await client.get("/api/sessions/s"), 404)["code"] == "session_not_found"
    assert refusal(await client.get(f"/v1/files/{file_id}"), 404)["code"] == "file_not_found"
    assert (await client.get(f"/v1/runs/{run_id}/events")).text == ""
    assert (await client.get(f"/v1/runs/{run_id}")).json()["usage"]["total_tokens"] > 0
    assert [path.name for path in (data / "files").iterdir()] == []
    assert [path.name for path in (data / "sessions").iterdir()] == []
    with sqlite3.connect(data / "drover.db") as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            assert marker not in str(database.execute(f"SELECT * FROM {table}").fetchall())
    database.close()
    await say(client, user("again"), session_id="s")
    assert await conversation(client, "s") == [("user", "again"), ("assistant", "again")]


async def test_deleting_a_session_ends_its_runs(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(text="one two", pieces=4, delay=30)]
    request = asyncio.create_task(client.post(CHAT, json=HELLO | {"session_id": "s"}))
    await scripted.started.wait()
    assert (await client.delete("/api/sessions/s")).status_code == 200
    assert refusal(await request, 499)["code"] == "cancelled"
    assert refusal(await client.get("/api/sessions/s"), 404)


async def test_sessions_that_nobody_uses_expire(serve: Serve, scripted: Scripted) -> None:
    live = await serve([scripted], session_retention_days=1)
    client = await live.http()
    await say(client, user("old"), session_id="old")
    await say(client, user("new"), session_id="new")
    with sqlite3.connect(live.settings.data_directory / "drover.db") as database:
        database.execute("UPDATE sessions SET used_at = used_at - 90000 WHERE id = 'old'")
    database.close()
    again = await (await serve([scripted], session_retention_days=1)).http()
    async with asyncio.timeout(10):
        while len((await again.get("/api/sessions")).json()["data"]) == 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [session["id"] for session in (await again.get("/api/sessions")).json()["data"]] == ["new"]
    assert [path.name for path in (live.settings.data_directory / "sessions").iterdir()] == ["new"]


async def test_a_conversation_has_a_limit(serve: Serve, scripted: Scripted) -> None:
    live = await serve([scripted], session_max_bytes=2000)
    client = await live.http()
    await say(client, user("x" * 1100), session_id="s")
    assert refusal(await client.post(CHAT, json=HELLO | {"session_id": "s"}), 413)["code"] == "session_quota_exceeded"
    await say(client, user("Hi"), session_id="t")


async def test_a_form_brings_files_and_is_told_of_them(
    live: Live, client: httpx.AsyncClient, scripted: Scripted
) -> None:
    form = {"model": "scripted", "messages": json.dumps([user("What is in it?")]), "temperature": "0.5"}
    files = [("files", ("data.txt", b"one two")), ("files", ("more.txt", b"three"))]
    response = await client.post(CHAT, data=form, files=files)
    assert response.status_code == 200, response.text
    session_id = response.json()["x_session_id"]
    assert session_id.startswith("sess_")
    asked = scripted.asked[0]
    assert asked.sampling.temperature == 0.5
    text = asked.messages[0].text
    assert text.startswith("What is in it?\n\nFiles in the working folder:\n- data.txt (text/plain, 7 bytes)")
    assert "- more.txt (text/plain, 5 bytes)" in text
    # What was remembered is what was said.
    assert (await conversation(client, session_id))[0] == ("user", "What is in it?")
    await say(client, user("And?"), session_id=session_id)
    assert "- data.txt (text/plain, 7 bytes)" in scripted.asked[1].messages[-1].text
    assert "data.txt" not in scripted.asked[1].messages[0].text


async def test_a_form_streams_too(client: httpx.AsyncClient) -> None:
    form = {"model": "scripted", "messages": json.dumps([user("Hi")]), "stream": "true", "session_id": "7"}
    response = await client.post(CHAT, data=form, files=[("files", ("a.txt", b"1"))])
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert response.headers["x-session-id"] == "7"


async def test_a_picture_in_a_form_is_shown_to_a_model_that_can_see(serve: Serve) -> None:
    sees = Scripted(models=[ModelInfo("sees", "scripted", capabilities=frozenset({"chat", "vision"}))])
    blind = Scripted(models=[ModelInfo("blind", "scripted", capabilities=frozenset({"chat"}))])
    blind.name = "blind"
    client = await (await serve([sees, blind])).http()
    for model in ("sees", "blind"):
        form = {"model": model, "messages": json.dumps([user("What is it?")])}
        response = await client.post(CHAT, data=form, files=[("files", ("a.png", PNG))])
        assert response.status_code == 200, response.text
    shown = sees.asked[0].messages[0].content
    assert isinstance(shown, tuple)
    assert shown[:2] == (Text("What is it?"), Image(base64.b64encode(PNG).decode(), "image/png"))
    assert blind.asked[0].messages[0].text.startswith("What is it?\n\nFiles in the working folder:\n- a.png (image/png")


async def test_files_in_messages_go_into_the_session_once(client: httpx.AsyncClient, scripted: Scripted) -> None:
    uploaded = (await client.post("/v1/files", files={"file": ("known.txt", b"known")})).json()
    content = [
        {"type": "text", "text": "Look"},
        {"type": "file", "file": {"file_id": uploaded["id"]}},
        {"type": "file", "file": {"filename": "new.txt", "file_data": "data:text/plain;base64,bmV3"}},
    ]
    first = await say(client, {"role": "user", "content": content}, session_id="s")
    assert scripted.asked[0].messages[0].text.startswith("Look\n[File: known.txt]\n[File: new.txt]\n\nFiles in")
    answer = first.json()["choices"][0]["message"]
    await say(client, {"role": "user", "content": content}, answer, user("And now?"), session_id="s")
    files = (await client.get("/api/sessions/s")).json()["file_list"]
    assert [file["filename"] for file in files] == ["known.txt", "new.txt"]


@pytest.mark.parametrize(
    ("file", "status", "param"),
    [
        (None, 400, "messages[0].content[0].file"),
        ({}, 400, "messages[0].content[0].file.file_id"),
        ({"file_data": "data:text/plain;base64,%%%"}, 400, "messages[0].content[0].file.file_data"),
        ({"file_id": "file-none"}, 404, "id"),
    ],
)
async def test_a_wrong_file_in_a_message_is_refused(
    client: httpx.AsyncClient, file: Any, status: int, param: str
) -> None:
    content = [{"type": "file", "file": file}]
    response = await client.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": content}]})
    assert refusal(response, status)["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "[{"}, "messages"),
        ({"messages": "[]", "temperature": "hot"}, "temperature"),
        ({"messages": '{"role": "user"}'}, "messages"),
        ({}, "messages"),
    ],
)
async def test_a_wrong_form_is_refused(client: httpx.AsyncClient, fields: dict[str, str], param: str) -> None:
    response = await client.post(CHAT, data={"model": "scripted", **fields}, files=[("files", ("a.txt", b"1"))])
    assert refusal(response, 400)["param"] == param
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_two_requests_at_once_in_one_session_both_count(client: httpx.AsyncClient, scripted: Scripted) -> None:
    await say(client, user("first"), session_id="s")
    await asyncio.gather(*(say(client, user(f"at once {i}"), session_id="s") for i in range(2)))
    said = [text for role, text in await conversation(client, "s") if role == "user"]
    assert said[0] == "first" and set(said[1:]) == {"at once 0", "at once 1"}


async def test_memory_that_does_not_fit_is_left_out_the_oldest_first(
    client: httpx.AsyncClient, scripted: Scripted
) -> None:
    def small(request: ModelRequest) -> Script:
        too_long = len(request.messages) > 4
        return Script(error=ContextTooLong(10)) if too_long else Script(text="yes")

    for i in range(4):
        await say(client, user(f"turn {i}"), session_id="s")
    scripted.script = [small]
    response = await say(client, {"role": "system", "content": "Be brief."}, user("last"), session_id="s")
    assert response.json()["choices"][0]["message"]["content"] == "yes"
    assert [message.text for message in scripted.asked[-1].messages] == ["Be brief.", "turn 3", "turn 3", "last"]
    assert len(await conversation(client, "s")) == 10
    events = (await client.get(f"/v1/runs/{response.headers['x-run-id']}/events")).text
    assert "4 messages of the conversation did not fit and were left out" in events


async def test_a_message_that_does_not_fit_alone_is_refused(client: httpx.AsyncClient, scripted: Scripted) -> None:
    await say(client, user("one"), session_id="s")
    scripted.script = [Script(error=ContextTooLong(10))]
    response = await client.post(CHAT, json=HELLO | {"session_id": "s"})
    assert refusal(response, 400)["code"] == "context_length_exceeded"
