"""Rate limits: requests and tokens a minute, and answers at once, for each API key or user."""

import asyncio
from typing import Any

import httpx
import pytest

from models.messages import Usage
from models.scripted import Script, Scripted
from tests.doors import envelope
from tests.live import Live, Serve
from tests.wire import CHAT, HELLO, failure

pytestmark = pytest.mark.anyio

LIMITS = "x-ratelimit-"


def refused(message: str) -> Any:
    """The body of a 429."""
    return envelope(message, "rate_limit_exceeded", type="rate_limit_error")


def told(response: httpx.Response) -> dict[str, str]:
    """What a response says of the limits."""
    return {name.removeprefix(LIMITS): value for name, value in response.headers.items() if name.startswith(LIMITS)}


def check_wait(response: httpx.Response, unit: str) -> None:
    """All three headers say when to come back, within a minute, and they agree."""
    seconds, milliseconds = int(response.headers["retry-after"]), int(response.headers["retry-after-ms"])
    reset = int(response.headers[f"{LIMITS}reset-{unit}"].removesuffix("s"))
    assert 1 <= seconds <= 60
    assert (seconds - 1) * 1000 < milliseconds <= seconds * 1000
    assert reset in (seconds - 1, seconds)
    assert "x-should-retry" not in response.headers


async def another_key(client: httpx.AsyncClient, live: Live) -> httpx.AsyncClient:
    """The same user with a key of its own."""
    created = await client.post("/api/auth/keys", json={"name": "another"})
    return await live.http(created.json()["key"])


