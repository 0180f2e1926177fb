"""OpenAI-compatible upstreams, over a real socket: what is sent, what comes back, and all the ways to fail."""

import asyncio
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
)
from models.messages import CallDelta, Delta, Image, Message, Text, TokenLogprob, ToolCall, TopLogprob, Usage
from models.openai import OpenAI
from tests.fakes.openai import DONE, chunk, completion, event, failure, listing, usage_chunk
from tests.fakes.server import Fake, Stream, Turn, Whole

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
KEY = "sk-very-secret"
HELLO = ModelRequest("m", (Message("user", "Hello"),))
PLAIN = ModelRequest("m", (Message("user", "Hello"),), stream=False)


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with Fake() as fake:
        yield fake


@pytest.fixture
async def upstream(fake: Fake) -> AsyncIterator[OpenAI]:
    upstream = OpenAI([f"{fake.url}/v1"], api_key=KEY, timeout=5, connect_timeout=5)
    yield upstream
    await upstream.close()


async def answer(upstream: OpenAI, request: ModelRequest = HELLO) -> list[Delta]:
    return [delta async for delta in upstream.chat(request)]


async def failed(upstream: OpenAI, request: ModelRequest = HELLO) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await answer(upstream, request)
    assert KEY not in str(raised.value)
    return raised.value


async def test_a_stream_becomes_deltas(fake: Fake, upstream: OpenAI) -> None:
    fake.script(
        CHAT,
        Stream(
            [
                chunk(role="assistant", content=""),
                chunk(content="Hel"),
                chunk(content="lo"),
                chunk("stop"),
                usage_chunk(5, 2),
                DONE,
            ]
        ),
    )
    assert await answer(upstream) == [Delta("Hel"), Delta("lo"), Delta(finish="stop", usage=Usage(5, 2))]
    assert fake.bodies(CHAT) == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert fake.asked[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_plain_answer_comes_in_one_delta(fake: Fake, upstream: OpenAI) -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    fake.script(CHAT, Whole(completion(content="Hello", reasoning_content="Hm.", usage=usage)))
    assert await answer(upstream, PLAIN) == [Delta("Hello", "Hm.", finish="stop", usage=Usage(5, 2, 3, 1))]
    assert fake.bodies(CHAT) == [{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}]


async def test_everything_that_can_be_asked_is_sent(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Whole(completion(content="{}")))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = ModelRequest(
        "m",
        (
            Message("system", "Be short."),
            Message("user", (Text("Look"), Image("QUJD", "image/png", "low")), name="Ann"),
            Message("assistant", thought="I look.", tool_calls=(ToolCall("c1", "look", '{"x":1}'),)),
            Message("tool", "seen", tool_call_id="c1", name="look"),
        ),
        sampling=Sampling(0.5, 0.9, 40, 0.05, 0.1, 0.2, 1.1, -3, ("END",), 64, {15: -100.0}, True, 2),
        tools=(ToolSpec("look", "Looks.", schema, strict=True), ToolSpec("wait")),
        tool_choice=NamedTool("look"),
        parallel_tool_calls=False,
        output=JsonOutput(schema, "place", "A place."),
        reasoning_effort="low",
        think=True,
        keep_alive="5m",
        num_ctx=2048,
        template_options={"enable_thinking": False},
        continue_final_message=True,
        stream=False,
    )
    await answer(upstream, request)
    assert fake.bodies(CHAT) == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be short."},
                {
                    "role": "user",
                    "name": "Ann",
                    "content": [
                        {"type": "text", "text": "Look"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "I look.",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x":1}'}}
                    ],
                },
                {"role": "tool", "content": "seen", "tool_call_id": "c1", "name": "look"},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "repeat_penalty": 1.1,
            "repetition_penalty": 1.1,
            "seed": -3,
            "stop": ["END"],
            "max_tokens": 64,
            "logit_bias": {"15": -100.0},
            "logprobs": True,
            "top_logprobs": 2,
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "look", "description": "Looks.", "parameters": schema, "strict": True},
                },
                {"type": "function", "function": {"name": "wait"}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "parallel_tool_calls": False,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": schema, "strict": True, "description": "A place."},
            },
            "reasoning_effort": "low",
            "think": True,
            "keep_alive": "5m",
            "num_ctx": 2048,
            "chat_template_kwargs": {"enable_thinking": False},
            "continue_final_message": True,
            "add_generation_prompt": False,
        }
    ]


