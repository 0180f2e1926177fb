"""What is measured on one server: streams side by side, replays, a form, and a long prompt beside running streams."""

import asyncio
import json
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

from benchmarks import replays
from benchmarks.client import Answer, Client

Figures = dict[str, float]
"""By what was measured, its unit last. NaN where the server does not say."""

WORK_COUNTED = (1, 8)
"""Numbers of streams at which the time spent in Python is told."""
REPORT_INTERVAL = 1.5
"""Seconds after which Drover's engine has surely told what it did."""
BEGUN = 16
"""Pieces that a stream must have sent before a long prompt comes beside it."""
BEGIN_LIMIT = 120.0


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    streams: Sequence[int]
    tokens: int
    """Of each stream."""
    turn_tokens: int
    """Of each turn in the debate."""
    step_tokens: int
    """Of each step of the ReAct run."""
    running: int
    """Streams beside which the long prompt comes."""
    long_words: int


async def streams(client: Client, plan: Plan) -> Figures:
    """Streams that begin at once, with a system prompt that the server has seen just before."""
    figures: Figures = {}
    for number in plan.streams:
        label = f"{number} stream{'' if number == 1 else 's'}"
        await client.ask(replays.stream_prompt(-1, label), 1)
        before = await _work(client) if number in WORK_COUNTED else None
        answers = await _together(client, [replays.stream_prompt(index, label) for index in range(number)], plan.tokens)
        firsts = [answer.first for answer in answers]
        figures |= {
            f"{label}: tokens/s": _rate(answers),
            f"{label}: first token, s": statistics.median(firsts),
            f"{label}: first token of the last, s": max(firsts),
            f"{label}: each once begun, tokens/s": statistics.median(_own_rate(answer) for answer in answers),
            f"{label}: reused of the prompts, %": _reused(answers),
            f"{label}: cut off": _cut(answers),
        }
        if before:
            figures |= _python(label, before, await _work(client))
    return figures


async def debate(client: Client, plan: Plan) -> Figures:
    """Three voices, four rounds; the voices of a round speak at the same time."""
    rounds = [await _together(client, prompts, plan.turn_tokens) for prompts in replays.debate_rounds()]
    return _replay([answer for answers in rounds for answer in answers])


async def react(client: Client, plan: Plan) -> Figures:
    """Eight steps, one after the other."""
    answers = [await client.ask(messages, plan.step_tokens, tools=replays.TOOLS) for messages in replays.react_steps()]
    prompts = [answer.prompt_tokens for answer in answers]
    could = sum(prompts[:-1]) / sum(prompts[1:]) if sum(prompts) else math.nan
    return {
        **_replay(answers),
        "reused after the first step, %": _reused(answers[1:]),
        "the same if all of the last prompt were, %": could,
    }


async def form(client: Client, plan: Plan) -> Figures:
    """Answers in the form of a schema, and as many tokens without one. The schema has been used once before."""
    first = await client.ask_for(replays.FORM, replays.form_prompt(0), 8)
    figures = {"first use of the schema: first token, s": first.first}
    for number in (1, 8):
        label = f"{number} stream{'' if number == 1 else 's'}"
        asked = [client.ask_for(replays.FORM, replays.form_prompt(index + 1), 1000) for index in range(number)]
        bound = await asyncio.gather(*asked)
        free = await asyncio.gather(
            *(client.ask(replays.form_prompt(100 + index), answer.tokens) for index, answer in enumerate(bound))
        )
        figures |= {
            f"{label}: in the form, tokens/s": _rate(bound),
            f"{label}: free, tokens/s": _rate(free),
            f"{label}: in the form of free, %": _rate(bound) / _rate(free),
            f"{label}: tokens of one": statistics.median(answer.tokens for answer in bound),
            f"{label}: not in the form": sum(not _is_form(answer.text) for answer in bound),
            f"{label}: cut off": _cut([*bound, *free]),
        }
    return figures


