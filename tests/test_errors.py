"""Every cause of an error in OpenAI's API: the whole body, and the headers that decide what a client does."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec import Struct

from auth.keys import Keys
from gateway.access import Access
from gateway.store.database import Database
from models.backend import (
    BackendFailed,
    BackendTimeout,
    Busy,
    ContextTooLong,
    ModelError,
    ModelInfo,
    ModelNotFound,
    ModelRequest,
    Unavailable,
    Unsupported,
)
from models.scripted import Script, Scripted, echo
from tests.doors import BAD_KEY, EXPIRED, NO_KEY, access_token, envelope
from tests.live import SECRET, Live, Serve, serving
from tests.wire import CHAT, HELLO, UNPARSABLE, Failure, check_envelope, failure, frames

pytestmark = pytest.mark.anyio

LIMIT = 64 * 1024


class Failing(Struct, frozen=True):
    """How a backend fails, and what the caller is told."""

    error: Exception
    status: int
    body: Any
    headers: dict[str, str] = {}


FAILURES: dict[str, Failing] = {
    "context too long": Failing(
        ContextTooLong(2048, "Your messages resulted in 4014 tokens."),
        400,
        envelope(
            "This model's maximum context length is 2048 tokens. Your messages resulted in 4014 tokens. "
            "(context_length_exceeded)",
            "context_length_exceeded",
            param="messages",
        ),
    ),
    "unsupported by the backend": Failing(
        Unsupported("logprobs is not supported by this backend.", "logprobs"),
        400,
        envelope("logprobs is not supported by this backend.", "unsupported_parameter", param="logprobs"),
    ),
    "gone since it was listed": Failing(
        ModelNotFound("scripted"),
        404,
        envelope(
            "The model `scripted` does not exist or you do not have access to it.", "model_not_found", param="model"
        ),
    ),
    "queue full": Failing(
        Busy("Too many requests wait for this model.", 2.5),
        429,
        envelope("Too many requests wait for this model.", "rate_limit_exceeded", "rate_limit_error"),
        {"retry-after": "3", "retry-after-ms": "2500"},
    ),
    "busy for an hour": Failing(
        Busy("Come back later.", 3600),
        429,
        envelope("Come back later.", "rate_limit_exceeded", "rate_limit_error"),
        {"retry-after": "60", "retry-after-ms": "60000"},
    ),
    "bug": Failing(
        ZeroDivisionError("a secret detail"),
        500,
        envelope(
            "The server had an error while processing your request. Please give the x-request-id when you report it.",
            "internal_error",
            "server_error",
        ),
    ),
    "failed": Failing(
        BackendFailed("The backend answered with nonsense."),
        502,
        envelope("The backend answered with nonsense.", "upstream_error", "upstream_error"),
    ),
    "failed with a page": Failing(
        BackendFailed("<html>" + "x" * 100_000),
        502,
        envelope("<html>" + "x" * 1994, "upstream_error", "upstream_error"),
    ),
    "down": Failing(
        Unavailable("The backend does not answer."),
        503,
        envelope("The backend does not answer.", "upstream_unavailable", "server_error"),
        {"retry-after": "2"},
    ),
    "timeout": Failing(
        BackendTimeout("The backend said nothing for 600 seconds."),
        504,
        envelope("The backend said nothing for 600 seconds.", "upstream_timeout", "timeout_error"),
        {"x-should-retry": "false"},
    ),
}


def fail(request: ModelRequest) -> Script:
    """Fails as the last message says, after its text before a colon."""
    text, _, name = request.messages[-1].text.rpartition(":")
    if name not in FAILURES:
        return echo(request)
    error = FAILURES[name].error
    if not isinstance(error, ModelError):
        raise error
    return Script(text=text, pieces=1, delay=0.02 if text else 0, error=error)


class Embedder(Scripted):
    """Fails to embed as its input says."""

    async def embed(self, model: str, inputs: Any, dimensions: int | None = None) -> Any:
        """Fails, or embeds."""
        if inputs[0] in FAILURES:
            raise FAILURES[inputs[0]].error
        return await super().embed(model, inputs, dimensions)


def model(name: str, *capabilities: Any) -> ModelInfo:
    """A model that can do these things only."""
    return ModelInfo(name, "scripted", capabilities=frozenset(capabilities))


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, empty_database: Any) -> AsyncIterator[Live]:
    """A server on a backend that fails as it is told."""
    models = [
        model("scripted", "chat", "embed", "tools", "vision"),
        model("plain", "chat"),
        model("vectors", "embed"),
    ]
    folder = tmp_path_factory.mktemp("errors")
    async with serving(folder, empty_database, [Embedder([fail], models)], max_body_bytes=LIMIT) as server:
        yield server


@pytest.fixture(scope="module")
async def client(live: Live) -> httpx.AsyncClient:
    """The admin."""
    return await live.http()


async def chat(client: httpx.AsyncClient, body: Any = None, **changes: Any) -> httpx.Response:
    """A chat with the usual body, changed."""
    return await client.post(CHAT, json=body if body is not None else HELLO | changes)


def says(text: str) -> list[Any]:
    """One message."""
    return [{"role": "user", "content": text}]


# The body


@pytest.mark.parametrize("content", [b"", b"{", b"hello", b"[]", b'"text"', b"null", b"1", b'{"model":"scripted"}}'])
async def test_a_body_that_is_no_json_object(client: httpx.AsyncClient, content: bytes) -> None:
    assert failure(await client.post(CHAT, content=content)) == (400, UNPARSABLE, {})


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"messages": says("Hi")}, "you must provide a model parameter", "model"),
        ({"messages": says("Hi"), "model": None}, "you must provide a model parameter", "model"),
        ({"messages": says("Hi"), "model": ""}, "you must provide a model parameter", "model"),
        ({"model": "scripted"}, "Missing required parameter: 'messages'.", "messages"),
        ({"model": "scripted", "messages": None}, "Missing required parameter: 'messages'.", "messages"),
        (
            HELLO | {"messages": [{"content": "Hi"}]},
            "Missing required parameter: 'messages[0].role'.",
            "messages[0].role",
        ),
        (
            HELLO | {"tools": [{"type": "function", "function": {}}]},
            "Missing required parameter: 'tools[0].function.name'.",
            "tools[0].function.name",
        ),
    ],
)
async def test_something_required_is_missing(client: httpx.AsyncClient, body: Any, message: str, param: str) -> None:
    expected = envelope(message, "missing_required_parameter", param=param)
    assert failure(await chat(client, body)) == (400, expected, {})


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"model": 1}, "model", "expected `str | null`, got `int`"),
        ({"messages": "Hi"}, "messages", "expected `array | null`, got `str`"),
        ({"messages": ["Hi"]}, "messages[0]", "expected `object`, got `str`"),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "messages[0].content",
            "expected `str | array | null`, got `int`",
        ),
        (
            {"messages": [*says("Hi"), {"role": "user", "content": [{"type": "text", "text": {}}]}]},
            "messages[1].content[0].text",
            "expected `str | null`, got `object`",
        ),
        ({"stream": "yes"}, "stream", "expected `bool | null`, got `str`"),
        ({"temperature": "hot"}, "temperature", "expected `float | null`, got `str`"),
        ({"max_tokens": True}, "max_tokens", "expected `int | float | null`, got `bool`"),
        ({"stop": [1]}, "stop[0]", "expected `str`, got `int`"),
    ],
)
async def test_a_wrong_type(client: httpx.AsyncClient, change: Any, param: str, message: str) -> None:
    expected = envelope(f"Invalid value for '{param}': {message}.", "invalid_type", param=param)
    assert failure(await chat(client, **change)) == (400, expected, {})


@pytest.mark.parametrize(
    ("change", "param", "code", "message"),
    [
        (
            {"temperature": 2.5},
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above max value. Expected a value <= 2, but got 2.5.",
        ),
        (
            {"top_p": -0.1},
            "top_p",
            "decimal_below_min_value",
            "Invalid 'top_p': decimal below min value. Expected a value >= 0, but got -0.1.",
        ),
        (
            {"max_tokens": -1},
            "max_tokens",
            "integer_below_min_value",
            "Invalid 'max_tokens': integer below min value. Expected a value >= 0, but got -1.",
        ),
        (
            {"n": 129},
            "n",
            "integer_above_max_value",
            "Invalid 'n': integer above max value. Expected a value <= 128, but got 129.",
        ),
        (
            {"messages": [{"role": "robot", "content": "Hi"}]},
            "messages[0].role",
            "invalid_value",
            "Invalid value: 'robot'. Supported values are: 'system', 'developer', 'user', 'assistant', 'tool' and "
            "'function'.",
        ),
        (
            {"messages": []},
            "messages",
            "invalid_value",
            "Invalid 'messages': empty array. Expected at least one message.",
        ),
    ],
)
async def test_a_value_out_of_range(
    client: httpx.AsyncClient, change: Any, param: str, code: str, message: str
) -> None:
    assert failure(await chat(client, **change)) == (400, envelope(message, code, param=param), {})


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("change", "message", "code", "param"),
    [
        (
            {"modalities": ["text", "audio"]},
            "Audio output is not supported.",
            "unsupported_value",
            "modalities",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "Content of type 'input_audio' is not supported; supported are 'text', 'refusal', 'image_url' and 'file'.",
            "unsupported_content",
            "messages[0].content[0].type",
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "Tools of type 'custom' are not supported; use 'function'.",
            "unsupported_value",
            "tools[0].type",
        ),
        (
            {"model": "plain", "tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools is not supported by the model `plain`.",
            "unsupported_parameter",
            "tools",
        ),
        (
            {"model": "plain", "messages": [{"role": "user", "content": [PICTURE]}]},
            "image_url is not supported by this model.",
            "unsupported_content",
            "messages",
        ),
        ({"model": "vectors"}, "The model `vectors` does not support chat.", "unsupported_value", "model"),
    ],
)
async def test_something_known_but_unsupported(
    client: httpx.AsyncClient, change: Any, message: str, code: str, param: str
) -> None:
    assert failure(await chat(client, **change)) == (400, envelope(message, code, param=param), {})


@pytest.mark.parametrize("declared", [True, False], ids=["by its Content-Length", "in chunks"])
async def test_a_body_that_is_too_big(client: httpx.AsyncClient, declared: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * (LIMIT // 4)

    content: Any = b" " * (LIMIT + 1) if declared else pieces()
    expected = envelope("The request is larger than 65536 bytes.", "request_too_large")
    assert failure(await client.post(CHAT, content=content)) == (413, expected, {})
    exact = json.dumps(HELLO).encode().ljust(LIMIT)
    assert (await client.post(CHAT, content=exact)).status_code == 200


# Who may


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic dTpw", "sk-without-a-scheme"])
async def test_no_credential(live: Live, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
        assert failure(await client.get("/v1/models")) == (401, NO_KEY, {"www-authenticate": "Bearer"})


async def test_a_credential_that_does_not_count(live: Live, client: httpx.AsyncClient) -> None:
    admin = (await client.get("/api/auth/me")).json()["id"]
    wrong = {
        "an unknown key": "sk-" + "x" * 43,
        "no token at all": "hello",
        "another audience": access_token(admin, key=SECRET, aud="elsewhere"),
        "another issuer": access_token(admin, key=SECRET, iss="elsewhere"),
        "another secret": access_token(admin),
        "no signature": access_token(admin, key=None, algorithm="none"),
        "nobody": access_token("usr_nobody", key=SECRET),
        "revoked": await revoked_key(client),
    }
    expected = (401, BAD_KEY, {"www-authenticate": 'Bearer error="invalid_token"'})
    seen = {}
    for name, token in wrong.items():
        response = await (await live.http(token)).get("/v1/models")
        seen[name] = failure(response)
        assert token not in response.text
    assert seen == dict.fromkeys(wrong, expected)


async def test_a_credential_that_has_expired(live: Live, client: httpx.AsyncClient) -> None:
    admin = (await client.get("/api/auth/me")).json()["id"]
    tokens = [access_token(admin, key=SECRET, exp=int(time.time()) - 1), await expired_key(live, admin)]
    expected = (401, EXPIRED, {"www-authenticate": 'Bearer error="invalid_token"'})
    assert [failure(await (await live.http(token)).get("/v1/models")) for token in tokens] == [expected, expected]


async def revoked_key(admin: httpx.AsyncClient) -> str:
    """An API key that has just been revoked."""
    created = (await admin.post("/api/auth/keys", json={"name": "short"})).json()
    assert (await admin.delete(f"/api/auth/keys/{created['id']}")).status_code == 204
    return str(created["key"])


async def expired_key(live: Live, user_id: str) -> str:
    """An API key that was made yesterday, for an hour."""
    database = Database(live.settings.database)
    try:
        keys: Keys = Access(live.settings, SECRET, database, clock=lambda: time.time() - 86400).keys
        return (await keys.create(user_id, "old", expires_in=3600))[1]
    finally:
        await database.close()


async def test_a_key_that_is_limited_to_other_things(live: Live, client: httpx.AsyncClient) -> None:
    key = (await client.post("/api/auth/keys", json={"name": "limited", "scopes": ["models"]})).json()["key"]
    limited = await live.http(key)
    message = "This needs the scope `chat`; your API key has models."
    assert failure(await chat(limited)) == (
        403,
        envelope(message, "insufficient_scope", "permission_error"),
        {"www-authenticate": 'Bearer error="insufficient_scope"'},
    )
    assert (await limited.get("/v1/models")).status_code == 200


# What there is


@pytest.mark.parametrize("name", ["nope", "hf.co/org/repo:Q4", "simple/nope", "react\0", "x" * 1900])
async def test_an_unknown_model(client: httpx.AsyncClient, name: str) -> None:
    bare = name.removeprefix("simple/")
    message = f"The model `{bare}` does not exist or you do not have access to it."
    expected: Failure = (404, envelope(message, "model_not_found", param="model"), {})
    assert failure(await chat(client, model=name)) == expected
    assert failure(await chat(client, model=name, stream=True)) == expected
    assert failure(await client.post("/v1/embeddings", json={"model": bare, "input": "x"})) == expected


async def test_a_model_name_of_ten_thousand_letters_is_not_repeated_in_full(client: httpx.AsyncClient) -> None:
    status, body, _ = failure(await chat(client, model="x" * 10_000))
    assert (status, body) == (404, envelope("The model `" + "x" * 1989, "model_not_found", param="model"))


@pytest.mark.parametrize("name", ["nope", "a%20b", "hf.co%2Forg%2Frepo:Q4", "hf.co/org/repo:Q4", "%F0%9F%90%8E"])
async def test_an_unknown_model_by_its_address(client: httpx.AsyncClient, name: str) -> None:
    shown = str(httpx.URL(f"http://x/{name}").path).removeprefix("/")
    message = f"The model `{shown}` does not exist or you do not have access to it."
    expected: Failure = (404, envelope(message, "model_not_found", param="model"), {})
    assert failure(await client.get(f"/v1/models/{name}")) == expected


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("GET", "/nope", ""),
        ("POST", "/v1/responses", ""),
        ("POST", "/v1/completions", ""),
        ("GET", "/v1/batches", ""),
        ("GET", "/v1/chat/completions/chatcmpl-1", ""),
        ("DELETE", "/nope", ""),
        ("GET", "/v1/v1/models", " The base URL already ends in /v1: use it once."),
        (
            "GET",
            "/api/tags",
            " This is an OpenAI-compatible server: use /v1/models and /v1/chat/completions.",
        ),
    ],
)
async def test_an_unknown_route(client: httpx.AsyncClient, method: str, path: str, hint: str) -> None:
    expected = envelope(f"Unknown request URL: {method} {path}.{hint}", "unknown_url")
    assert failure(await client.request(method, path)) == (404, expected, {})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/chat/completions", {"POST", "OPTIONS"}),
        ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/api/auth/keys", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("TRACE", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_a_wrong_method(client: httpx.AsyncClient, method: str, path: str, allow: set[str]) -> None:
    status, body, headers = failure(await client.request(method, path))
    assert (status, body) == (405, envelope(f"Not allowed to {method} on {path}.", "method_not_supported"))
    assert set(headers.pop("allow").split(", ")) == allow
    assert headers == {}


# Backends


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_backend_that_fails_at_once(client: httpx.AsyncClient, name: str, stream: bool) -> None:
    expected: Failing = FAILURES[name]
    response = await chat(client, messages=says(f":{name}"), stream=stream)
    assert failure(response) == (expected.status, expected.body, expected.headers)
    assert "Traceback" not in response.text and "a secret detail" not in response.text


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "bug"])
async def test_a_backend_that_fails_after_the_headers_fails_in_the_stream(client: httpx.AsyncClient, name: str) -> None:
    response = await chat(client, messages=says(f"ab:{name}"), stream=True)
    chunks = frames(response.text)
    assert (response.status_code, chunks[-2:]) == (200, [FAILURES[name].body, "[DONE]"])
    check_envelope(chunks[-2])
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-2]]
    assert "".join(texts) == "ab"


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "context too long"])
async def test_a_backend_that_fails_to_embed(client: httpx.AsyncClient, name: str) -> None:
    expected: Failing = FAILURES[name]
    response = await client.post("/v1/embeddings", json={"model": "vectors", "input": name})
    assert failure(response) == (expected.status, expected.body, expected.headers)


async def test_a_bug_is_logged_once_with_what_finds_it(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        embedding = await client.post("/v1/embeddings", json={"model": "vectors", "input": "bug"})
        chatting = await chat(client, messages=says(":bug"))
    assert [embedding.status_code, chatting.status_code] == [500, 500]
    of_request, of_run = caplog.records
    assert of_request.__dict__["request_id"] == embedding.headers["x-request-id"]
    assert "run_" in of_run.getMessage()
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


async def test_a_run_that_takes_too_long(serve: Serve) -> None:
    live = await serve([Scripted([Script(text="late", delay=30)])], run_timeout=0.05)
    client = await live.http()
    expected = envelope("The run did not end within 0.05 seconds.", "upstream_timeout", "timeout_error")
    for stream in (False, True):
        assert failure(await chat(client, stream=stream)) == (504, expected, {"x-should-retry": "false"})


async def test_a_server_that_is_shutting_down(serve: Serve) -> None:
    live = await serve([backend := Scripted([Script(text="slow", delay=30)])], shutdown_grace=0)
    client = await live.http()
    expected = envelope("The server is shutting down.", "shutting_down", "server_error")
    under_way = asyncio.create_task(chat(client))
    await backend.started.wait()
    await live.server.drain()
    assert failure(await under_way) == (503, expected, {"retry-after": "2"})
    for stream in (False, True):
        assert failure(await chat(client, stream=stream)) == (503, expected, {"retry-after": "2"})


@pytest.mark.parametrize(
    ("query", "param", "code", "message"),
    [
        ("limit=0", "limit", "invalid_value", "expected `int` >= 1"),
        ("limit=101", "limit", "invalid_value", "expected `int` <= 100"),
        ("limit=many", "limit", "invalid_type", "expected `int`, got `str`"),
        ("limit=%FF", "limit", "invalid_type", "expected `int`, got `str`"),
    ],
)
async def test_a_wrong_query(client: httpx.AsyncClient, query: str, param: str, code: str, message: str) -> None:
    expected = envelope(f"Invalid value for '{param}': {message}.", code, param=param)
    assert failure(await client.get(f"/v1/runs?{query}")) == (400, expected, {})