async def test_any_json_and_any_tool_can_be_required(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Whole(completion(content="{}")))
    await answer(
        upstream,
        ModelRequest("m", (), tools=(ToolSpec("wait"),), tool_choice="required", output=JsonOutput(), stream=False),
    )
    assert fake.bodies(CHAT) == [
        {
            "model": "m",
            "messages": [],
            "tools": [{"type": "function", "function": {"name": "wait"}}],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        }
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_both_names_of_reasoning_are_thought(fake: Fake, upstream: OpenAI, field: str) -> None:
    fake.script(CHAT, Stream([chunk(**{field: "Hm."}), chunk(content="A"), chunk("stop"), DONE]))
    assert await answer(upstream) == [Delta(thought="Hm."), Delta("A"), Delta(finish="stop")]


async def test_comments_odd_lines_and_split_packets_do_not_matter(fake: Fake, upstream: OpenAI) -> None:
    text = (
        b": keep-alive\n\nevent: message\nid: 3\nretry: 10\n"
        + chunk(content="A").replace(b"\n", b"\r\n")
        + b"data:\n\ndata: \r\n\r\n: x\n"
        + chunk(content="Ä").replace(b"data: ", b"data:")
        + chunk("stop")
        + DONE
    )
    fake.script(CHAT, Stream([text[i : i + 7] for i in range(0, len(text), 7)]))
    assert await answer(upstream) == [Delta("A"), Delta("Ä"), Delta(finish="stop")]


async def test_usage_on_every_chunk_counts_once(fake: Fake, upstream: OpenAI) -> None:
    usages = [{"prompt_tokens": 5, "completion_tokens": n} for n in (1, 2)]
    fake.script(CHAT, Stream([chunk(content="A", usage=usages[0]), chunk("stop", usage=usages[1]), DONE]))
    assert await answer(upstream) == [Delta("A"), Delta(finish="stop", usage=Usage(5, 2))]


def piece(
    index: int | None = None, id: str | None = None, name: str | None = None, arguments: str | None = None
) -> Any:
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return call | ({} if index is None else {"index": index}) | ({} if id is None else {"id": id, "type": "function"})


TWO_CALLS = [CallDelta(0, "f", '{"a":1}'), CallDelta(1, "g", "{}")]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([piece(0, "a", "f", '{"a":1}'), piece(1, "b", "g", "{}")], id="as it should be"),
        pytest.param(
            [piece(0, "a", "f", '{"a"'), piece(0, None, None, ":1}"), piece(1, "b", "g", "{}")], id="in pieces"
        ),
        pytest.param([piece(0, "a", "f", '{"a"'), piece(0, "a", "f", ":1}"), piece(1, "b", "g")], id="repeated"),
        pytest.param(
            [piece(None, "a", "f", '{"a"'), piece(None, None, None, ":1}"), piece(None, "b", "g")], id="no index"
        ),
        pytest.param([piece(0, "a", "f", '{"a":1}'), piece(0, "b", "g", "{}")], id="one index for all"),
        pytest.param([piece(None, None, "f", '{"a":1}'), piece(None, None, "g", "{}")], id="neither index nor id"),
        pytest.param([piece(0, "", "f"), piece(0, "", "", '{"a":1}'), piece(1, "", "g", "")], id="empty for absent"),
        pytest.param([piece(3, "a", "f", '{"a":1}'), piece(7, "a", "g")], id="one id for all"),
    ],
)
async def test_tool_calls_are_told_apart(fake: Fake, upstream: OpenAI, pieces: list[Any]) -> None:
    fake.script(CHAT, Stream([*(chunk(tool_calls=[piece]) for piece in pieces), chunk("tool_calls"), DONE]))
    deltas = await answer(upstream)
    calls: dict[int, CallDelta] = {}
    for call in (call for delta in deltas for call in delta.calls):
        known = calls.get(call.index, CallDelta(call.index))
        calls[call.index] = CallDelta(call.index, known.name + call.name, known.arguments + call.arguments)
    assert list(calls.values()) == TWO_CALLS
    assert deltas[-1].finish == "tool_calls"