async def long(client: Client, plan: Plan) -> Figures:
    """A long prompt comes while streams run: how long they pause, and how long its own answer takes to begin."""
    others = [Answer(2000) for _ in range(plan.running)]
    tasks = [
        asyncio.create_task(client.fill(answer, replays.stream_prompt(index, "long"), 2000))
        for index, answer in enumerate(others)
    ]
    try:
        await _begun(others, tasks)
        before = perf_counter()
        usual = [gap for answer in others for gap in _gaps(answer, 0, before)]
        answer = await client.ask(replays.long_prompt(plan.long_words), 8)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    until = answer.sent + answer.first
    gaps = [gap for other in others for gap in _gaps(other, answer.sent, until)]
    during = sum(answer.sent <= time <= until for other in others for time in other.times)
    return {
        "tokens of the long prompt": answer.prompt_tokens or math.nan,
        "usual gap of a stream, ms": statistics.median(usual) * 1000,
        "longest gap of a stream, ms": max(gaps, default=math.nan) * 1000,
        "the streams meanwhile, tokens/s": during / answer.first,
        "first token of the long one, s": answer.first,
        "cut off": sum(
            task.done() and not task.cancelled() and other.cut for task, other in zip(tasks, others, strict=True)
        ),
    }


SCENARIOS: dict[str, Callable[[Client, Plan], Awaitable[Figures]]] = {
    "streams": streams,
    "debate": debate,
    "react": react,
    "form": form,
    "long": long,
}


async def _together(client: Client, prompts: Sequence[list[replays.Message]], tokens: int) -> list[Answer]:
    return await asyncio.gather(*(client.ask(prompt, tokens) for prompt in prompts))


async def _begun(answers: Sequence[Answer], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Returns when each stream runs; those of a server that does one after the other may have ended."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BEGIN_LIMIT):
            for answer, task in zip(answers, tasks, strict=True):
                while len(answer.times) < BEGUN and not task.done():
                    await asyncio.wait([task], timeout=0.01)


def _gaps(answer: Answer, begin: float, end: float) -> list[float]:
    """Seconds between two pieces, of those gaps that reach into the time."""
    return [later - earlier for earlier, later in pairwise(answer.times) if later > begin and earlier < end]


def _rate(answers: Sequence[Answer]) -> float:
    """Tokens of all, in the time from the first request to the last end."""
    seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


def _own_rate(answer: Answer) -> float:
    seconds = answer.ended - answer.sent - answer.first
    return (answer.tokens - 1) / seconds if answer.tokens > 1 and seconds else math.nan


def _reused(answers: Sequence[Answer]) -> float:
    cached = [answer.cached_tokens for answer in answers]
    known = [number for number in cached if number is not None]
    return sum(known) / sum(answer.prompt_tokens for answer in answers) if len(known) == len(cached) else math.nan


def _cut(answers: Sequence[Answer]) -> int:
    return sum(answer.cut for answer in answers)


def _replay(answers: Sequence[Answer]) -> Figures:
    return {
        "all of it, s": max(answer.ended for answer in answers) - min(answer.sent for answer in answers),
        "tokens/s": _rate(answers),
        "tokens of the prompts": sum(answer.prompt_tokens for answer in answers) or math.nan,
        "reused of the prompts, %": _reused(answers),
        "cut off": _cut(answers),
    }


def _is_form(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"parts"}
    except (ValueError, TypeError):
        return False


async def engine_status(client: Client) -> dict[str, Any]:
    """What Drover says of the model's engine; nothing from others."""
    status = await client.get("/health/status")
    try:
        found: dict[str, Any] = status["backends"]["llama_cpp"]["status"]["models"][client.model]
    except (TypeError, KeyError):
        return {}
    return found


async def _work(client: Client) -> dict[str, Any] | None:
    """The sums that Drover's engine tells of what it has done; None where there are none."""
    await asyncio.sleep(REPORT_INTERVAL)
    return (await engine_status(client)).get("engine")


def _python(label: str, before: dict[str, Any], after: dict[str, Any] | None) -> Figures:
    """What Python takes of a step: a batch that llama.cpp computes, and all that is done for it."""
    if not after or after["steps"] == before["steps"]:
        return {}
    steps, computing, overhead = (after[name] - before[name] for name in ("steps", "computing", "overhead"))
    return {
        f"{label}: llama.cpp in a step, ms": computing / steps * 1000,
        f"{label}: Python in a step, ms": overhead / steps * 1000,
        f"{label}: Python of a step, %": overhead / (computing + overhead),
    }
