"""Agents on the real engine: the built-in model uses a tool, and random weights, where constraints carry all structure.

The prompts for the built-in model are picked ones (see models/builtin/README.md): it is there to run, not to be clever.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from msgspec import Struct

from benchmarks.random_gguf import SIZES, write
from models.backend import ModelRequest
from models.llama_cpp import LlamaCpp
from models.messages import Delta, Usage
from models.probe import Abilities
from tests.live import Live, serving, until
from tests.wire import CHAT, refusal
from tools.python import Sandbox

pytestmark = pytest.mark.anyio

TINY = Path(__file__).parents[1] / "models/builtin/tiny.gguf"
QUOTE, ENDS = "1", ("1418", "1420")
"""Tokens of the built-in vocabulary: `"`, and those that end an answer."""
TERSE: dict[str, Any] = {
    "temperature": 2,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "logit_bias": dict.fromkeys(ENDS, 9) | {QUOTE: 4},
}
"""Every token is about as likely as any other, but about one in twenty is the last; strings come to an end, too."""
ENDLESS = dict.fromkeys(ENDS, -100)

CLOSED = "How many legs do 3 cats and 2 birds have together?"
OPEN = "Should our town build a tram? Discuss the trade-offs."
DETAILS = """ The town has sixty thousand people, one narrow main street and a railway station on its edge. Two bus \
lines run every twenty minutes and are full in the morning. A line of six kilometres would cost about ninety \
million, of which the state pays two thirds. Shops fear the years of building; the hospital wants the line."""
FILES = "How many files are there?"
NONE = "There are no files in this conversation."
PICK = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "note": {"type": "string", "maxLength": 20},
    },
    "required": ["colour", "count", "note"],
    "additionalProperties": False,
}
VOICES = [{"name": name, "persona": name, "temperature": 2} for name in ("analyst", "sceptic", "pragmatist")]
LIST_ONLY: dict[str, Any] = {"x_agent": {"tools": ["list_files"], "trace": True}}


class Heard(Struct, frozen=True):
    """A request to the engine that was answered in full."""

    request: ModelRequest
    text: str
    finish: str | None
    usage: Usage


class Overheard(LlamaCpp):
    """The engine, and all that was said to it and by it."""

    def __init__(self, *files: Path) -> None:
        super().__init__(files, None, TINY, threads=1)
        self.heard: list[Heard] = []

    async def chat(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        """As the engine does."""
        text, finish, usage = "", None, Usage()
        async with aclosing(super().chat(request)) as deltas:
            async for delta in deltas:
                text, finish, usage = text + delta.text, delta.finish or finish, delta.usage or usage
                yield delta
        self.heard.append(Heard(request, text, finish, usage))

    def formed(self) -> list[Any]:
        """The answers that had to keep to a schema, which all do."""
        values = []
        for heard in self.heard:
            if heard.request.output is not None and heard.request.output.schema is not None:
                assert heard.finish == "stop", heard.text
                values.append(json.loads(heard.text))
                jsonschema.validate(values[-1], heard.request.output.schema)
        return values


@pytest.fixture(scope="module")
async def able(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A server with the built-in model, whose tools work."""
    async with serving(tmp_path_factory.mktemp("able"), empty_database, [Overheard()], sandbox=sandbox) as live:
        yield await live.http()