async def chat(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    """A chat, perhaps streamed."""
    return await client.post(CHAT, json=HELLO | changes)


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_a_minute(serve: Serve, stream: bool) -> None:
    live = await serve([backend := Scripted()], rate_limit_requests=3)
    client = await live.http()
    answers = [await chat(client, stream=stream) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    for left, answer in zip((2, 1, 0), answers, strict=True):
        headers = told(answer)
        assert 0 <= int(headers.pop("reset-requests").removesuffix("s")) <= 60
        assert headers == {"limit-requests": "3", "remaining-requests": str(left)}
    too_many = await chat(client, stream=stream)
    status, body, _ = failure(too_many)
    assert (status, body) == (429, refused("Rate limit reached: 3 requests a minute."))
    assert (told(too_many)["limit-requests"], told(too_many)["remaining-requests"]) == ("3", "0")
    check_wait(too_many, "requests")
    assert len(backend.asked) == 3


async def test_each_key_has_limits_of_its_own_and_a_user_s_tokens_share_theirs(serve: Serve) -> None:
    live = await serve([Scripted()], rate_limit_requests=1, registration="open")
    client = await live.http()
    other = await another_key(client, live)
    assert [(await chat(caller)).status_code for caller in (client, client, other, other)] == [200, 429, 200, 429]
    ada = {"username": "ada", "password": "correct horse battery"}
    await client.post("/api/auth/register", json=ada)
    logins = [(await client.post("/api/auth/login", json=ada)).json()["access_token"] for _ in range(2)]
    assert [(await chat(await live.http(token))).status_code for token in logins] == [200, 429]


async def test_embeddings_count_too(serve: Serve) -> None:
    live = await serve([Scripted()], rate_limit_requests=2, rate_limit_tokens=1000)
    client = await live.http()
    body = {"model": "scripted", "input": "four"}
    first = await client.post("/v1/embeddings", json=body)
    headers = told(first)
    assert (headers["remaining-requests"], headers["remaining-tokens"]) == ("1", "1000")
    second = await chat(client)
    assert (second.status_code, told(second)["remaining-tokens"]) == (200, "996")
    assert (await client.post("/v1/embeddings", json=body)).status_code == 429


async def test_requests_that_are_wrong_do_not_count(serve: Serve) -> None:
    live = await serve([Scripted()], rate_limit_requests=1)
    client = await live.http()
    for body in ({}, HELLO | {"model": "nope"}, HELLO | {"temperature": 3}):
        assert (await client.post(CHAT, json=body)).status_code in (400, 404)
    assert (await client.get("/v1/models")).status_code == 200
    assert (await chat(client)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_a_minute(serve: Serve, stream: bool) -> None:
    script = [Script(text="Yes.", usage=Usage(prompt_tokens=30, completion_tokens=10))]
    live = await serve([backend := Scripted(script)], rate_limit_tokens=100)
    client = await live.http()
    answers = [await chat(client, stream=stream) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [told(answer)["remaining-tokens"] for answer in answers] == ["100", "60", "20"]
    too_many = await chat(client, stream=stream)
    status, body, _ = failure(too_many)
    assert (status, body) == (429, refused("Rate limit reached: 100 tokens a minute."))
    assert (told(too_many)["limit-tokens"], told(too_many)["remaining-tokens"]) == ("100", "0")
    check_wait(too_many, "tokens")
    assert (await chat(await another_key(client, live))).status_code == 200
    assert len(backend.asked) == 4


async def test_an_answer_that_takes_more_than_is_left_uses_it_up(serve: Serve) -> None:
    script = [Script(text="a", usage=Usage(60, 60)), Script(text="b")]
    live = await serve([Scripted(script)], rate_limit_tokens=100)
    client = await live.http()
    assert [(await chat(client)).status_code for _ in range(2)] == [200, 429]


async def test_answers_at_once(serve: Serve) -> None:
    backend = Scripted([Script(text="slow", delay=30), Script(text="quick")])
    live = await serve([backend], rate_limit_streams=1)
    client = await live.http()
    first = asyncio.create_task(chat(client, stream=True))
    await backend.started.wait()
    refusal = failure(await chat(client))
    message = "Rate limit reached: 1 answers at once. Wait for one to end."
    assert refusal == (429, refused(message), {"retry-after": "1", "retry-after-ms": "1000"})
    assert (await chat(await another_key(client, live))).status_code == 200
    await cancel_all(client)
    assert "The run was cancelled." in (await first).text
    assert (await chat(client)).status_code == 200


async def cancel_all(client: httpx.AsyncClient) -> None:
    """Ends the runs that are under way."""
    for run in (await client.get("/v1/runs")).json()["data"]:
        await client.post(f"/v1/runs/{run['id']}/cancel")


async def test_of_many_at_once_no_more_than_allowed_pass(serve: Serve) -> None:
    backend = Scripted([Script(text="slow", delay=30)])
    live = await serve([backend], rate_limit_streams=2, rate_limit_requests=100, rate_limit_tokens=10_000)
    client = await live.http()
    answers = asyncio.as_completed([chat(client) for _ in range(12)])
    async with asyncio.timeout(20):
        assert [(await next(answers)).status_code for _ in range(10)] == [429] * 10
        assert backend.running == 2
        await cancel_all(client)
        assert [(await answer).status_code for answer in answers] == [499, 499]
    assert backend.running == 0


async def test_an_answer_that_is_refused_at_the_last_moment_gives_its_place_back(serve: Serve) -> None:
    live = await serve([Scripted()], rate_limit_streams=1, rate_limit_requests=1)
    client = await live.http()
    assert [(await chat(client)).status_code for _ in range(2)] == [200, 429]
    status, body, _ = failure(await chat(client))
    assert (status, body) == (429, refused("Rate limit reached: 1 requests a minute."))


async def test_without_limits_nothing_is_said_of_them(client: httpx.AsyncClient) -> None:
    assert told(await chat(client)) == {}


async def test_limits_that_cannot_be_counted_let_nobody_pass(serve: Serve) -> None:
    live = await serve([Scripted()], rate_limit_storage="async+redis://127.0.0.1:1/0", rate_limit_requests=5)
    client, anonymous = await live.http(), await live.http("")
    login = {"username": "admin", "password": "12345678"}
    message = "The database, or the store of rate limits, is not available now."
    expected = (503, envelope(message, "upstream_unavailable", type="server_error"), {"retry-after": "5"})
    assert failure(await chat(client)) == expected
    assert failure(await anonymous.post("/api/auth/login", json=login)) == expected