async def test_only_the_first_call_counts_where_one_was_asked_for(fake: Fake, upstream: OpenAI) -> None:
    calls = [piece(0, "a", "f", "{}"), piece(1, "b", "g", "{}"), piece(1, None, None, "x")]
    fake.script(CHAT, Stream([*(chunk(tool_calls=[call]) for call in calls), chunk("tool_calls"), DONE]))
    request = ModelRequest("m", (), tools=(ToolSpec("f"), ToolSpec("g")), parallel_tool_calls=False)
    assert await answer(upstream, request) == [Delta(calls=(CallDelta(0, "f", "{}"),)), Delta(finish="tool_calls")]


@pytest.mark.parametrize(
    ("said", "calls", "meant"),
    [
        ("stop", [piece(0, "a", "f", "{}")], "tool_calls"),
        ("length", [piece(0, "a", "f", "{}")], "length"),
        ("tool_calls", [], "stop"),
        ("eos", [], "stop"),
        ("content_filter", [], "content_filter"),
        ("function_call", [piece(0, "a", "f", "{}")], "tool_calls"),
    ],
)
async def test_the_reason_to_finish_is_one_of_four(
    fake: Fake, upstream: OpenAI, said: str, calls: list[Any], meant: str
) -> None:
    fake.script(CHAT, Whole(completion(said, content="A", tool_calls=calls)))
    assert [delta.finish for delta in await answer(upstream, PLAIN)] == [meant]


async def test_logprobs_are_passed_through(fake: Fake, upstream: OpenAI) -> None:
    rival = {"token": "B", "logprob": -2.5, "bytes": [66]}
    token = {"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [rival]}
    choice = {"index": 0, "delta": {"content": "A"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    fake.script(CHAT, Stream([event({"choices": [choice]}), DONE]))
    assert await answer(upstream) == [
        Delta("A", logprobs=(TokenLogprob("A", -0.5, (65,), (TopLogprob("B", -2.5, (66,)),)),)),
        Delta(finish="stop"),
    ]


async def test_a_whole_answer_to_a_streamed_request_is_taken(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Whole(completion(content="Hello")))
    assert await answer(upstream) == [Delta("Hello", finish="stop")]


async def test_a_server_without_stream_options_is_remembered(fake: Fake, upstream: OpenAI) -> None:
    good = Stream([chunk("stop"), DONE])
    fake.script(CHAT, Whole(failure("Unknown field: stream_options"), 400), good)
    assert await answer(upstream) == await answer(upstream) == [Delta(finish="stop")]
    assert ["stream_options" in body for body in fake.bodies(CHAT)] == [True, False, False]


async def test_a_server_that_wants_max_completion_tokens_is_remembered(fake: Fake, upstream: OpenAI) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    fake.script(CHAT, Whole(failure(text, param="max_tokens"), 400), Whole(completion(content="A")))
    request = ModelRequest("m", (), Sampling(max_tokens=9), stream=False)
    await answer(upstream, request)
    await answer(upstream, request)
    bare = {"model": "m", "messages": []}
    new = bare | {"max_completion_tokens": 9}
    assert fake.bodies(CHAT) == [bare | {"max_tokens": 9}, new, new]


@pytest.mark.parametrize(
    ("response", "error", "text", "param", "code"),
    [
        (
            Whole(failure(f"bad key {KEY}"), 401),
            BackendFailed,
            "openai refused our credentials.",
            None,
            "upstream_error",
        ),
        (Whole(failure("forbidden"), 403), BackendFailed, "openai refused our credentials.", None, "upstream_error"),
        (
            Whole(failure("The model `m` does not exist.", code="model_not_found"), 404),
            ModelNotFound,
            "The model `m` does not exist or you do not have access to it.",
            "model",
            "model_not_found",
        ),
        (
            Whole(raw=b"<html>nginx</html>", status=404),
            BackendFailed,
            "openai knows no such URL. Check that the upstream runs, its API key, and its base URL: most end in /v1.",
            None,
            "upstream_error",
        ),
        (
            Whole(failure("This model's maximum context length is 4096 tokens. You asked for 5000."), 400),
            ContextTooLong,
            "This model's maximum context length is 4096 tokens. You asked for 5000. (context_length_exceeded)",
            "messages",
            "context_length_exceeded",
        ),
        (
            Whole(failure("too long", type="exceed_context_size_error", code=400, n_ctx=512), 400),
            ContextTooLong,
            "This model's maximum context length is 512 tokens. too long (context_length_exceeded)",
            "messages",
            "context_length_exceeded",
        ),
        (
            Whole(failure(f"temperature is too hot, {KEY}", param="temperature", code="decimal_above_max_value"), 400),
            InvalidRequest,
            "temperature is too hot, …",
            "temperature",
            "decimal_above_max_value",
        ),
        (Whole({"detail": "no good"}, 422), InvalidRequest, "no good", None, "invalid_value"),
        (Whole({"detail": [{"loc": ["n"]}]}, 422), InvalidRequest, '[{"loc":["n"]}]', None, "invalid_value"),
        (Whole({"object": "error", "message": "old vLLM"}, 400), InvalidRequest, "old vLLM", None, "invalid_value"),
        (Whole({"error": "as text"}, 400), InvalidRequest, "as text", None, "invalid_value"),
        (Whole(failure("too big"), 413), InvalidRequest, "too big", None, "request_too_large"),
        (Whole(failure("slow down"), 429), Busy, "slow down", None, "rate_limit_exceeded"),
        (Whole(failure("loading"), 503), Unavailable, "openai is not available: loading", None, "upstream_unavailable"),
        (Whole(raw=b"", status=504), BackendTimeout, "openai did not answer in time.", None, "upstream_timeout"),
        (
            Whole(raw=b"", status=302),
            BackendFailed,
            "openai failed with status 302: it gave no reason",
            None,
            "upstream_error",
        ),
        (Whole(failure("boom"), 500), BackendFailed, "openai failed with status 500: boom", None, "upstream_error"),
        (Whole({"detail": "boom"}), BackendFailed, "openai answered without an answer.", None, "upstream_error"),
        (Whole({"error": {"message": "boom"}}), BackendFailed, "openai failed: boom", None, "upstream_error"),
    ],
)
async def test_refusals_are_told_apart(
    fake: Fake, upstream: OpenAI, response: Whole, error: type[ModelError], text: str, param: str, code: str
) -> None:
    fake.script(CHAT, response)
    told = await failed(upstream, PLAIN)
    assert (type(told), told.message, told.param, told.code) == (error, text, param, code)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 2.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)])