@pytest.fixture(scope="module")
async def noisy(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> AsyncIterator[tuple[Live, Overheard]]:
    """A server with the model `noise` of random weights, besides the built-in one."""
    folder = tmp_path_factory.mktemp("noise")
    engine = Overheard(write(folder / "noise.gguf", SIZES["tiny"]))
    async with serving(folder / "data", empty_database, [engine]) as live:
        for model in ("noise", "drover-tiny"):  # so that no test hears that
            await live.server.parts.prober.of(engine, model)
        yield live, engine


@pytest.fixture
def engine(noisy: tuple[Live, Overheard]) -> Overheard:
    """The engine, which has heard nothing yet."""
    noisy[1].heard.clear()
    return noisy[1]


@pytest.fixture
async def client(noisy: tuple[Live, Overheard]) -> httpx.AsyncClient:
    return await noisy[0].http()


def body(model: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 40, **fields}


async def ask(client: httpx.AsyncClient, model: str, text: str, **fields: Any) -> dict[str, Any]:
    """An answer, which must be one: with a text, or with calls of the client's tools."""
    response = await client.post(CHAT, json=body(model, text, **fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    choice = answer["choices"][0]
    if choice["finish_reason"] == "tool_calls":
        assert choice["message"]["tool_calls"]
    else:
        assert choice["finish_reason"] in ("stop", "length")
        assert choice["message"]["content"].strip()
    return answer


def told(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


# The built-in model


@pytest.mark.parametrize(
    ("question", "code", "result", "expected"),
    [
        ("What is 81 * 34?", "print(81*34)", "2754", "81 * 34 = 2754."),
        ("What is 47 * 90?", "print(47*90)", "4230", "47 * 90 = 4230."),
        ("What is 85 + 69?", "print(85+69)", "154", "85 + 69 = 154."),
    ],
)
async def test_the_built_in_model_computes_with_the_python_tool(
    able: httpx.AsyncClient, question: str, code: str, result: str, expected: str
) -> None:
    answer = await ask(able, "react/drover-tiny", question, temperature=0, x_agent={"tools": ["python"], "trace": True})
    report = answer["x_agent"]
    assert (told(answer), report["tools_used"], report["stop_reason"]) == (expected, {"python": 1}, "stop")
    started, finished = (
        next(event for event in report["trace"] if event["type"] == kind) for kind in ("tool_started", "tool_finished")
    )
    assert (started["call"]["name"], json.loads(started["call"]["arguments"])) == ("python", {"code": code})
    assert finished["result"] == result
    # The second prompt begins with the first one, which is not computed again.
    first, second = (event["usage"] for event in report["trace"] if event["type"] == "spoke")
    assert second["cached_tokens"] > 0.9 * first["prompt_tokens"]


async def test_its_answer_streams_and_its_step_is_told_as_reasoning(able: httpx.AsyncClient) -> None:
    fields = {"temperature": 0, "stream": True, "x_agent": {"tools": ["python"]}}
    response = await able.post(CHAT, json=body("react/drover-tiny", "What is 81 * 34?", **fields))
    deltas = [json.loads(frame[6:])["choices"][0]["delta"] for frame in response.text.split("\n\n")[:-2]]
    contents = [delta["content"] for delta in deltas if delta.get("content")]
    assert "".join(contents) == "81 * 34 = 2754." and len(contents) > 3
    reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert reasoning == '→ python({"code": "print(81*34)"})\n← 2754\n'


async def test_models_are_known_by_what_they_do(noisy: tuple[Live, Overheard]) -> None:
    live, engine = noisy
    known = [await live.server.parts.prober.of(engine, model) for model in ("drover-tiny", "noise")]
    assert known == [Abilities(calls_tools=True, keeps_to_schema=True), Abilities(False, True)]


async def test_a_request_that_makes_the_model_fail_harms_nobody_else(noisy: tuple[Live, Overheard]) -> None:
    live, engine = noisy
    client = await live.http()
    mute = {"temperature": 0, "logit_bias": dict.fromkeys(ENDS, 100)}
    answer = await ask(client, "react/drover-tiny", FILES, **mute, **LIST_ONLY)
    # Nothing but the action of the middle rung could be said: the same one until that is noticed.
    assert answer["x_agent"]["stop_reason"] == "loop"
    assert told(answer) == f"I could not finish: you have repeated yourself. What was found last:\n\n{NONE}"
    assert (await live.server.parts.prober.of(engine, "drover-tiny")).calls_tools


# Random weights


@pytest.mark.parametrize("seed", range(3))
async def test_react_holds_every_action_to_its_schema(client: httpx.AsyncClient, engine: Overheard, seed: int) -> None:
    tools = [{"type": "function", "function": {"name": "pick", "parameters": PICK}}]
    fields = {"seed": seed, "tools": tools, **TERSE, **LIST_ONLY}
    answer = await ask(client, "react/noise", FILES, **fields)
    messages = [{"role": "user", "content": FILES}]
    for _ in range(6):
        message = answer["choices"][0]["message"]
        if not (calls := message.get("tool_calls")):
            break
        for call in calls:
            assert call["function"]["name"] == "pick"
            jsonschema.validate(json.loads(call["function"]["arguments"]), PICK)
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "taken"} for call in calls]
        messages += [message, *results]
        answer = await ask(client, "react/noise", FILES, **fields | {"messages": messages})
    assert told(answer)
    assert {value["action"] for value in engine.formed() if "action" in value} <= {"pick", "list_files", "final_answer"}


async def test_a_thought_without_end_is_cut_and_the_action_follows(
    client: httpx.AsyncClient, engine: Overheard
) -> None:
    options = {"tools": ["list_files"], "max_iterations": 1}
    answer = await ask(client, "react/noise", FILES, temperature=0, logit_bias=ENDLESS, x_agent=options)
    thought, action = engine.heard[:2]
    assert (thought.finish, thought.usage.completion_tokens, thought.request.output) == ("length", 400, None)
    assert engine.formed()[0]["action"] in ("list_files", "final_answer")
    assert action.usage.cached_tokens > 0.85 * thought.usage.prompt_tokens
    assert (answer["choices"][0]["finish_reason"], engine.heard[-1].usage.completion_tokens) == ("length", 40)


async def test_a_step_goes_on_from_what_was_computed(client: httpx.AsyncClient, engine: Overheard) -> None:
    await ask(client, "react/noise", FILES, **TERSE, **LIST_ONLY)
    instructions = engine.heard[0].request.messages[0]
    first, *others = [heard.usage for heard in engine.heard if heard.request.messages[0] == instructions]
    assert others
    for usage in others:
        assert usage.cached_tokens > 0.85 * first.prompt_tokens


async def test_a_run_that_outgrows_the_context_ends_with_what_it_has(
    client: httpx.AsyncClient, engine: Overheard
) -> None:
    fields = {"temperature": 0, "logit_bias": ENDLESS, "num_ctx": 700}
    answer = await ask(client, "react/noise", FILES, **fields, **LIST_ONLY)
    # The question and the thought about it are too long for the action, but not the question alone.
    assert answer["x_agent"]["stop_reason"] == "model"
    assert engine.heard[-1].finish == "length"
    refused = await client.post(CHAT, json=body("react/noise", FILES * 100, **fields))
    assert refusal(refused, 400)["code"] == "context_length_exceeded"


async def test_a_budget_of_tokens_is_kept(client: httpx.AsyncClient, engine: Overheard) -> None:
    options = {"tools": ["list_files"], "budget": {"tokens": 1000}}
    answer = await ask(client, "react/noise", FILES, temperature=0, logit_bias=ENDLESS, x_agent=options)
    assert answer["x_agent"]["stop_reason"] == "tokens"
    assert len(answer["x_agent"]["calls"]) <= 3  # a thought, an action, and the answer


async def test_a_cancelled_run_leaves_the_engine(client: httpx.AsyncClient, engine: Overheard) -> None:
    def active() -> int:
        count: int = engine.status()["models"]["noise"]["active"]
        return count

    fields = {"temperature": 0, "logit_bias": ENDLESS, "max_tokens": 4000}
    request = asyncio.create_task(client.post(CHAT, json=body("debate/noise", OPEN) | fields))
    await until(lambda: active() == 3)
    run = (await client.get("/v1/runs")).json()["data"][0]
    await client.post(f"/v1/runs/{run['id']}/cancel")
    assert refusal(await request, 499)["code"] == "cancelled"
    await until(lambda: active() == 0)


@pytest.mark.parametrize("seed", range(2))
async def test_plans_are_plans(client: httpx.AsyncClient, engine: Overheard, seed: int) -> None:
    answer = await ask(client, "plan/noise", FILES, seed=seed, **TERSE, **LIST_ONLY)
    plans = [value["steps"] for value in engine.formed() if "steps" in value]
    assert plans and all(1 <= len(steps) <= 6 for steps in plans)
    kinds = {event["type"] for event in answer["x_agent"]["trace"]}
    assert kinds & {"planned", "log"} and "answer" in kinds


@pytest.mark.parametrize(
    ("question", "mode", "keys"),
    [
        (CLOSED, "structured", set[str]()),
        (OPEN, "structured", {"verdicts"}),
        (CLOSED, "freeform", {"next"}),
        (OPEN, "freeform", {"verdicts"}),
        (CLOSED, "autonomous", {"satisfied"}),
    ],
)
async def test_debates_are_held_by_constraints(
    client: httpx.AsyncClient, engine: Overheard, question: str, mode: str, keys: set[str]
) -> None:
    debate = {"voices": VOICES, "mode": mode, "max_rounds": 1, "max_iterations_per_round": 1, "consensus_threshold": 1}
    answer = await ask(client, "debate/noise", question, seed=3, **TERSE, x_agent={"debate": debate})
    consensus = answer["x_agent"]["consensus"]
    assert consensus[0]["round"] == 0 and all(0 <= each["agreement"] <= 1 for each in consensus)
    assert keys <= {key for value in engine.formed() for key in value}
    voices = {call.get("by") for call in answer["x_agent"]["calls"]}
    assert {"analyst", "sceptic", "pragmatist"} <= voices


async def test_a_round_of_critique_goes_on_from_the_round_before(client: httpx.AsyncClient, engine: Overheard) -> None:
    debate = {"voices": VOICES, "max_rounds": 2, "consensus_threshold": 1}
    longer = TERSE | {"logit_bias": dict.fromkeys(ENDS, 6.5) | {QUOTE: 4}}
    await ask(client, "debate/noise", OPEN + DETAILS, **longer, x_agent={"debate": debate})
    critiques = [heard.usage for heard in engine.heard if "Name the errors" in heard.request.messages[-1].text]
    assert critiques
    prompts = sum(usage.prompt_tokens for usage in critiques)
    assert sum(usage.cached_tokens for usage in critiques) > 0.65 * prompts


@pytest.mark.parametrize(
    "text", ["Compute the mean of the numbers in the file and tell me about it", "Plan a trip to Oslo", CLOSED]
)
async def test_auto_finds_a_way(client: httpx.AsyncClient, engine: Overheard, text: str) -> None:
    options = {"debate": {"voices": VOICES, "max_rounds": 0}, "max_mode": "debate", "tools": ["list_files"]}
    response = await client.post(CHAT, json=body("auto/noise", text, seed=5, **TERSE, x_agent=options))
    assert response.status_code == 200, response.text
    routing = response.json()["x_agent"]["routing"]
    assert routing["mode"] in ("simple", "react", "plan", "debate") and 0 <= routing["p"] <= 1
    assert routing["mode"] == "simple" or told(response.json()).strip()
    assert all(isinstance(value, dict) for value in engine.formed())
