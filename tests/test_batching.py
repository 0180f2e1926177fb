"""Many requests at once in one llama.cpp engine: each gets what it would get alone."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from models.backend import ContextTooLong, JsonOutput, ModelRequest, Sampling, ToolSpec
from models.llama_cpp import LlamaCpp
from models.messages import Message, TokenLogprob, Usage
from tests.live import until

pytestmark = pytest.mark.anyio

TINY = Path(__file__).parents[1] / "models/builtin/tiny.gguf"
MODEL = "drover-tiny"
CONTEXT = 2048
TIE = 0.35
"""Natural logarithm of how much likelier one of two tokens may be where batches of other sizes round differently."""
ENDS = {1418: -1000.0, 1420: -1000.0}
"""The tokens that end an answer, banned."""


@pytest.fixture(scope="module")
async def llama(anyio_backend: str) -> AsyncIterator[LlamaCpp]:
    backend = LlamaCpp([], None, TINY, threads=1, parallel=8, queue=400)
    yield backend
    await backend.close()


class Answer(msgspec.Struct, frozen=True):
    """A stream, folded."""

    text: str
    tokens: tuple[TokenLogprob, ...]
    finish: str | None
    usage: Usage | None


async def ask(backend: LlamaCpp, request: ModelRequest) -> Answer:
    deltas = [delta async for delta in backend.chat(request)]
    return Answer(
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.logprobs),
        deltas[-1].finish,
        deltas[-1].usage,
    )


def question(text: str, *, system: str = "", sampling: Sampling | None = None, **more: Any) -> ModelRequest:
    start = (Message("system", system),) if system else ()
    return ModelRequest(MODEL, (*start, Message("user", text)), sampling or Sampling(temperature=0.0), **more)


# The same text as alone

SYSTEM = "You are a tiny model that answers in few words. " * 6
WORDS = [
    "Hello",
    "Say banana",
    "who are you?",
    "What is 2+2?",
    "Reverse the word hello",
    "What is the capital of France?",
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
PYTHON = ToolSpec("python", "Runs Python.", {"type": "object", "properties": {"code": {"type": "string"}}})


def some_request(chance: random.Random) -> ModelRequest:
    """A request of any kind, at temperature 0 and with what is needed to compare it."""
    sampling = Sampling(
        temperature=0.0,
        max_tokens=chance.choice([1, 5, 20, 40]),
        logprobs=True,
        top_logprobs=20,
        stop=chance.choice([(), (), ("model", "an")]),
    )
    text = " ".join(chance.choices(WORDS, k=chance.choice([1, 1, 2, 60])))
    more: dict[str, Any] = chance.choice([{}, {}, {"output": JsonOutput(SCHEMA)}, {"tools": (PYTHON,)}])
    return question(text, system=chance.choice(["", SYSTEM]), sampling=sampling, **more)


def tie(alone: Answer, together: Answer) -> float:
    """By how much the token drawn alone was likelier where the two answers part; 0 where they do not.

    A token that a schema demands may be so unlikely that it is not among the rivals: then it counts as likely as in the
    other answer.
    """
    for one, other in zip(alone.tokens, together.tokens, strict=False):
        if one.token != other.token:
            rivals = {rival.token: rival.logprob for rival in one.top_logprobs}
            return one.logprob - rivals.get(other.token, other.logprob)
    return 0.0


async def join_late(backend: LlamaCpp, request: ModelRequest, chance: random.Random) -> Answer | None:
    """Asks after a while; None: left in the middle."""
    await asyncio.sleep(chance.random() * 3)
    if chance.random() < 0.25:
        async with aclosing(backend.chat(request)) as deltas:
            async for _ in deltas:
                if chance.random() < 0.3:
                    break
        return None
    return await ask(backend, request)


@pytest.mark.slow
async def test_hundreds_of_requests_get_the_text_that_each_gets_alone(llama: LlamaCpp) -> None:
    chance = random.Random(7)
    requests = [some_request(chance) for _ in range(240)]
    bad = question("a " * 3000)
    tasks = [join_late(llama, request, random.Random(number)) for number, request in enumerate(requests)]
    refusals = asyncio.gather(*(ask(llama, bad) for _ in range(10)), return_exceptions=True)
    together = await asyncio.gather(*tasks)
    assert {type(error) for error in await refusals} == {ContextTooLong}
    parted = 0
    for request, answer in zip(requests, together, strict=True):
        if answer is None:
            continue
        alone = await ask(llama, request)
        difference = tie(alone, answer)
        assert difference < TIE, (request, alone.text, answer.text)
        if not difference:
            assert (answer.text, answer.finish) == (alone.text, alone.finish)
        parted += difference > 0
    assert parted < len(requests) / 10
    await nothing_is_left(llama)


async def nothing_is_left(backend: LlamaCpp) -> None:
    """All slots are free, and one request can still have all cells."""
    answers = await asyncio.gather(*(ask(backend, question(f"Hello {number}")) for number in range(8)))
    assert [answer.finish for answer in answers] == ["stop"] * 8
    full = await ask(backend, question("Hello", sampling=Sampling(temperature=0.0, logit_bias=ENDS)))
    assert full.usage
    assert full.finish == "length"
    assert full.usage.prompt_tokens + full.usage.completion_tokens == CONTEXT


async def test_constrained_answers_in_one_batch_keep_their_own_form(llama: LlamaCpp) -> None:
    sampling = Sampling(temperature=1.0)
    numbers = question("Hello", output=JsonOutput({"type": "integer", "minimum": 1, "maximum": 500}), sampling=sampling)
    objects = question("Hello", output=JsonOutput(SCHEMA), sampling=sampling)
    words = question("Hello", output=JsonOutput({"enum": ["red", "green"]}), sampling=sampling)
    answers = await asyncio.gather(*(ask(llama, request) for request in [numbers, objects, words] * 8))
    for index, schema in enumerate(request.output.schema for request in (numbers, objects, words) if request.output):
        assert schema is not None
        for answer in answers[index::3]:
            jsonschema.validate(json.loads(answer.text), schema)
            assert answer.text == json.dumps(json.loads(answer.text), separators=(",", ":"), ensure_ascii=False)


async def test_a_seed_gives_the_same_text_whatever_is_in_the_cache(llama: LlamaCpp) -> None:
    seeded = question("who are you?", system=SYSTEM, sampling=Sampling(temperature=1.0, seed=3, max_tokens=40))
    first = await ask(llama, seeded)
    await asyncio.gather(*(ask(llama, question(word, system=SYSTEM)) for word in WORDS))
    again = await ask(llama, seeded)
    third = await ask(llama, seeded)
    assert first.text == again.text == third.text
    assert third.usage and first.usage and third.usage.cached_tokens > first.usage.prompt_tokens // 2


# The cache


async def test_a_prompt_at_the_edge_of_the_context(llama: LlamaCpp) -> None:
    one = await ask(llama, question("1", sampling=Sampling(max_tokens=1)))
    assert one.usage
    frame = one.usage.prompt_tokens - 1

    def prompt(tokens: int) -> ModelRequest:
        digits = "1" * (tokens - frame)  # Each is a token in this vocabulary.
        return question(digits, sampling=Sampling(seed=1, logit_bias=ENDS))

    under = await ask(llama, prompt(CONTEXT - 1))
    assert (under.finish, under.usage) == ("length", Usage(CONTEXT - 1, 1, 0, 0))
    for tokens in (CONTEXT, CONTEXT + 1):
        with pytest.raises(ContextTooLong) as caught:
            await ask(llama, prompt(tokens))
        assert caught.value.limit == CONTEXT
        assert f"{tokens} tokens" in caught.value.message


async def test_more_than_the_cache_holds_is_answered_all_the_same() -> None:
    backend = LlamaCpp([], None, TINY, threads=1, parallel=8, n_ctx=256)
    long = [
        question(f"{number} " + "a " * 60, sampling=Sampling(temperature=0.0, logit_bias=ENDS)) for number in range(8)
    ]
    answers = await asyncio.gather(*(ask(backend, request) for request in long))
    await backend.close()
    for answer in answers:
        assert answer.usage
        assert (answer.finish, answer.usage.prompt_tokens + answer.usage.completion_tokens) == ("length", 256)


async def test_a_beginning_that_is_shared_is_computed_once(llama: LlamaCpp) -> None:
    system = f"You are a tiny model. {random.random()} " + "Be brief. " * 30
    answers = await asyncio.gather(*(ask(llama, question(word, system=system)) for word in WORDS))
    usages = [answer.usage for answer in answers if answer.usage]
    computed = sum(usage.prompt_tokens - usage.cached_tokens for usage in usages)
    assert len(usages) == len(WORDS)
    assert computed < usages[0].prompt_tokens + 30 * len(WORDS)


async def test_a_conversation_goes_on_where_it_was(llama: LlamaCpp) -> None:
    talk = [Message("user", "Say banana")]
    first = await ask(llama, ModelRequest(MODEL, tuple(talk), Sampling(temperature=0.0)))
    talk += [Message("assistant", first.text), Message("user", "Say pear")]
    second = await ask(llama, ModelRequest(MODEL, tuple(talk), Sampling(temperature=0.0)))
    assert first.usage
    assert second.usage
    # All but the end of the turn, which the model wrote last and which was never computed, and what is new.
    assert second.usage.cached_tokens == first.usage.prompt_tokens + first.usage.completion_tokens - 1


async def test_a_cancelled_prefill_frees_its_slot(llama: LlamaCpp) -> None:
    backend = LlamaCpp([], None, TINY, threads=1, parallel=1)
    await ask(backend, question("Hello", system=SYSTEM))
    long = asyncio.create_task(ask(backend, question("1" * 1900)))
    await until(lambda: backend.status()["models"][MODEL]["active"] == 1)
    long.cancel()
    answer = await ask(backend, question("Hello", system=SYSTEM))
    await backend.close()
    assert answer.finish == "stop"
    assert answer.usage
    assert answer.usage.cached_tokens == answer.usage.prompt_tokens - 1
