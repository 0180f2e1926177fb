"""plan over HTTP: planned, worked off, answered; and what becomes of plans that are none."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from models.backend import BackendFailed, ModelRequest
from models.messages import ToolCall
from models.scripted import Script, Scripted
from tests.live import Serve
from tests.wire import CHAT

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {
    "model": "plan/scripted",
    "messages": [{"role": "user", "content": "Compare the two towns and draw a chart."}],
}

Behave = Callable[[ModelRequest], Script]


def planner(*steps: tuple[str, list[int]], work: Behave | None = None, answer: str = "Both are fine.") -> Behave:
    """A model that plans these steps, does each by naming it, and answers."""
    plan = json.dumps({"steps": [{"goal": goal, "needs": needs} for goal, needs in steps]})

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "how you would go about it" in last:
            return Script(text="First this, then that.")
        if "Now the plan as JSON" in last:
            return Script(text=plan)
        if "The work is done" in last:
            return Script(text=answer)
        if work is not None:
            return work(request)
        goal = request.messages[-1].text.split("Your step:\n")[-1]
        return Script(text=f"done: {goal}")

    return behave


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json=ASK | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def answer(body: dict[str, Any]) -> str:
    text: str = body["choices"][0]["message"]["content"]
    return text


async def test_steps_see_their_goal_and_what_they_need(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [planner(("measure Oslo", []), ("measure Bergen", []), ("compare", [1, 2]))]
    body = await ask(client)
    assert answer(body) == "Both are fine."
    assert (body["x_agent"]["mode"], body["x_agent"]["stop_reason"]) == ("plan", "stop")
    steps = [request.messages[-1].text for request in scripted.asked if "Your step:" in request.messages[-1].text]
    assert [text.split("Your step:\n")[1] for text in steps][2:] == ["compare"]
    assert "done: measure Oslo" in steps[2] and "done: measure Bergen" in steps[2]
    assert "Results that you may need:\n(none)" in steps[0]
    evidence = scripted.asked[-1].messages[-1].text
    assert "#1 measure Oslo\ndone: measure Oslo" in evidence
    reasoning = body["choices"][0]["message"]["reasoning_content"]
    assert "Plan:\n1. measure Oslo\n2. measure Bergen\n3. compare\n" in reasoning


async def test_steps_that_need_nothing_from_each_other_run_side_by_side(serve: Serve) -> None:
    scripted = Scripted()
    client = await (await serve([scripted])).http()
    together = 0

    def work(request: ModelRequest) -> Script:
        nonlocal together
        together = max(together, scripted.running + 1)
        return Script(text="ok, it is done", delay=0.02)

    scripted.script = [planner(("one", []), ("two", []), ("three", []), work=work)]
    await ask(client)
    assert together == 3


@pytest.mark.parametrize(
    "plan",
    [
        '{"steps": [{"goal": "all of it", "needs": []}]}',
        '{"steps": []}',
        "no plan at all",
        '{"steps": [{"goal": "a", "needs": [2]}, {"goal": "b", "needs": [1]}]}',
        '{"steps": [{"goal": "a", "needs": [7]}, {"goal": "b", "needs": []}]}',
        '{"steps": [{"goal": "a", "needs": [1]}, {"goal": "b", "needs": []}]}',
        json.dumps({"steps": [{"goal": str(i), "needs": []} for i in range(7)]}),
    ],
)
async def test_what_is_no_plan_becomes_a_react(client: httpx.AsyncClient, scripted: Scripted, plan: str) -> None:
    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "how you would go about it" in last:
            return Script(text="Hm.")
        return Script(text=plan) if "Now the plan as JSON" in last else Script(text="Done at once.")

    scripted.script = [behave]
    body = await ask(client)
    assert answer(body) == "Done at once."
    assert scripted.asked[-1].messages[-1].text == ASK["messages"][0]["content"]


async def test_a_plan_that_does_not_hold_is_put_right_once(client: httpx.AsyncClient, scripted: Scripted) -> None:
    good = planner(("one", []), ("two", [1]))
    told: list[str] = []

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "Now the plan as JSON" in last:
            told.append(last)
            if len(told) == 1:
                return Script(text='{"steps": [{"goal": "a", "needs": [2]}, {"goal": "b", "needs": []}]}')
        return good(request)

    scripted.script = [behave]
    assert answer(await ask(client)) == "Both are fine."
    assert told[1].startswith("Step 1 may only need steps before it.")


async def test_what_failed_is_planned_anew_and_results_are_kept(client: httpx.AsyncClient, scripted: Scripted) -> None:
    plans = [
        '{"steps": [{"goal": "one", "needs": []}, {"goal": "two", "needs": []}, {"goal": "three", "needs": [2]}]}',
        '{"steps": [{"goal": "two otherwise", "needs": [1]}]}',
    ]
    asked: list[str] = []

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "Now the plan as JSON" in last:
            return Script(text=plans.pop(0))
        if "how you would go about it" in last:
            asked.append(request.messages[-2].text)
            return Script(text="So.")
        if "Your step:\ntwo" in last and "otherwise" not in last:
            return Script(error=BackendFailed("It broke."))
        return Script(text="All is said." if "The work is done" in last else f"done: {last.split(chr(10))[-1]}")

    scripted.script = [behave]
    body = await ask(client)
    assert answer(body) == "All is said."
    assert "#2 did not work" in asked[1]
    evidence = scripted.asked[-1].messages[-1].text
    assert "#1 one\ndone: one" in evidence and "#2 two\nNot obtained: the model failed." in evidence
    assert "#3 two otherwise\ndone: two otherwise" in evidence and "three" not in evidence


async def test_what_was_not_obtained_is_named(client: httpx.AsyncClient, scripted: Scripted) -> None:
    def work(request: ModelRequest) -> Script:
        if "Your step:\ntwo" in request.messages[-1].text:
            return Script(error=BackendFailed("It broke."))
        return Script(text="here it is")

    scripted.script = [planner(("one", []), ("two", []), ("three", [2]), work=work)]
    body = await ask(client, x_agent={"max_replans": 0})
    evidence = scripted.asked[-1].messages[-1].text
    assert "#3 three\nNot obtained: what it needs was not obtained." in evidence
    assert answer(body) == "Both are fine."


async def test_a_step_uses_tools_and_has_an_end(client: httpx.AsyncClient, scripted: Scripted) -> None:
    def work(request: ModelRequest) -> Script:
        name = f"{len(scripted.asked)}.txt"
        call = ToolCall("x", "read_file", json.dumps({"name": name}))
        return Script(calls=(call,)) if request.tools else Script(text="nothing found")

    scripted.script = [planner(("one", []), ("two", []), work=work)]
    body = await ask(client, x_agent={"max_replans": 0})
    assert body["x_agent"]["tools_used"] == {"read_file": 8}
    assert "Not obtained: all steps are used up." in scripted.asked[-1].messages[-1].text


async def test_a_budget_ends_a_plan_in_an_answer(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [planner(("one", []), ("two", [1]), ("three", [2]))]
    body = await ask(client, x_agent={"budget": {"calls": 4}})
    assert (body["x_agent"]["stop_reason"], len(scripted.asked)) == ("calls", 4)
    assert answer(body)


async def test_steps_never_speak_to_the_user(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [planner(("one", []), ("two", []))]
    response = await client.post(CHAT, json=ASK | {"stream": True, "agent_type": "plan_execute"})
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert content == "Both are fine."


async def test_leaving_stops_all_steps(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [planner(("one", []), ("two", []), work=lambda _: Script(text="on and on", delay=30))]
    request = asyncio.create_task(client.post(CHAT, json=ASK))
    async with asyncio.timeout(20):
        while scripted.running < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    request.cancel()
    async with asyncio.timeout(20):
        while scripted.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
