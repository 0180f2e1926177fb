"""Ollama's native API, over a real socket: what is sent, what comes back, and all the ways to fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from models.backend import (
    BackendFailed,
    BackendTimeout,
    Busy,
    ContextTooLong,
    Embedded,
    Health,
    InvalidRequest,
    JsonOutput,
    ModelError,
    ModelInfo,
    ModelNotFound,
    ModelRequest,
    NamedTool,
    Sampling,
    ToolSpec,
    Unavailable,
    Unsupported,
)
from models.messages import CallDelta, Delta, Image, Message, Text, TokenLogprob, ToolCall, TopLogprob, Usage
from models.ollama import Ollama, base_url
from tests.fakes.ollama import call, ending, last, line, ndjson, tags, whole
from tests.fakes.server import Fake, Turn, Whole

pytestmark = pytest.mark.anyio

CHAT = "/api/chat"
HELLO = ModelRequest("m", (Message("user", "Hello"),))
PLAIN = ModelRequest("m", (Message("user", "Hello"),), stream=False)
USED = Usage(11, 7)
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = ToolSpec("look", "Looks.", PLACE)


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with Fake() as fake:
        yield fake


@pytest.fixture
async def ollama(fake: Fake) -> AsyncIterator[Ollama]:
    ollama = Ollama([fake.url], timeout=5, connect_timeout=5)
    yield ollama
    await ollama.close()


async def answer(ollama: Ollama, request: ModelRequest = HELLO) -> list[Delta]:
    return [delta async for delta in ollama.chat(request)]


async def failed(ollama: Ollama, request: ModelRequest = HELLO) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await answer(ollama, request)
    return raised.value


async def test_a_stream_becomes_deltas(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(line(thinking="Hm."), line("Hel"), line("lo"), line(), last(prompt_eval_cached_count=4)))
    assert await answer(ollama) == [
        Delta(thought="Hm."),
        Delta("Hel"),
        Delta("lo"),
        Delta(finish="stop", usage=Usage(11, 7, 4)),
    ]
    assert fake.bodies(CHAT) == [
        {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "options": {}}
    ]


async def test_a_plain_answer_comes_in_one_delta(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, Whole(whole("Hello", thinking="Hm.", **ending())))
    assert await answer(ollama, PLAIN) == [Delta("Hello", "Hm.", finish="stop", usage=USED)]
    assert fake.bodies(CHAT)[0]["stream"] is False


async def test_everything_that_can_be_asked_is_sent(fake: Fake) -> None:
    fake.script(CHAT, ndjson(last()))
    ollama = Ollama([fake.url], allow_num_ctx=True)
    request = ModelRequest(
        "m",
        (
            Message("system", "Be short."),
            Message("user", (Text("Look"), Text("here"), Image("QUJD", "image/png"))),
            Message(
                "assistant",
                thought="I look.",
                tool_calls=(
                    ToolCall("c1", "look", '{"x":1}'),
                    ToolCall("c2", "wait", "not JSON"),
                    ToolCall("c3", "go", ""),
                ),
            ),
            Message("tool", "seen", tool_call_id="c1"),
            Message("tool", "waited", tool_call_id="c2", name="wait"),
        ),
        sampling=Sampling(0.5, 0.9, 40, 0.05, 0.1, 0.2, 1.1, -3, ("END",), 64, None, True, 2),
        tools=(LOOK, ToolSpec("wait")),
        reasoning_effort="xhigh",
        keep_alive="5m",
        num_ctx=2048,
    )
    await answer(ollama, request)
    assert fake.bodies(CHAT) == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Look\nhere", "images": ["QUJD"]},
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "I look.",
                    "tool_calls": [
                        {"id": "c1", "function": {"name": "look", "arguments": {"x": 1}}},
                        {"id": "c2", "function": {"name": "wait", "arguments": {"_raw": "not JSON"}}},
                        {"id": "c3", "function": {"name": "go", "arguments": {}}},
                    ],
                },
                {"role": "tool", "content": "seen", "tool_name": "look", "tool_call_id": "c1"},
                {"role": "tool", "content": "waited", "tool_name": "wait", "tool_call_id": "c2"},
            ],
            "stream": True,
            "options": {
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 40,
                "min_p": 0.05,
                "presence_penalty": 0.1,
                "frequency_penalty": 0.2,
                "repeat_penalty": 1.1,
                "seed": -3,
                "stop": ["END"],
                "num_predict": 64,
                "num_ctx": 2048,
            },
            "tools": [
                {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PLACE}},
                {"type": "function", "function": {"name": "wait"}},
            ],
            "think": "high",
            "keep_alive": "5m",
            "logprobs": True,
            "top_logprobs": 2,
        }
    ]
    await ollama.close()


async def test_the_last_call_of_an_id_names_the_tool(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(last()))
    messages = []
    for tool in ("look", "wait"):
        messages += [Message("assistant", tool_calls=(ToolCall("c", tool),)), Message("tool", "x", tool_call_id="c")]
    await answer(ollama, ModelRequest("m", tuple(messages)))
    assert [message.get("tool_name") for message in fake.bodies(CHAT)[0]["messages"]] == [None, "look", None, "wait"]


async def test_the_context_size_is_the_operators_choice(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(last()))
    await answer(ollama, ModelRequest("m", (), num_ctx=99_999))
    assert fake.bodies(CHAT) == [{"model": "m", "messages": [], "stream": True, "options": {}}]


async def test_logit_bias_is_refused(ollama: Ollama) -> None:
    error = await failed(ollama, ModelRequest("m", (), Sampling(logit_bias={1: 5.0})))
    assert (type(error), error.param) == (Unsupported, "logit_bias")


@pytest.mark.parametrize(
    ("think", "effort", "sent"),
    [
        (None, None, None),
        (True, None, True),
        (False, "high", False),
        (None, "none", False),
        (None, "minimal", "low"),
        (True, "medium", "medium"),
        (None, "max", "high"),
    ],
)
async def test_how_hard_to_think(fake: Fake, ollama: Ollama, think: Any, effort: Any, sent: Any) -> None:
    fake.script(CHAT, ndjson(last()))
    await answer(ollama, ModelRequest("m", (), think=think, reasoning_effort=effort))
    assert fake.bodies(CHAT)[0].get("think") == sent


async def test_thinking_is_only_asked_of_models_that_can(fake: Fake, ollama: Ollama) -> None:
    fake.script(
        CHAT,
        Whole({"error": 'think value "high" is not supported for this model'}, 400),
        Whole({"error": '"m" does not support thinking'}, 400),
        ndjson(line("A"), last()),
    )
    request = ModelRequest("m", (), reasoning_effort="high")
    assert await answer(ollama, request) == [Delta("A"), Delta(finish="stop", usage=USED)]
    assert [body.get("think") for body in fake.bodies(CHAT)] == ["high", True, None]


@pytest.mark.parametrize(("output", "sent"), [(JsonOutput(), "json"), (JsonOutput(PLACE), PLACE)])
async def test_structure_is_asked_for(fake: Fake, ollama: Ollama, output: JsonOutput, sent: Any) -> None:
    fake.script(CHAT, ndjson(line('{"city":'), line('"Rome"}'), last()))
    deltas = [Delta('{"city":'), Delta('"Rome"}'), Delta(finish="stop", usage=USED)]
    assert await answer(ollama, ModelRequest("m", (), output=output)) == deltas
    assert fake.bodies(CHAT)[0]["format"] == sent


async def test_tool_calls_are_told(fake: Fake, ollama: Ollama) -> None:
    calls = [call("look", {"city": "Rome"}), call("wait", {})]
    fake.script(CHAT, ndjson(line("I look."), line(tool_calls=calls[:1]), line(tool_calls=calls[1:]), last()))
    assert await answer(ollama, ModelRequest("m", (), tools=(LOOK, ToolSpec("wait")))) == [
        Delta("I look."),
        Delta(calls=(CallDelta(0, "look", '{"city":"Rome"}'),)),
        Delta(calls=(CallDelta(1, "wait", "{}"),)),
        Delta(finish="tool_calls", usage=USED),
    ]


@pytest.mark.parametrize("together", [True, False])
async def test_only_the_first_call_counts_where_one_was_asked_for(fake: Fake, ollama: Ollama, together: bool) -> None:
    calls = [call("look", {}), call("wait", {})]
    lines = [line(tool_calls=calls)] if together else [line(tool_calls=[each]) for each in calls]
    fake.script(CHAT, ndjson(*lines, last()))
    request = ModelRequest("m", (), tools=(LOOK,), parallel_tool_calls=False)
    assert await answer(ollama, request) == [
        Delta(calls=(CallDelta(0, "look", "{}"),)),
        Delta(finish="tool_calls", usage=USED),
    ]


def variant(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{name}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


async def test_a_call_can_be_required(fake: Fake, ollama: Ollama) -> None:
    nested = {"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}, "$defs": {"Place": PLACE}}
    tools = (ToolSpec("look", "", nested), ToolSpec("wait"))
    fake.script(CHAT, ndjson(line('{"name": "look", "argu'), line('ments": {"at": 1}}'), last()))
    assert await answer(ollama, ModelRequest("m", (), tools=tools, tool_choice="required")) == [
        Delta(calls=(CallDelta(0, "look", '{"at": 1}'),), finish="tool_calls", usage=USED)
    ]
    moved = nested | {"properties": {"at": {"$ref": "#/$defs/look/$defs/Place"}}}
    assert fake.bodies(CHAT)[0]["format"] == {
        "$defs": {"look": moved, "wait": {"type": "object", "properties": {}}},
        "anyOf": [variant("look"), variant("wait")],
    }
    assert [tool["function"]["name"] for tool in fake.bodies(CHAT)[0]["tools"]] == ["look", "wait"]


async def test_one_tool_can_be_required(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, Whole(whole('{"name":"wait","arguments":{}}', **ending())))
    tools = (LOOK, ToolSpec("wait"))
    request = ModelRequest("m", (), tools=tools, tool_choice=NamedTool("wait"), stream=False)
    assert await answer(ollama, request) == [
        Delta(calls=(CallDelta(0, "wait", "{}"),), finish="tool_calls", usage=USED)
    ]
    assert fake.bodies(CHAT)[0]["format"] == {
        "$defs": {"wait": {"type": "object", "properties": {}}},
        "anyOf": [variant("wait")],
    }


async def test_a_required_call_that_ollama_took_for_one_by_itself(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(line(tool_calls=[call("look", {"city": "Rome"})]), last()))
    assert await answer(ollama, ModelRequest("m", (), tools=(LOOK,), tool_choice="required")) == [
        Delta(calls=(CallDelta(0, "look", '{"city":"Rome"}'),)),
        Delta(finish="tool_calls", usage=USED),
    ]


@pytest.mark.parametrize("written", ["{}", "I would rather not.", '{"name": 3}', ""])
async def test_a_required_call_that_did_not_come_is_a_failure(fake: Fake, ollama: Ollama, written: str) -> None:
    fake.script(CHAT, ndjson(line(written), last()))
    error = await failed(ollama, ModelRequest("m", (), tools=(LOOK,), tool_choice="required"))
    assert (type(error), error.message) == (BackendFailed, "The model was to call a tool and wrote something else.")


async def test_a_required_call_that_was_cut_off_is_no_call(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(line('{"name": "lo'), last("length")))
    assert await answer(ollama, ModelRequest("m", (), tools=(LOOK,), tool_choice="required")) == [
        Delta(finish="length", usage=USED)
    ]


@pytest.mark.parametrize(
    ("written", "delta"),
    [
        ('{"answer":{"city":"Rome"}}', Delta('{"city":"Rome"}', finish="stop", usage=USED)),
        ('{"name":"look","arguments":{}}', Delta(calls=(CallDelta(0, "look", "{}"),), finish="tool_calls", usage=USED)),
    ],
)
async def test_tools_and_structure_go_together(fake: Fake, ollama: Ollama, written: str, delta: Delta) -> None:
    fake.script(CHAT, ndjson(line(written), last()))
    assert await answer(ollama, ModelRequest("m", (), tools=(LOOK,), output=JsonOutput(PLACE))) == [delta]
    answer_variant = {
        "type": "object",
        "properties": {"answer": {"$ref": "#/$defs/the.answer"}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    assert fake.bodies(CHAT)[0]["format"] == {
        "$defs": {"look": PLACE, "the.answer": PLACE},
        "anyOf": [variant("look"), answer_variant],
    }


@pytest.mark.parametrize("said", ["stop", "load", "unload", ""])
async def test_other_reasons_to_finish_mean_stop(fake: Fake, ollama: Ollama, said: str) -> None:
    fake.script(CHAT, ndjson(last(said)))
    assert await answer(ollama) == [Delta(finish="stop", usage=USED)]


async def test_logprobs_are_passed_through(fake: Fake, ollama: Ollama) -> None:
    rival = {"token": "B", "logprob": -2.5, "bytes": [66]}
    token = {"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [rival]}
    fake.script(CHAT, ndjson(line("A", logprobs=[token]), last("length")))
    assert await answer(ollama) == [
        Delta("A", logprobs=(TokenLogprob("A", -0.5, (65,), (TopLogprob("B", -2.5, (66,)),)),)),
        Delta(finish="length", usage=USED),
    ]


EXCEEDED = (
    "This model's maximum context length is exceeded. the input length exceeds the context length"
    " (context_length_exceeded)"
)
ENGINE = json.dumps({"error": {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_ctx": 512}})


@pytest.mark.parametrize(
    ("response", "error", "text", "param"),
    [
        (
            Whole({"error": 'model "m" not found, try pulling it first'}, 404),
            ModelNotFound,
            "The model `m` does not exist or you do not have access to it.",
            "model",
        ),
        (Whole({"error": '"m" does not support tools'}, 400), Unsupported, '"m" does not support tools', "tools"),
        (Whole({"error": '"m" does not support chat'}, 400), Unsupported, '"m" does not support chat', "model"),
        (
            Whole({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503),
            Busy,
            "server busy, please try again.  maximum pending requests exceeded",
            None,
        ),
        (Whole({"error": "starting"}, 503), Unavailable, "starting", None),
        (Whole(raw=b"<html>", status=502), Unavailable, "ollama is not available: status 502.", None),
        (
            Whole(raw=b"404 page not found", status=404),
            BackendFailed,
            "ollama answered with status 404 and no reason: is it Ollama?",
            None,
        ),
        (
            Whole({"error": ENGINE}, 400),
            ContextTooLong,
            "This model's maximum context length is 512 tokens. m (context_length_exceeded)",
            "messages",
        ),
        (
            Whole({"error": "the input length exceeds the context length"}, 400),
            ContextTooLong,
            EXCEEDED,
            "messages",
        ),
        (Whole({"error": "invalid option"}, 400), InvalidRequest, "invalid option", None),
        (Whole({"error": "unauthorized"}, 401), BackendFailed, "ollama refused our credentials.", None),
        (
            Whole({"error": "error parsing tool call: raw='" + "x" * 999}, 500),
            BackendFailed,
            "ollama failed: error parsing tool call: raw='" + "x" * 270 + "…",
            None,
        ),
        (Whole(raw=b"nonsense"), BackendFailed, None, None),
        (Whole(whole("A", done=False)), BackendFailed, "ollama's answer ended in the middle.", None),
    ],
)
@pytest.mark.parametrize("request_", [HELLO, PLAIN], ids=["streamed", "plain"])
async def test_refusals_are_told_apart(
    fake: Fake, ollama: Ollama, request_: ModelRequest, response: Whole, error: type[ModelError], text: str, param: str
) -> None:
    fake.script(CHAT, response)
    told = await failed(ollama, request_)
    assert (type(told), told.param) == (error, param)
    assert text in (None, told.message)


@pytest.mark.parametrize(
    ("pieces", "error", "text"),
    [
        ([b'{"error":"boom"}\n'], BackendFailed, "ollama failed: boom"),
        ([json.dumps({"error": ENGINE, "status": 400}).encode()], ContextTooLong, None),
        ([b'{"error":"gone","status":503}\n'], BackendFailed, "gone"),
        ([], BackendFailed, "ollama's answer ended in the middle."),
        ([Turn.CUT], BackendFailed, "ollama's answer ended in the middle."),
        ([b"{nonsense\n"], BackendFailed, None),
        ([b'{"message": 3}\n'], BackendFailed, None),
    ],
)
async def test_failures_in_the_middle_are_told(
    fake: Fake, ollama: Ollama, pieces: list[Any], error: type[ModelError], text: str | None
) -> None:
    fake.script(CHAT, ndjson(line("A"), *pieces))
    seen = []
    with pytest.raises(ModelError) as raised:
        async for delta in ollama.chat(HELLO):
            seen.append(delta)
    assert seen == [Delta("A")]
    assert type(raised.value) is error
    assert text in (None, raised.value.message)


@pytest.mark.parametrize("response", [Turn.HANG, ndjson(line("A"), Turn.HANG)])
async def test_silence_is_a_timeout(fake: Fake, response: Any) -> None:
    fake.script(CHAT, response)
    ollama = Ollama([fake.url], timeout=0.2)
    assert type(await failed(ollama)) is BackendTimeout
    await asyncio.wait_for(fake.gone.wait(), 2)
    await ollama.close()


async def test_closing_the_stream_closes_the_connection(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(line("A"), Turn.HANG))
    async with aclosing(ollama.chat(HELLO)) as deltas:  # type: ignore[type-var]
        assert await anext(deltas) == Delta("A")
    await asyncio.wait_for(fake.gone.wait(), 1)


@pytest.mark.parametrize("request_", [HELLO, PLAIN], ids=["streamed", "plain"])
@pytest.mark.parametrize("response", [Turn.HANG, ndjson(Turn.HANG), ndjson(line("A"), Turn.HANG)])
async def test_cancelling_closes_the_connection(
    fake: Fake, ollama: Ollama, request_: ModelRequest, response: Any
) -> None:
    fake.script(CHAT, response)
    task = asyncio.create_task(answer(ollama, request_))
    await fake.begun.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait_for(fake.gone.wait(), 1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_connection_is_used_again_after_a_stream(fake: Fake, ollama: Ollama) -> None:
    fake.script(CHAT, ndjson(line("A"), last()))
    for _ in range(3):
        await answer(ollama)
    assert len(fake.connections) == 1


async def test_models_are_listed_with_their_traits(fake: Fake, ollama: Ollama) -> None:
    fake.script("/api/tags", Whole(tags("a:latest", "me/b:1b", "broken:1")))
    fake.script("/api/ps", Whole({"models": [{"name": "a:latest", "digest": "sha-a:latest", "context_length": 4096}]}))
    info = {"general.architecture": "llama", "llama.context_length": 131072}
    shown = Whole({"capabilities": ["completion", "vision", "insert"], "model_info": info})
    set_smaller = Whole({"parameters": 'stop    "<|x|>"\nnum_ctx    2048', "model_info": info})
    fake.script("/api/show", shown, set_smaller, Whole({"error": "broken"}, 500))
    expected = [
        ModelInfo("a:latest", "ollama", 1746405464, "library", frozenset({"chat", "vision"}), 4096, True),
        ModelInfo("me/b:1b", "ollama", 1746405464, "me", None, 2048, False),
        ModelInfo("broken:1", "ollama", 1746405464, "library", None, None, False),
    ]
    assert await ollama.models() == expected
    assert await ollama.models() == expected
    shown_models = sorted(body["model"] for body in fake.bodies("/api/show"))
    assert shown_models == ["a:latest", "broken:1", "broken:1", "me/b:1b"]


async def test_health_tells_version_and_models(fake: Fake, ollama: Ollama) -> None:
    fake.script("/api/version", Whole({"version": "0.12.6"}))
    fake.script("/api/tags", Whole(tags("a:latest")))
    fake.script("/api/ps", Whole({"models": None}))
    fake.script("/api/show", Whole({}))
    assert await ollama.check() == Health(True, "Ollama 0.12.6: 1 of 1 servers answer, 1 models")


async def test_nobody_there_is_unavailable() -> None:
    async with Fake() as fake:
        ollama = Ollama([fake.url])
    text = "ollama does not answer: connection refused."
    error = await failed(ollama)
    assert (type(error), error.message) == (Unavailable, text)
    assert await ollama.check() == Health(False, text, "Start it with `ollama serve`, or set OLLAMA_HOST.")
    assert ollama.status() == {"servers": [{"url": fake.url, "alive": False, "in_flight": 0, "last_error": text}]}
    await ollama.close()


async def test_texts_are_embedded(fake: Fake, ollama: Ollama) -> None:
    fake.script("/api/embed", Whole({"embeddings": [[1, 2.5]], "prompt_eval_count": 3}))
    assert await ollama.embed("e", ["x"], 2) == Embedded([[1.0, 2.5]], Usage(3))
    assert fake.bodies("/api/embed") == [{"model": "e", "input": ["x"], "dimensions": 2}]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost:11434", "http://localhost:11434"),
        ("gpu", "http://gpu:11434"),
        (":9000", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:9000", "http://127.0.0.1:9000"),
        ("http://0.0.0.0:11434/", "http://127.0.0.1:11434"),
        ("https://ollama.example.org/sub/", "https://ollama.example.org/sub"),
    ],
)
async def test_hosts_are_written_in_many_ways(host: str, url: str) -> None:
    assert base_url(host) == url
