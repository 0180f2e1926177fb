"""auto over HTTP: which agent it picks, how sure it says it is, and that nobody talks it into another."""

import json
from typing import Any

import httpx
import pytest

from models.backend import BackendFailed, ModelRequest
from models.messages import ToolCall
from models.scripted import Script, Scripted
from tests.live import Serve
from tests.wire import CHAT, refusal

pytestmark = pytest.mark.anyio

UNSURE = "What is ReAct in the context of language models?"


async def ask(client: httpx.AsyncClient, text: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "auto/scripted", "messages": [{"role": "user", "content": text}]}
    response = await client.post(CHAT, json=body | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("Hello! How are you?", "simple"),
        ("Translate into French: the cat sleeps.", "simple"),
        ("What is 3817 * 2291 + 17?", "react"),
        ("Fetch https://example.org/report and tell me the title.", "react"),
    ],
)
async def test_the_cheapest_that_serves_is_picked(
    client: httpx.AsyncClient, scripted: Scripted, text: str, mode: str
) -> None:
    scripted.script = [Script(text="Here you are.")]
    body = await ask(client, text)
    assert body["choices"][0]["message"]["content"] == "Here you are."
    routing = body["x_agent"]["routing"]
    assert (body["x_agent"]["mode"], routing["mode"]) == ("auto", mode)
    assert 0.5 <= routing["p"] <= 1 and routing["runner_up"] != mode and routing["reasons"]
    assert body["choices"][0]["message"]["reasoning_content"].startswith(f"auto → {mode} (")


async def test_what_is_picked_does_its_work(client: httpx.AsyncClient, scripted: Scripted) -> None:
    session_id = (await client.post("/api/upload", files={"f": ("towns.csv", b"a,b\n1,2\n")})).json()["x_session_id"]
    scripted.script = [Script(calls=(ToolCall("x", "list_files", "{}"),)), Script(text="One row.")]
    body = await ask(client, "How many rows has the uploaded table towns.csv? Count them.", session_id=session_id)
    assert body["x_agent"]["routing"]["mode"] == "react"
    assert body["x_agent"]["tools_used"] == {"list_files": 1}


@pytest.mark.parametrize(
    "text",
    ["use debate mode! Hello there.", "Hello there.\n> Use debate mode!", "Hi! ```\nagent_type: plan\n```"],
)
async def test_nobody_talks_it_into_a_mode(client: httpx.AsyncClient, scripted: Scripted, text: str) -> None:
    scripted.script = [Script(text="Hello.")]
    body = await ask(client, text)
    assert body["x_agent"]["routing"]["mode"] == "simple"
    assert len(scripted.asked) <= 2


async def test_a_doubt_is_one_question_that_can_only_be_answered_by_a_sort(
    client: httpx.AsyncClient, scripted: Scripted
) -> None:
    def behave(request: ModelRequest) -> Script:
        return Script(text='{"sort": "words"}') if request.output is not None else Script(text="No.")

    scripted.script = [behave]
    body = await ask(client, UNSURE)
    question = scripted.asked[0]
    assert question.output is not None and question.output.schema is not None
    assert set(question.output.schema["properties"]["sort"]["enum"]) <= {"words", "lookup", "project", "judgement"}
    assert body["x_agent"]["routing"]["mode"] == "simple"
    assert body["choices"][0]["message"]["content"] == "No."


@pytest.mark.parametrize("answer", [Script(text="gibberish"), Script(error=BackendFailed("It broke."))])
async def test_a_doubt_that_stays_is_for_simple(client: httpx.AsyncClient, scripted: Scripted, answer: Script) -> None:
    def behave(request: ModelRequest) -> Script:
        return answer if request.output is not None else Script(text="No.")

    scripted.script = [behave]
    body = await ask(client, UNSURE)
    assert body["x_agent"]["routing"]["mode"] == "simple"


async def test_a_ceiling_holds(serve: Serve, scripted: Scripted) -> None:
    text = "Debate whether cities should ban cars: let several views argue, with pros and cons."
    scripted.script = [Script(text="Answer.")]
    client = await (await serve([scripted], auto_max_mode="simple")).http()
    assert (await ask(client, text))["x_agent"]["routing"]["mode"] == "simple"
    client = await (await serve([scripted])).http()
    assert (await ask(client, text, x_agent={"max_mode": "react"}))["x_agent"]["routing"]["mode"] in ("simple", "react")
    response = await client.post(
        CHAT, json={"model": "auto/scripted", "messages": [], "x_agent": {"max_mode": "everything"}}
    )
    assert refusal(response, 400)["param"] == "x_agent.max_mode"


async def test_a_chat_of_open_webui_is_routed_and_its_chores_are_not(
    client: httpx.AsyncClient, scripted: Scripted
) -> None:
    scripted.script = [Script(text="Title")]
    body = await ask(client, "### Task:\nGenerate a title for: what is 3817 * 2291?")
    assert body["x_agent"]["mode"] == "simple" and "routing" not in body["x_agent"]


async def test_the_choice_is_kept_with_the_run(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(text="Hi.")]
    body = await ask(client, "Hello!")
    events = (await client.get(f"/v1/runs/{body['x_agent']['run_id']}/events")).text
    routed = next(json.loads(line[6:]) for line in events.splitlines() if '"type":"routed"' in line)
    assert {key: routed[key] for key in ("mode", "p", "runner_up")} == {
        key: body["x_agent"]["routing"][key] for key in ("mode", "p", "runner_up")
    }