async def test_the_time_to_wait_is_passed_on(fake: Fake, upstream: OpenAI, header: str, seconds: float) -> None:
    fake.script(CHAT, Whole(failure("slow down"), 429, {"Retry-After": header}))
    told = await failed(upstream)
    assert isinstance(told, Busy) and told.retry_after == seconds


@pytest.mark.parametrize(
    ("pieces", "error", "text"),
    [
        ([event({"error": {"message": "boom", "code": 500}})], BackendFailed, "openai failed: boom"),
        ([event({"error": "boom"})], BackendFailed, "openai failed: boom"),
        ([event({"error": {"message": "wait", "code": 429}})], Busy, "wait"),
        ([], BackendFailed, "openai's answer ended in the middle."),
        ([Turn.CUT], BackendFailed, "openai's answer ended in the middle."),
        ([b"data: {nonsense\n\n"], BackendFailed, None),
        ([b'data: {"choices": 3}\n\n'], BackendFailed, None),
    ],
)
async def test_failures_in_the_middle_are_told(
    fake: Fake, upstream: OpenAI, pieces: list[Any], error: type[ModelError], text: str | None
) -> None:
    fake.script(CHAT, Stream([chunk(content="A"), *pieces]))
    seen = []
    with pytest.raises(ModelError) as raised:
        async for delta in upstream.chat(HELLO):
            seen.append(delta)
    assert seen == [Delta("A")]
    assert type(raised.value) is error
    assert text in (None, raised.value.message)


async def test_an_error_that_is_null_is_none(fake: Fake, upstream: OpenAI) -> None:
    good = {"choices": [{"delta": {"content": "A"}, "finish_reason": "stop"}], "error": None}
    fake.script(CHAT, Stream([event(good), DONE]))
    assert await answer(upstream) == [Delta("A"), Delta(finish="stop")]


async def test_a_line_without_end_is_refused(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Stream([b"data: ", *([b"x" * 2**20] * 17)]))
    assert "16,777,216" in (await failed(upstream)).message


