"""Several servers as one backend: who is asked, who is spared, and that nobody notices a failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from models.backend import BackendFailed, Busy, ModelError, ModelNotFound, ModelRequest, Unavailable
from models.messages import Message
from models.openai import OpenAI
from tests.fakes.openai import chunk, completion, failure, listing
from tests.fakes.server import Fake, Response, Stream, Turn, Whole

pytestmark = pytest.mark.anyio

CHAT = "/chat/completions"
PLAIN = ModelRequest("m", (Message("user", "Hello"),), stream=False)
STREAMED = ModelRequest("m", (Message("user", "Hello"),))


@pytest.fixture
async def fakes() -> AsyncIterator[list[Fake]]:
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(Fake()) for _ in range(3)]
        for number, fake in enumerate(fakes):
            answers(fake, Whole(completion(content=str(number))))
            fake.script("/models", Whole(listing("m")))
        yield fakes


@pytest.fixture
async def upstream(fakes: list[Fake]) -> AsyncIterator[OpenAI]:
    upstream = OpenAI([fake.url for fake in fakes])
    yield upstream
    await upstream.close()


def answers(fake: Fake, *responses: Response) -> None:
    fake.script(CHAT, *responses)


async def ask(upstream: OpenAI, request: ModelRequest = PLAIN) -> str:
    return "".join([delta.text async for delta in upstream.chat(request)])


async def failed(upstream: OpenAI, request: ModelRequest = PLAIN) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await ask(upstream, request)
    return raised.value


async def stop(fake: Fake) -> None:
    await fake.__aexit__()


async def test_idle_members_take_turns(upstream: OpenAI) -> None:
    assert [await ask(upstream) for _ in range(6)] == ["0", "1", "2", "0", "1", "2"]


async def test_the_least_busy_member_is_asked(fakes: list[Fake], upstream: OpenAI) -> None:
    for fake in fakes[:2]:
        answers(fake, Turn.HANG)
    waiting = [asyncio.create_task(ask(upstream)) for _ in range(2)]
    await asyncio.gather(*(fake.begun.wait() for fake in fakes[:2]))
    assert [await ask(upstream) for _ in range(4)] == ["2"] * 4
    assert [member["in_flight"] for member in upstream.status()["servers"]] == [1, 1, 0]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [member["in_flight"] for member in upstream.status()["servers"]] == [0, 0, 0]


async def test_a_member_that_is_down_is_skipped_until_it_answers_again(fakes: list[Fake], upstream: OpenAI) -> None:
    await stop(fakes[0])
    assert [await ask(upstream) for _ in range(6)] == ["1", "1", "2", "1", "1", "2"]
    assert upstream.status()["servers"][0] == {
        "url": fakes[0].url,
        "alive": False,
        "in_flight": 0,
        "last_error": "openai does not answer: connection refused.",
    }
    async with Fake() as back:
        await stop(back)
        answers(back, Whole(completion(content="back")))
        await back.listen(fakes[0].port)
        await asyncio.sleep(1.1)
        assert "back" in [await ask(upstream) for _ in range(3)]
        assert upstream.status()["servers"][0]["alive"]


async def test_a_member_that_comes_back_gets_one_trial(fakes: list[Fake], upstream: OpenAI) -> None:
    answers(fakes[0], Whole(failure("down"), 503), Turn.WAIT, Whole(completion(content="0")))
    await ask(upstream)
    await asyncio.sleep(1.1)
    seen = len(fakes[0].asked)
    tasks = [asyncio.create_task(ask(upstream)) for _ in range(9)]
    await asyncio.wait(tasks, timeout=0.3)
    assert len(fakes[0].asked) == seen + 1
    fakes[0].go_on.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "response",
    [Whole(failure("down"), 503), Whole(raw=b"", status=502), Turn.CUT, Whole(failure("slow"), 429)],
    ids=["503", "502", "reset", "busy"],
)
@pytest.mark.parametrize("request_", [PLAIN, STREAMED], ids=["plain", "streamed"])
async def test_the_request_that_hits_a_failure_goes_elsewhere(
    fakes: list[Fake], upstream: OpenAI, response: Response, request_: ModelRequest
) -> None:
    answers(fakes[0], response)
    answers(fakes[1], response)
    assert await ask(upstream, request_) == "2"
    assert [member["in_flight"] for member in upstream.status()["servers"]] == [0, 0, 0]


async def test_an_answer_that_has_begun_goes_nowhere_else(fakes: list[Fake], upstream: OpenAI) -> None:
    answers(fakes[0], Stream([chunk(content="A"), Turn.CUT]))
    assert type(await failed(upstream, STREAMED)) is BackendFailed
    assert [len(fake.asked) for fake in fakes] == [1, 0, 0]


async def test_only_members_that_have_the_model_are_asked(fakes: list[Fake], upstream: OpenAI) -> None:
    for fake in fakes[:2]:
        fake.script("/models", Whole(listing("other")))
    assert [model.id for model in await upstream.models()] == ["other", "m"]
    assert [await ask(upstream) for _ in range(3)] == ["2"] * 3


async def test_a_model_that_nobody_listed_is_looked_for_everywhere(fakes: list[Fake], upstream: OpenAI) -> None:
    for fake in fakes:
        fake.script("/models", Whole(listing("other")))
    await upstream.models()
    answers(fakes[0], Whole(failure("no model m", code="model_not_found"), 404))
    assert await ask(upstream) == "1"


@pytest.mark.parametrize(
    ("responses", "error"),
    [
        ([(404, "no model m"), (404, "no model m"), (503, "down")], Unavailable),
        ([(404, "no model m"), (429, "slow"), (503, "down")], Busy),
        ([(404, "no model m")] * 3, ModelNotFound),
    ],
)
async def test_if_all_refuse_the_least_final_refusal_is_told(
    fakes: list[Fake], upstream: OpenAI, responses: list[tuple[int, str]], error: type[ModelError]
) -> None:
    for fake, (status, text) in zip(fakes, responses, strict=True):
        answers(fake, Whole(failure(text), status))
    assert type(await failed(upstream)) is error


async def test_all_down_is_unavailable_and_each_is_still_tried(fakes: list[Fake], upstream: OpenAI) -> None:
    for fake in fakes:
        await stop(fake)
    assert type(await failed(upstream)) is Unavailable
    with pytest.raises(Unavailable):
        await upstream.models()
    async with Fake() as back:
        await stop(back)
        answers(back, Whole(completion(content="back")))
        await back.listen(fakes[1].port)
        assert await ask(upstream) == "back"


async def test_a_listing_survives_a_member_that_is_down(fakes: list[Fake], upstream: OpenAI) -> None:
    await stop(fakes[1])
    assert [model.id for model in await upstream.models()] == ["m"]
    assert (await upstream.check()).detail == "2 of 3 servers answer, 1 models"


def test_a_backend_needs_a_server() -> None:
    with pytest.raises(ValueError, match="base URL"):
        OpenAI([])
    with pytest.raises(ValueError, match="base URL"):
        OpenAI(["ftp://x"])
