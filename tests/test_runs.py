"""Runs: listed, described, followed by any number of readers, and cancelled."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from msgspec import Struct

from models.backend import BackendFailed, ModelRequest
from models.messages import ToolCall, Usage
from models.scripted import Script, Scripted
from tests.doors import envelope
from tests.live import Live, Serve
from tests.wire import CHAT, HELLO, check_headers, failure

pytestmark = pytest.mark.anyio


SLOW = Script(text="one two", pieces=4, delay=30)


class Event(Struct, frozen=True):
    """A server-sent event."""

    id: int
    type: str
    data: Any


def events(text: str) -> list[Event]:
    """The events of a stream, without keep-alives."""
    found = []
    for block in text.replace(": keep-alive\n", "").split("\n\n")[:-1]:
        identity, kind, data = block.split("\n")
        found.append(
            Event(
                int(identity.removeprefix("id: ")),
                kind.removeprefix("event: "),
                json.loads(data.removeprefix("data: ")),
            )
        )
    return found


async def ask(client: httpx.AsyncClient, text: str = "Hello", **changes: Any) -> str:
    """A chat that ends well; the id of its run."""
    response = await client.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": text}]} | changes)
    assert response.status_code == 200, response.text
    return response.headers["x-run-id"]


async def get(client: httpx.AsyncClient, path: str = "/v1/runs", **query: Any) -> Any:
    """The body of a success."""
    response = await client.get(path, params=query)
    check_headers(response)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    return response.json()


async def follow(client: httpx.AsyncClient, run: str, after: int | None = None, last: str | None = None) -> list[Event]:
    """All events that a reader gets until the stream ends."""
    query = {} if after is None else {"after": after}
    headers = {} if last is None else {"Last-Event-ID": last}
    async with asyncio.timeout(10):
        response = await client.get(f"/v1/runs/{run}/events", params=query, headers=headers)
    check_headers(response)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(response.text)


async def user(live: Live, admin: httpx.AsyncClient, name: str) -> httpx.AsyncClient:
    """Another user."""
    created = (await admin.post("/api/users", json={"username": name})).json()
    key = (await admin.post("/api/auth/keys", json={"name": "theirs", "user_id": created["id"]})).json()["key"]
    return await live.http(key)


async def under_way(client: httpx.AsyncClient, backend: Scripted) -> tuple[str, "asyncio.Task[httpx.Response]"]:
    """A chat that has begun and will not end by itself: its run, and the request that waits for it."""
    backend.script = [SLOW]
    backend.started.clear()
    chat = asyncio.create_task(client.post(CHAT, json=HELLO))
    await backend.started.wait()
    return (await get(client, limit=1))["data"][0]["id"], chat


MISSING = envelope("No run found with id 'run_nothing'.", "run_not_found", param="run_id")


async def test_a_run_is_described_from_beginning_to_end(
    live: Live, scripted: Scripted, client: httpx.AsyncClient
) -> None:
    before = time.time()
    run, chat = await under_way(client, scripted)
    shown = await get(client, f"/v1/runs/{run}")
    created = shown.pop("created")
    assert before <= created <= time.time()
    fixed = {"id": run, "object": "run", "mode": "simple", "model": "scripted", "backend": "scripted"}
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    open_ = {"finished": None, "first_token_ms": None, "stop_reason": None, "error_code": None}
    assert shown == fixed | open_ | {"status": "running", "usage": nothing}
    cancelled = (await client.post(f"/v1/runs/{run}/cancel")).json()
    assert cancelled.pop("created") == created
    assert created <= cancelled.pop("finished") <= time.time()
    assert cancelled == fixed | {
        "status": "cancelled",
        "usage": nothing,
        "first_token_ms": None,
        "stop_reason": "cancelled",
        "error_code": "cancelled",
    }
    assert (await chat).status_code == 499


async def test_a_run_that_has_ended_stays_as_it_was(client: httpx.AsyncClient) -> None:
    run = await ask(client, "Hello there, you")
    shown = await get(client, f"/v1/runs/{run}")
    again = (await client.post(f"/v1/runs/{run}/cancel")).json()
    assert again == shown == await get(client, f"/v1/runs/{run}")
    assert shown["created"] <= shown["finished"] and shown["first_token_ms"] > 0
    assert {name: shown[name] for name in ("status", "usage", "stop_reason", "error_code")} == {
        "status": "completed",
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
        "stop_reason": "stop",
        "error_code": None,
    }


async def test_a_run_that_failed_says_why(live: Live, scripted: Scripted, client: httpx.AsyncClient) -> None:
    scripted.script = [Script(text="half", error=BackendFailed("It broke."))]
    assert (await client.post(CHAT, json=HELLO)).status_code == 502
    shown = (await get(client))["data"][0]
    assert (shown["status"], shown["stop_reason"], shown["error_code"]) == ("failed", "failed", "upstream_error")
    assert [event.data | {"at": 0} for event in await follow(client, shown["id"], after=1)] == [
        {
            "seq": 2,
            "at": 0,
            "type": "failed",
            "message": "It broke.",
            "error_type": "upstream_error",
            "code": "upstream_error",
            "status": 502,
        }
    ]


async def test_runs_are_listed_newest_first_page_by_page(client: httpx.AsyncClient) -> None:
    assert await get(client) == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    made = [await ask(client, str(i)) for i in range(5)][::-1]
    shown = [await get(client, f"/v1/runs/{run}") for run in made]

    def page(start: int, end: int, *, more: bool) -> Any:
        return {
            "object": "list",
            "data": shown[start:end],
            "has_more": more,
            "first_id": made[start],
            "last_id": made[end - 1],
        }

    assert await get(client) == page(0, 5, more=False)
    assert await get(client, limit=2) == page(0, 2, more=True)
    assert await get(client, limit=2, after=made[1]) == page(2, 4, more=True)
    assert await get(client, limit=2, after=made[3]) == page(4, 5, more=False)
    assert await get(client, limit=5) == page(0, 5, more=False)
    assert (await get(client, after=made[4]))["data"] == []


@pytest.mark.parametrize("bad", ["limit=0", "limit=101", "limit=x", "limit=1.5"])
async def test_a_page_of_no_sensible_size_is_refused(client: httpx.AsyncClient, bad: str) -> None:
    status, body, _ = failure(await client.get(f"/v1/runs?{bad}"))
    assert (status, body["error"]["param"]) == (400, "limit")


async def test_a_page_after_a_run_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    expected = envelope("No run found with id 'run_nothing'.", "run_not_found", param="after")
    assert failure(await client.get("/v1/runs?after=run_nothing")) == (404, expected, {})


# Readers


def history(asked_at: float, run_events: list[Event]) -> list[Event]:
    """The events with their times, which are right, taken out."""
    times = [event.data["at"] for event in run_events]
    assert times == sorted(times)
    assert all(asked_at <= at <= time.time() for at in times)
    return [Event(event.id, event.type, event.data | {"at": 0}) for event in run_events]


def at(seq: int, kind: str, **data: Any) -> Event:
    """An event of that number, its time taken out."""
    return Event(seq, kind, {"seq": seq, "at": 0, "type": kind} | data)


ASKED = at(1, "asked", model="scripted", messages=[{"role": "user", "content": "Hello"}])


async def test_the_events_of_a_run_are_its_history(live: Live, scripted: Scripted, client: httpx.AsyncClient) -> None:
    scripted.script = [
        Script(text="Yes.", thought="Hm.", calls=(ToolCall("x", "add", '{"a":1}'),), usage=Usage(5, 3, 2, 1))
    ]
    began = time.time()
    run = await ask(client)
    seen = history(began, await follow(client, run))
    call = {"id": seen[1].data["message"]["tool_calls"][0]["id"], "name": "add", "arguments": '{"a":1}'}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 2, "reasoning_tokens": 1}
    message = {"role": "assistant", "content": "Yes.", "thought": "Hm.", "tool_calls": [call]}
    assert seen == [
        ASKED,
        at(2, "spoke", message=message, usage=usage, finish="tool_calls", model="scripted"),
        at(3, "answer", text="Yes.", finish="tool_calls", calls=[call]),
    ]


@pytest.mark.parametrize("ended", [True, False])
async def test_a_reader_may_begin_anywhere(
    live: Live, scripted: Scripted, client: httpx.AsyncClient, ended: bool
) -> None:
    if ended:
        run = await ask(client)
        whole = await follow(client, run)
    else:
        run, chat = await under_way(client, scripted)
        readers = [asyncio.create_task(follow(client, run, after)) for after in (0, 1, 2)]
        await client.post(f"/v1/runs/{run}/cancel")
        whole, *_ = live_reads = [await reader for reader in readers]
        assert live_reads == [whole, whole[1:], whole[2:]]
        await chat
    assert [event.id for event in whole] == list(range(1, len(whole) + 1))
    for after in range(len(whole) + 2):
        assert await follow(client, run, after) == whole[after:]
        assert await follow(client, run, last=str(after)) == whole[after:]
    assert await follow(client, run, after=1, last="2") == whole[1:]
    for nonsense in ("", "x", "-1", "1.5", "9" * 40):
        assert await follow(client, run, last=nonsense) == whole


async def test_a_wrong_beginning_is_refused(client: httpx.AsyncClient) -> None:
    run = await ask(client)
    for after in ("-1", "x", "1.5"):
        status, body, _ = failure(await client.get(f"/v1/runs/{run}/events?after={after}"))
        assert (status, body["error"]["param"]) == (400, "after")


async def test_early_late_and_returning_readers_all_see_the_same(serve: Serve) -> None:
    def talk(request: ModelRequest) -> Script:
        return Script(text="one two", delay=0.05)

    backend = Scripted([talk])
    live = await serve([backend], keep_alive_seconds=0.02)
    client = await live.http()
    chat = asyncio.create_task(client.post(CHAT, json=HELLO))
    await backend.started.wait()
    run = (await get(client, limit=1))["data"][0]["id"]
    early = [asyncio.create_task(follow(client, run)) for _ in range(3)]
    async with client.stream("GET", f"/v1/runs/{run}/events") as returning:
        first = events(await anext(returning.aiter_text()))
    assert [event.type for event in first] == ["asked"]
    rest = await follow(client, run, last=str(first[-1].id))
    assert (await chat).status_code == 200
    late = await follow(client, run)
    assert [event.type for event in late] == ["asked", "spoke", "answer"]
    assert [await reader for reader in early] == [late] * 3
    assert first + rest == late


async def test_a_reader_that_leaves_stops_nothing(live: Live, scripted: Scripted, client: httpx.AsyncClient) -> None:
    run, chat = await under_way(client, scripted)
    async with client.stream("GET", f"/v1/runs/{run}/events") as reader:
        assert len(events(await anext(reader.aiter_text()))) == 1
    assert (await get(client, f"/v1/runs/{run}"))["status"] == "running"
    assert scripted.running == 1
    await client.post(f"/v1/runs/{run}/cancel")
    await chat


async def test_a_reader_that_does_not_read_holds_up_nobody(serve: Serve) -> None:
    backend = Scripted([Script(text="x" * 4_000_000, pieces=400_000)])
    live = await serve([backend])
    client = await live.http()
    chat = asyncio.create_task(client.post(CHAT, json=HELLO))
    await backend.started.wait()
    run = (await get(client, limit=1))["data"][0]["id"]
    async with client.stream("GET", f"/v1/runs/{run}/events") as slow:
        async with asyncio.timeout(10):
            assert (await chat).status_code == 200
            quick = await follow(client, run)
        assert events("".join([text async for text in slow.aiter_text()])) == quick
    assert [event.type for event in quick] == ["asked", "spoke", "answer"]


# Cancelling


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_frees_the_backend_and_tells_all_readers(
    live: Live, scripted: Scripted, client: httpx.AsyncClient, stream: bool
) -> None:
    scripted.script = [SLOW]
    chat = asyncio.create_task(client.post(CHAT, json=HELLO | {"stream": stream}))
    await scripted.started.wait()
    run = (await get(client, limit=1))["data"][0]["id"]
    reader = asyncio.create_task(follow(client, run))
    began = time.time() - 60
    response = await client.post(f"/v1/runs/{run}/cancel")
    assert (response.status_code, response.json()["status"], scripted.running) == (200, "cancelled", 0)
    error = {"message": "The run was cancelled.", "type": "cancelled", "param": None, "code": "cancelled"}
    failed = at(2, "failed", message=error["message"], error_type="cancelled", code="cancelled", status=499)
    assert history(began, await reader) == [ASKED, failed]
    assert failure(await chat) == (499, {"error": error}, {"x-should-retry": "false"})


async def test_cancelling_after_the_first_token_ends_the_stream_with_an_error(serve: Serve) -> None:
    backend = Scripted([Script(text="x" * 10_000, pieces=1, delay=0.01)])
    live = await serve([backend])
    client = await live.http()
    async with client.stream("POST", CHAT, json=HELLO | {"stream": True}) as chat:
        text = chat.aiter_text()
        first = await anext(text)
        await client.post(f"/v1/runs/{chat.headers['x-run-id']}/cancel")
        rest = "".join([piece async for piece in text])
    assert first.startswith("data: ")
    assert rest.endswith(
        'data: {"error":{"message":"The run was cancelled.","type":"cancelled","param":null,"code":"cancelled"}}\n\n'
        "data: [DONE]\n\n"
    )
    assert backend.running == 0


async def test_cancelling_twice_at_once_is_cancelling(
    live: Live, scripted: Scripted, client: httpx.AsyncClient
) -> None:
    run, chat = await under_way(client, scripted)
    answers = await asyncio.gather(*(client.post(f"/v1/runs/{run}/cancel") for _ in range(4)))
    assert [answer.json()["status"] for answer in answers] == ["cancelled"] * 4
    assert (await chat).status_code == 499


# Whose


async def test_another_user_s_run_is_not_there(live: Live, scripted: Scripted, client: httpx.AsyncClient) -> None:
    ended = await ask(client)
    running, chat = await under_way(client, scripted)
    eve = await user(live, client, "eve")
    assert (await get(eve))["data"] == []
    for run in (ended, running, "run_nothing"):
        expected = envelope(f"No run found with id '{run}'.", "run_not_found", param="run_id")
        answers = [
            await eve.get(f"/v1/runs/{run}"),
            await eve.get(f"/v1/runs/{run}/events"),
            await eve.get(f"/v1/runs/{run}/events?after=1"),
            await eve.post(f"/v1/runs/{run}/cancel"),
        ]
        assert [failure(answer) for answer in answers] == [(404, expected, {})] * 4
        page = failure(await eve.get(f"/v1/runs?after={run}"))
        assert page == (404, envelope(f"No run found with id '{run}'.", "run_not_found", param="after"), {})
    assert (await get(client, f"/v1/runs/{running}"))["status"] == "running"
    await client.post(f"/v1/runs/{running}/cancel")
    await chat


async def test_all_keys_of_a_user_see_their_runs(live: Live, client: httpx.AsyncClient) -> None:
    run = await ask(client)
    key = (await client.post("/api/auth/keys", json={"name": "other", "scopes": ["runs"]})).json()["key"]
    assert [shown["id"] for shown in (await get(await live.http(key)))["data"]] == [run]


async def test_what_is_no_run_is_not_found(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        assert failure(await client.request(method, f"/v1/runs/run_nothing{path}")) == (404, MISSING, {})


async def test_old_runs_are_deleted_with_their_events(serve: Serve) -> None:
    client = await (await serve([Scripted()])).http()
    run = await ask(client)
    assert (await get(client, f"/v1/runs/{run}"))["status"] == "completed"
    forgetful = await serve([Scripted()], run_retention_days=1e-9)
    async with asyncio.timeout(10):
        while (await client.get(f"/v1/runs/{run}")).status_code == 200:
            pass
    assert await forgetful.server.parts.run_store.events(run) == []