@pytest.mark.parametrize("pieces", [[], [chunk(content="A"), Turn.HANG]])
async def test_silence_is_a_timeout(fake: Fake, pieces: list[Any]) -> None:
    fake.script(CHAT, Stream(pieces) if pieces else Turn.HANG)
    upstream = OpenAI([f"{fake.url}/v1"], timeout=0.2)
    assert type(await failed(upstream)) is BackendTimeout
    await asyncio.wait_for(fake.gone.wait(), 2)
    await upstream.close()


async def test_closing_the_stream_closes_the_connection(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Stream([chunk(content="A"), Turn.HANG]))
    async with aclosing(upstream.chat(HELLO)) as deltas:  # type: ignore[type-var]
        assert await anext(deltas) == Delta("A")
        assert not fake.gone.is_set()
    await asyncio.wait_for(fake.gone.wait(), 1)
    assert [member["in_flight"] for member in upstream.status()["servers"]] == [0]


@pytest.mark.parametrize("request_", [HELLO, PLAIN], ids=["streamed", "plain"])
@pytest.mark.parametrize("pieces", [Turn.HANG, Stream([Turn.HANG]), Stream([b": hi\n"] * 3 + [Turn.HANG])])
async def test_cancelling_closes_the_connection(
    fake: Fake, upstream: OpenAI, request_: ModelRequest, pieces: Stream | Turn
) -> None:
    fake.script(CHAT, pieces)
    task = asyncio.create_task(answer(upstream, request_))
    await fake.begun.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait_for(fake.gone.wait(), 1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [member["in_flight"] for member in upstream.status()["servers"]] == [0]


async def test_a_connection_is_used_again_after_a_stream(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Stream([chunk(content="A"), chunk("stop"), DONE]))
    for _ in range(3):
        await answer(upstream)
    assert len(fake.connections) == 1


async def test_a_complete_answer_does_not_wait_for_the_end_of_its_body(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Stream([chunk("stop"), DONE, Turn.HANG]))
    assert await asyncio.wait_for(answer(upstream), 2) == [Delta(finish="stop")]
    await asyncio.wait_for(fake.gone.wait(), 1)


async def test_a_connection_that_went_stale_is_replaced(fake: Fake, upstream: OpenAI) -> None:
    fake.script(CHAT, Whole(completion(content="A")), Turn.CUT, Whole(completion(content="B")))
    assert [(await answer(upstream, PLAIN))[0].text for _ in range(2)] == ["A", "B"]


async def test_nobody_there_is_unavailable(unused: str) -> None:
    upstream = OpenAI([unused], api_key=KEY)
    error = await failed(upstream)
    assert (type(error), error.message) == (Unavailable, "openai does not answer: connection refused.")
    assert await upstream.check() == Health(
        False,
        "openai does not answer: connection refused.",
        "Check that the upstream runs, its API key, and its base URL: most end in /v1.",
    )
    await upstream.close()


@pytest.fixture
async def unused() -> str:
    async with Fake() as fake:
        return fake.url


async def test_models_are_listed(fake: Fake, upstream: OpenAI) -> None:
    fake.script("/v1/models", Whole({"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "created": 7}]}))
    assert await upstream.models() == [ModelInfo("a", "openai", context=4096), ModelInfo("b", "openai", 7)]
    assert await upstream.check() == Health(True, "1 of 1 servers answer, 2 models")


async def test_texts_are_embedded(fake: Fake, upstream: OpenAI) -> None:
    vectors = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1.0, 2.0]}]
    fake.script("/v1/embeddings", Whole({"data": vectors, "usage": {"prompt_tokens": 4, "total_tokens": 4}}))
    assert await upstream.embed("e", ["x", "y"], 2) == Embedded([[1.0, 2.0], [3.0, 4.5]], Usage(4))
    assert fake.bodies("/v1/embeddings") == [
        {"model": "e", "input": ["x", "y"], "encoding_format": "float", "dimensions": 2}
    ]


async def test_credentials_in_a_url_are_used_and_never_shown(fake: Fake) -> None:
    fake.script("/v1/models", Whole(listing("m")))
    upstream = OpenAI([fake.url.replace("http://", "http://ann:hush@") + "/v1/?token=hush"])
    await upstream.models()
    assert fake.asked[0].headers["Authorization"] == "Basic YW5uOmh1c2g="
    assert upstream.status() == {
        "servers": [{"url": f"{fake.url}/v1", "alive": True, "in_flight": 0, "last_error": None}]
    }
    await upstream.close()
