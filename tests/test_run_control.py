"""Runs that are paused, resumed, left over by a server, sent twice, and replayed."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from agents import AGENTS, Context
from agents.events import LIVE, encode
from agents.journal import Journal
from agents.options import Options
from gateway.work import decode, read_event
from models.backend import ModelRequest
from models.messages import Delta, ToolCall
from models.probe import Prober
from models.scripted import Script, Scripted
from tests.live import Live, Serve
from tests.test_runs import events as parsed
from tests.wire import CHAT, refusal

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "react/scripted", "messages": [{"role": "user", "content": "Look."}]}
READ = Script(text="So.", calls=(ToolCall("x", "read_file", '{"name": "a.txt"}'),), delay=0.02)
DONE = Script(text="It is done.", delay=0.02)


async def begin(client: httpx.AsyncClient, **fields: Any) -> str:
    """A run in the background; its id."""
    response = await client.post("/v1/runs", json=ASK | fields)
    assert response.status_code == 202, response.text
    run: dict[str, Any] = response.json()
    assert run["status"] == "running" and response.headers["x-run-id"] == run["id"]
    return str(run["id"])


async def state(client: httpx.AsyncClient, run_id: str) -> str:
    return str((await client.get(f"/v1/runs/{run_id}")).json()["status"])


async def reach(client: httpx.AsyncClient, run_id: str, wanted: str) -> None:
    async with asyncio.timeout(20):
        while await state(client, run_id) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def kinds(client: httpx.AsyncClient, run_id: str) -> list[str]:
    return [event.type for event in parsed((await client.get(f"/v1/runs/{run_id}/events")).text)]


async def test_a_run_is_begun_and_followed_without_waiting(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    run_id = await begin(client)
    assert await kinds(client, run_id) == ["asked", "spoke", "tool_started", "tool_finished", "spoke", "answer"]
    assert await state(client, run_id) == "completed"


async def test_a_paused_run_holds_nothing_and_goes_on(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    run_id = await begin(client)
    await scripted.started.wait()
    paused = await client.post(f"/v1/runs/{run_id}/pause")
    assert paused.json()["status"] in ("pausing", "paused")
    await reach(client, run_id, "paused")
    assert (scripted.running, len(scripted.asked)) == (0, 1)
    assert (await client.post(f"/v1/runs/{run_id}/pause")).json()["status"] == "paused"
    assert (await client.post(f"/v1/runs/{run_id}/resume")).json()["status"] == "running"
    assert (await client.post(f"/v1/runs/{run_id}/resume")).status_code == 200
    assert await kinds(client, run_id) == [
        "asked", "spoke", "log", "tool_started", "tool_finished", "spoke", "answer",
    ]  # fmt: skip
    assert len(scripted.asked) == 2  # what was said before the pause was not said again


async def test_the_clock_stands_still_in_a_pause(serve: Serve, scripted: Scripted) -> None:
    client = await (await serve([scripted], run_timeout=1.5)).http()
    scripted.script = [READ, DONE]
    run_id = await begin(client)
    await scripted.started.wait()
    await client.post(f"/v1/runs/{run_id}/pause")
    await reach(client, run_id, "paused")
    await asyncio.sleep(1.6)
    await client.post(f"/v1/runs/{run_id}/resume")
    await reach(client, run_id, "completed")


async def test_a_client_waits_through_a_pause(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    request = asyncio.create_task(client.post(CHAT, json=ASK))
    await scripted.started.wait()
    (run,) = (await client.get("/v1/runs")).json()["data"]
    await client.post(f"/v1/runs/{run['id']}/pause")
    await reach(client, run["id"], "paused")
    assert not request.done()
    await client.post(f"/v1/runs/{run['id']}/resume")
    assert (await request).json()["choices"][0]["message"]["content"] == "It is done."


async def test_only_legal_moves_are_made(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [DONE]
    run_id = await begin(client)
    await reach(client, run_id, "completed")
    for move in ("pause", "resume"):
        response = await client.post(f"/v1/runs/{run_id}/{move}")
        error = refusal(response, 409)
        assert (error["code"], error["message"]) == (
            "illegal_transition",
            f"A run that is completed cannot be {move}d.",
        )
        assert response.headers["x-should-retry"] == "false"
        assert refusal(await client.post(f"/v1/runs/none/{move}"), 404)["code"] == "run_not_found"
    assert (await client.post(f"/v1/runs/{run_id}/cancel")).json()["status"] == "completed"


async def test_moves_that_race_leave_a_run_that_ends(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, READ, READ, DONE]
    run_id = await begin(client)
    moves = ["pause", "resume"] * 20
    await asyncio.gather(*(client.post(f"/v1/runs/{run_id}/{move}") for move in moves))
    await client.post(f"/v1/runs/{run_id}/resume")
    async with asyncio.timeout(20):
        while await state(client, run_id) != "completed":
            await client.post(f"/v1/runs/{run_id}/resume")
            await asyncio.sleep(0.01)
    found = await kinds(client, run_id)
    assert [kind for kind in found if kind != "log"] == [
        "asked", *(["spoke", "tool_started", "tool_finished"] * 3), "spoke", "answer",
    ]  # fmt: skip


async def test_a_paused_run_can_be_cancelled(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    run_id = await begin(client)
    await scripted.started.wait()
    await client.post(f"/v1/runs/{run_id}/pause")
    await reach(client, run_id, "paused")
    assert (await client.post(f"/v1/runs/{run_id}/cancel")).json()["status"] == "cancelled"


async def test_a_paused_run_survives_a_restart(serve: Serve) -> None:
    first, second = Scripted([READ, DONE]), Scripted([DONE])
    live = await serve([first])
    client = await live.http()
    run_id = await begin(client, session_id="s")
    await first.started.wait()
    await client.post(f"/v1/runs/{run_id}/pause")
    await reach(client, run_id, "paused")
    await live.server.drain()
    await live.server.parts.recorder.flush()
    other = await (await serve([second])).http()
    assert await state(other, run_id) == "paused"
    assert (await other.post(f"/v1/runs/{run_id}/resume")).json()["status"] == "running"
    await reach(other, run_id, "completed")
    assert [event.id for event in parsed((await other.get(f"/v1/runs/{run_id}/events")).text)] == list(range(1, 8))
    # The new server's model was asked only what was still to be said, with all that was known.
    assert [len(first.asked), len(second.asked)] == [1, 1]
    assert [message.role for message in second.asked[0].messages[-2:]] == ["assistant", "tool"]
    said = (await other.get("/api/sessions/s")).json()["conversation"]
    assert [each["content"] for each in said] == ["Look.", "It is done."]


async def test_a_run_that_a_server_left_can_be_taken_up(serve: Serve, tmp_path: Any) -> None:
    first, second = Scripted([READ, Script(text="never", delay=60)]), Scripted([DONE])
    live = await serve([first])
    client = await live.http()
    run_id = await begin(client)
    async with asyncio.timeout(20):
        while len(first.asked) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await live.server.parts.recorder.flush()
    # What a killed server leaves: its rows as they are.
    folder = live.settings.data_directory
    with sqlite3.connect(folder / "drover.db") as source, sqlite3.connect(tmp_path / "copy.db") as copy:
        source.backup(copy)
    copy.close()
    source.close()
    left = tmp_path / "left"
    left.mkdir()
    (tmp_path / "copy.db").rename(left / "drover.db")
    other = await (await serve([second], folder="left")).http()
    assert await state(other, run_id) == "interrupted"
    assert (await other.post(f"/v1/runs/{run_id}/resume")).json()["status"] == "running"
    await reach(other, run_id, "completed")
    assert (await kinds(other, run_id)).count("tool_finished") == 1


async def test_a_request_sent_twice_is_done_once(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    key = {"Idempotency-Key": "order-66"}
    first = await client.post(CHAT, json=ASK, headers=key)
    second = await client.post(CHAT, json=ASK, headers=key)
    assert second.headers["x-run-id"] == first.headers["x-run-id"]
    assert second.json()["choices"] == first.json()["choices"]
    assert second.json()["usage"] == first.json()["usage"]
    streamed = await client.post(CHAT, json=ASK, headers=key)
    assert streamed.json()["choices"] == first.json()["choices"]
    assert len(scripted.asked) == 2
    other = await client.post(CHAT, json=ASK | {"seed": 1}, headers=key)
    assert refusal(other, 400)["code"] == "idempotency_key_reused"


async def test_two_at_once_with_one_key_are_one_run(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(text="slowly done", delay=0.1)]
    key = {"Idempotency-Key": "k"}
    first = asyncio.create_task(client.post(CHAT, json=ASK, headers=key))
    await scripted.started.wait()
    second = await client.post(CHAT, json=ASK | {}, headers=key)
    assert second.headers["x-run-id"] == (await first).headers["x-run-id"]
    assert len(scripted.asked) == 1
    run = await client.post("/v1/runs", json=ASK, headers=key)
    assert (run.status_code, run.json()["id"]) == (202, second.headers["x-run-id"])


async def test_a_replay_tells_what_was_told(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [READ, DONE]
    streamed = await client.post(CHAT, json=ASK | {"stream": True})
    asked = len(scripted.asked)
    replayed = await client.get(f"/v1/runs/{streamed.headers['x-run-id']}/replay")
    assert replayed.headers["content-type"].startswith("text/event-stream")

    def told(text: str) -> tuple[str, str, Any]:
        chunks = [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        report = next(chunk["x_agent"] for chunk in chunks if "x_agent" in chunk)
        return (
            "".join(delta.get("content", "") for delta in deltas),
            "".join(delta.get("reasoning_content", "") for delta in deltas),
            report,
        )

    assert told(replayed.text) == told(streamed.text)
    assert len(scripted.asked) == asked


async def test_a_client_that_leaves_may_let_its_run_go_on(
    live: Live, client: httpx.AsyncClient, scripted: Scripted
) -> None:
    scripted.script = [Script(text="It is done.", delay=0.1)]
    leaving = await live.http()
    request = asyncio.create_task(leaving.post(CHAT, json=ASK | {"x_agent": {"on_disconnect": "continue"}}))
    await scripted.started.wait()
    request.cancel()
    (run,) = (await client.get("/v1/runs")).json()["data"]
    await reach(client, run["id"], "completed")


class Mute(Scripted):
    """A backend that must not be asked."""

    async def chat(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        assert not self.script, "a model was asked"
        yield Delta()


@pytest.mark.parametrize("mode", sorted(AGENTS))
async def test_a_run_done_again_by_its_journal_is_the_same(live: Live, client: httpx.AsyncClient, mode: str) -> None:
    """Every agent is deterministic but for its moves: with those it comes to the same without a model."""
    response = await client.post(CHAT, json=ASK | {"model": f"{mode}/scripted"})
    assert response.status_code == 200, response.text
    run_id = response.headers["x-run-id"]
    parts = live.server.parts
    await parts.recorder.flush()
    recorded = [read_event(record) for record in await parts.run_store.events(run_id)][1:]
    request, session = ModelRequest("scripted", ()), None
    kept = await parts.run_store.request(run_id)
    if kept is not None and kept.work is not None:
        work = decode(kept.work)
        request = work.request
        session = parts.sessions.workspace(await parts.sessions.get(str(work.session_id), work.user_id))
    prober = Prober()
    await prober.of(Scripted(), "scripted")
    context = Context(
        Mute(),
        request,
        info=(await parts.catalog.find("scripted"))[1],
        session=session,
        toolbox=parts.toolbox,
        options=Options(max_iterations=6),
        journal=Journal(recorded),
        prober=prober,
        find=parts.catalog.find,
    )
    again = [encode(event) async for event in AGENTS[mode](context) if not isinstance(event, LIVE)]
    assert again == [encode(event) for event in recorded]
