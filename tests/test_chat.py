"""Chat, seen through OpenAI's own client and byte by byte."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from models.backend import BackendFailed, Busy, ContextTooLong, ModelInfo, Unavailable
from models.messages import TokenLogprob, ToolCall, TopLogprob, Usage
from models.scripted import Script, Scripted
from tests.live import Live, Serve

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hello there, you"}]}


def frames(body: str) -> list[Any]:
    """The data of a stream, which must be nothing but data lines with an empty line after each."""
    assert body.endswith("\n\n")
    lines = body[:-2].split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [data if (data := line[6:]) == "[DONE]" else json.loads(data) for line in lines]


async def test_a_plain_answer_is_a_whole_chat_completion(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=HELLO)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    identity, created, fingerprint, report = (
        body.pop(key) for key in ("id", "created", "system_fingerprint", "x_agent")
    )
    assert identity.startswith("chatcmpl-") and len(identity) >= 24 and isinstance(created, int)
    assert fingerprint.startswith("fp_")
    assert report == {"mode": "simple", "run_id": response.headers["x-run-id"], "stop_reason": "stop"}
    assert body == {
        "object": "chat.completion",
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there, you", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }
    ChatCompletion.model_validate(response.json(), strict=True)


async def test_the_stream_is_exact_to_the_byte(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions", json=HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    first = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    head = (
        f'data: {{"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},'
        f'"model":"scripted","system_fingerprint":"{first["system_fingerprint"]}","choices":['
    )
    report = f'"x_agent":{{"mode":"simple","run_id":"{response.headers["x-run-id"]}","stop_reason":"stop"}}'
    pieces = ["Hell", "o th", "ere,", " you"]
    assert response.text == "".join(
        [
            head,
            '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}\n\n',
            *(
                f'{head}{{"index":0,"delta":{{"content":"{piece}"}},"logprobs":null,"finish_reason":null}}],"usage":null}}\n\n'
                for piece in pieces
            ),
            head,
            '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null,' + report + "}\n\n",
            head,
            '],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}}\n\n',
            "data: [DONE]\n\n",
        ]
    )


async def test_without_include_usage_no_chunk_speaks_of_usage(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert frames(response.text)[-1] == "[DONE]"
    assert all("usage" not in chunk and chunk["choices"] for chunk in frames(response.text)[:-1])


async def test_every_chunk_is_valid_by_openai_s_own_types(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(text="Done.", thought="Hm.", calls=(ToolCall("x", "add", '{"a":1}'),))]
    client = await live.http()
    tools = [{"type": "function", "function": {"name": "add"}}]
    response = await client.post("/v1/chat/completions", json=HELLO | {"stream": True, "tools": tools})
    for chunk in frames(response.text)[:-1]:
        ChatCompletionChunk.model_validate(chunk, strict=True)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/api/chat/completions", "//v1//chat/completions/"]
)
async def test_wrong_base_urls_work_too(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(httpx.URL(str(client.base_url).rstrip("/") + path), json=HELLO)
    assert response.status_code == 200


async def test_a_body_is_json_whatever_its_content_type_says(client: httpx.AsyncClient) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        response = await client.post("/v1/chat/completions", content=json.dumps(HELLO), headers={"content-type": kind})
        assert response.status_code == 200


async def test_openai_s_stream_helper_puts_thought_text_and_calls_together(live: Live, scripted: Scripted) -> None:
    scripted.script = [
        Script(
            text="Let me see.",
            thought="The user wants sums.",
            calls=(ToolCall("same", "add", '{"a": 1}'), ToolCall("same", "now", "")),
        )
    ]
    client = await live.openai()
    tools: Any = [{"type": "function", "function": {"name": name}} for name in ("add", "now")]
    messages: Any = HELLO["messages"]
    async with client.chat.completions.stream(model="scripted", messages=messages, tools=tools) as stream:
        final = await stream.get_final_completion()
    message = final.choices[0].message
    calls = message.tool_calls or []
    assert final.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "The user wants sums."
    assert [(call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("function", "add", '{"a": 1}'),
        ("function", "now", "{}"),
    ]
    assert len({call.id for call in calls}) == 2 and all(call.id.startswith("call_") for call in calls)


async def test_a_whole_answer_with_calls_has_no_content(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(calls=(ToolCall("x", "add", '{"a": 1}'),))]
    client = await live.openai()
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "1+1"}],
        tools=[{"type": "function", "function": {"name": "add"}}],
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None


async def test_n_answers_come_with_their_indices(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(text="one"), Script(text="two"), Script(text="three")]
    client = await live.openai()
    messages: Any = HELLO["messages"]
    answer = await client.chat.completions.create(model="scripted", messages=messages, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(choice.message.content or "" for choice in answer.choices) == ["one", "three", "two"]
    assert answer.usage is not None and answer.usage.total_tokens == 24
    scripted.asked.clear()
    async with client.chat.completions.stream(model="scripted", messages=messages, n=3) as stream:
        final = await stream.get_final_completion()
    assert sorted(choice.message.content or "" for choice in final.choices) == ["one", "three", "two"]


async def test_n_answers_have_a_seed_each(live: Live, scripted: Scripted) -> None:
    client = await live.openai()
    messages: Any = HELLO["messages"]
    await client.chat.completions.create(model="scripted", messages=messages, n=3, seed=7)
    assert sorted(request.sampling.seed or 0 for request in scripted.asked) == [7, 8, 9]


async def test_logprobs_come_with_their_tokens(live: Live, scripted: Scripted) -> None:
    rival = TopLogprob("no", -2.5, (110, 111))
    scripted.script = [Script(logprobs=(TokenLogprob("yes", -0.1, (121, 101, 115), (rival,)),))]
    client = await live.http()
    expected = {
        "content": [
            {
                "token": "yes",
                "logprob": -0.1,
                "bytes": [121, 101, 115],
                "top_logprobs": [{"token": "no", "logprob": -2.5, "bytes": [110, 111]}],
            }
        ],
        "refusal": None,
    }
    body = HELLO | {"logprobs": True, "top_logprobs": 1}
    whole = (await client.post("/v1/chat/completions", json=body)).json()
    streamed = frames((await client.post("/v1/chat/completions", json=body | {"stream": True})).text)
    assert whole["choices"][0]["logprobs"] == expected
    assert [chunk["choices"][0]["logprobs"] for chunk in streamed[:-1]] == [None, expected, None]


@pytest.mark.parametrize(
    ("field", "deltas", "message"),
    [
        (
            "reasoning_content",
            [{"reasoning_content": "Hm."}, {"content": "Yes"}],
            {"content": "Yes", "reasoning_content": "Hm."},
        ),
        ("reasoning", [{"reasoning": "Hm."}, {"content": "Yes"}], {"content": "Yes", "reasoning": "Hm."}),
        (
            "think_tags",
            [{"content": "<think>Hm."}, {"content": "</think>\n\nYes"}],
            {"content": "<think>Hm.</think>\n\nYes"},
        ),
        ("none", [{"content": "Yes"}], {"content": "Yes"}),
    ],
)
async def test_thoughts_go_where_the_setting_says(
    serve: Serve, field: str, deltas: list[Any], message: dict[str, str]
) -> None:
    live = await serve([Scripted([Script(text="Yes", thought="Hm.")])], reasoning_field=field)
    client = await live.http()
    streamed = frames((await client.post("/v1/chat/completions", json=HELLO | {"stream": True})).text)
    assert [chunk["choices"][0]["delta"] for chunk in streamed[1:-2]] == deltas
    whole = (await client.post("/v1/chat/completions", json=HELLO)).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "refusal": None} | message


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            ContextTooLong(2048, "Your messages resulted in 4014 tokens."),
            400,
            {
                "message": "This model's maximum context length is 2048 tokens. Your messages resulted in 4014 tokens. "
                "(context_length_exceeded)",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            },
        ),
        (
            Busy("Too many wait.", 3),
            429,
            {"message": "Too many wait.", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"},
        ),
        (
            BackendFailed("It broke."),
            502,
            {"message": "It broke.", "type": "upstream_error", "param": None, "code": "upstream_error"},
        ),
        (
            Unavailable("It is down."),
            503,
            {"message": "It is down.", "type": "server_error", "param": None, "code": "upstream_unavailable"},
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_token_have_their_status(
    live: Live, scripted: Scripted, stream: bool, error: Any, status: int, body: dict[str, Any]
) -> None:
    scripted.script = [Script(error=error)]
    client = await live.http()
    response = await client.post("/v1/chat/completions", json=HELLO | {"stream": stream})
    assert (response.status_code, response.json()) == (status, {"error": body})


async def test_retry_headers_tell_sdks_when_to_come_back(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(error=Busy("Too many wait.", 3))]
    client = await live.http()
    response = await client.post("/v1/chat/completions", json=HELLO)
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("3", "3000")


async def test_a_failure_in_mid_stream_is_a_frame_of_its_own(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(text="a long half", delay=0.2, error=BackendFailed("It broke."))]
    client = await live.http()
    response = await client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.status_code == 200
    assert frames(response.text)[-2:] == [
        {"error": {"message": "It broke.", "type": "upstream_error", "param": None, "code": "upstream_error"}},
        "[DONE]",
    ]


async def test_first_bytes_come_within_a_second_while_a_model_is_slow_and_then_keep_alives(serve: Serve) -> None:
    live = await serve([Scripted([Script(text="late", pieces=9, delay=1.3)])], keep_alive_seconds=0.2)
    client = await live.http()
    async with (
        asyncio.timeout(20),
        client.stream("POST", "/v1/chat/completions", json=HELLO | {"stream": True}) as response,
    ):
        body = "".join([text async for text in response.aiter_text()])
    opening, rest = body.split("\n\n", 1)
    assert '"role":"assistant"' in opening
    assert rest.startswith((": keep-alive\ndata: ", ": keep-alive\n: keep-alive\n"))
    assert ": keep-alive\n\n" not in body
    assert frames(body.replace(": keep-alive\n", ""))[-1] == "[DONE]"


async def test_keep_alives_do_not_disturb_openai_s_client(serve: Serve) -> None:
    live = await serve([Scripted([Script(text="slow", pieces=1, delay=0.25)])], keep_alive_seconds=0.06)
    client = await live.openai()
    messages: Any = HELLO["messages"]
    stream = await client.chat.completions.create(model="scripted", messages=messages, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "slow"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("delay", [0.01, 30.0], ids=["after the first token", "before the first token"])
async def test_a_client_that_leaves_stops_the_backend_within_a_second(serve: Serve, stream: bool, delay: float) -> None:
    backend = Scripted([Script(text="x" * 100_000, pieces=1, delay=delay)])
    live = await serve([backend])
    async with httpx.AsyncClient(base_url=live.url, headers={"Authorization": f"Bearer {live.key}"}) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", json=HELLO | {"stream": stream}, timeout=30))
        await backend.started.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    async with asyncio.timeout(1):
        await backend.stopped.wait()
    assert backend.running == 0


async def test_the_synchronous_client_works_too(live: Live) -> None:
    def ask() -> list[str]:
        with OpenAI(base_url=f"{live.url}/v1", api_key=live.key) as client:
            stream = client.chat.completions.create(model="scripted", messages=HELLO["messages"], stream=True)
            return [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(await asyncio.to_thread(ask)) == "Hello there, you"


async def test_titles_and_tags_are_answered_by_the_plain_model(live: Live, scripted: Scripted) -> None:
    client: AsyncOpenAI = await live.openai()
    task = "### Task:\nGenerate a concise title"
    answer = await client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": task}])
    assert answer.model_extra is not None and answer.model_extra["x_agent"]["mode"] == "simple"


async def test_pictures_are_refused_where_the_model_cannot_see(serve: Serve) -> None:
    blind = ModelInfo("blind", "scripted", capabilities=frozenset({"chat"}))
    live = await serve([Scripted([], [blind])])
    client = await live.http()
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    response = await client.post(
        "/v1/chat/completions", json={"model": "blind", "messages": [{"role": "user", "content": [part]}]}
    )
    assert (response.status_code, response.json()) == (
        400,
        {
            "error": {
                "message": "image_url is not supported by this model.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "unsupported_content",
            }
        },
    )


async def test_usage_details_are_told_where_the_backend_counted_them(live: Live, scripted: Scripted) -> None:
    scripted.script = [Script(text="a", usage=Usage(10, 5, cached_tokens=8, reasoning_tokens=2))]
    client = await live.http()
    assert (await client.post("/v1/chat/completions", json=HELLO)).json()["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
