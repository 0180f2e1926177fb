"""What a run works on: all that it takes to set its agent to work, now or after a restart."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import cast

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from agents import AGENTS, Context
from agents.budget import Budget, Limits
from agents.context import Clock
from agents.events import (
    LIVE,
    Answer,
    AnyEvent,
    Asked,
    Durable,
    Log,
    Spoke,
    TextDelta,
    ThoughtDelta,
    ToolCallDelta,
)
from agents.journal import Journal
from agents.options import Options
from gateway.conversation import continues, remembered
from gateway.errors import ApiError, not_found
from gateway.modes import DEFAULT
from gateway.openai.request import new_messages
from gateway.parts import Parts
from gateway.runs import PAUSED, Begin, Origin, Past, Run
from gateway.store.runs import EventRecord, RequestRecord, RunRecord
from gateway.store.sessions import SessionRecord
from models.backend import ModelRequest
from models.messages import CallDelta, Image, Message
from tools import Session, Toolbox


class Work(Struct, frozen=True, omit_defaults=True):
    """A task for an agent."""

    mode: str
    model: str
    """The model's id."""
    backend: str
    shown: str
    """The model as the request names it."""
    request: ModelRequest
    said: tuple[Message, ...]
    """What the request says, for the session's memory."""
    user_id: str
    session_id: str | None = None
    choices: int = 1
    remembered: int = 0
    options: Options = Options()
    results: dict[str, str] = {}
    """What the client's tools gave, where the run goes on after it had asked for them."""
    before: str | None = None
    """The run that had asked."""
    salt: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """See `agents.context.Context.run`."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Work).decode
_decode_event = msgspec.json.Decoder(Durable).decode


def read_event(record: EventRecord) -> Durable:
    """An event as it is kept."""
    event: Durable = _decode_event(record.data)
    return event


async def continued(parts: Parts, said: Sequence[Message], user_id: str) -> tuple[Work, list[AnyEvent]] | None:
    """The work that a request goes on with, because it brings what the client's tools gave; and what was done so far.

    None: the request does not end in such results, or the run that asked for them is not known any more.
    """
    results = {message.tool_call_id: message.text for message in _last_results(said)}
    if not results:
        return None
    await parts.recorder.flush()
    for run_id in await parts.run_store.asking(user_id):
        events = await _events(parts, run_id)
        asked = {call.id for event in events if isinstance(event, Answer) for call in event.calls}
        if asked and asked <= results.keys():
            work, past = await _chain(parts, run_id)
            if work is None:
                return None
            return replace(work, said=tuple(said), results={**work.results, **results}, before=run_id), [*past, *events]
    return None


async def _chain(parts: Parts, run_id: str) -> tuple[Work | None, list[AnyEvent]]:
    """The work of a run, and what was done in those before it."""
    record = await parts.run_store.request(run_id)
    if record is None or record.work is None:
        return None, []
    work = decode(record.work)
    if work.before is None:
        return work, []
    _, past = await _chain(parts, work.before)
    return work, [*past, *await _events(parts, work.before)]


async def _events(parts: Parts, run_id: str) -> list[AnyEvent]:
    """What an agent has done in a run."""
    return [event for event in map(read_event, await parts.run_store.events(run_id)) if not isinstance(event, Asked)]


def _last_results(said: Sequence[Message]) -> list[Message]:
    last = next((i for i, message in enumerate(reversed(said)) if message.role != "tool"), len(said))
    return list(said[len(said) - last :])


async def begin(parts: Parts, work: Work, past: Sequence[AnyEvent] = ()) -> Begin:
    """Sets the work's agent to it, each time that it is called anew.

    Args:
        parts: of the server.
        work: what is to be done.
        past: the events of a run that had asked for the client's tools, where this one goes on with it.

    Raises:
        ModelNotFound: the model is not there any more.
    """
    backend, info = await parts.catalog.find(work.model)
    session = _workspace(parts, work)
    # The model alone is bounded by what the request says of its answer, and by the run's time.
    limits = _limits(parts, work.options.budget) if work.mode != DEFAULT else work.options.budget

    def start(own: Sequence[AnyEvent], clock: Clock) -> AsyncIterator[AnyEvent]:
        context = Context(
            backend,
            work.request,
            work.choices,
            work.remembered,
            info=info,
            session=session,
            toolbox=_toolbox(parts, work.options),
            options=_settled(parts, work.options),
            budget=Budget(limits, clock=clock, began=0.0),
            journal=Journal([*past, *own]),
            results=work.results,
            prober=parts.prober,
            find=parts.catalog.find,
            run=work.salt,
        )
        events = AGENTS[work.mode](context)
        if past:
            events = _new(events, Journal(past))
        return remembered(events, partial(_write, parts, work)) if work.session_id else events

    return start


async def _new(events: AsyncIterator[AnyEvent], past: Journal) -> AsyncGenerator[AnyEvent, None]:
    """The events that were not in the run before."""
    async with aclosing(cast(AsyncGenerator[AnyEvent, None], events)):
        async for event in events:
            if isinstance(event, LIVE) or not past.knows(event):
                yield event


async def _write(parts: Parts, work: Work, answer: Message) -> None:
    assert work.session_id is not None
    await parts.sessions.remember(work.session_id, (*work.said, answer), anew=not continues(work.said))


def _workspace(parts: Parts, work: Work) -> Session | None:
    if work.session_id is None:
        return None
    images: tuple[Image, ...] = tuple(image for message in work.request.messages for image in message.images)
    return parts.sessions.workspace(SessionRecord(work.session_id, work.user_id, 0, 0), images)


def _toolbox(parts: Parts, options: Options) -> Toolbox:
    return parts.toolbox if options.tools is None else parts.toolbox.only(options.tools)


def _settled(parts: Parts, options: Options) -> Options:
    """The options with the settings in place of what the request does not say."""
    settings = parts.settings
    return replace(
        options,
        max_iterations=options.max_iterations or settings.react_max_iterations,
        max_mode=options.max_mode or settings.auto_max_mode,
    )


def _limits(parts: Parts, asked: Limits) -> Limits:
    """The request's limits within those of the settings."""
    settings = parts.settings
    return Limits(
        min(asked.calls or settings.agent_max_calls, settings.agent_max_calls),
        settings.agent_max_tool_calls
        if asked.tool_calls is None
        else min(asked.tool_calls, settings.agent_max_tool_calls),
        min(asked.tokens or settings.agent_max_tokens, settings.agent_max_tokens),
        min(asked.seconds or settings.agent_max_seconds, settings.agent_max_seconds),
    )


async def start(
    parts: Parts,
    work: Work,
    *,
    caller: str,
    key_id: str | None,
    earlier: Sequence[AnyEvent] = (),
    past: Past | None = None,
    request_key: tuple[str, str] | None = None,
) -> tuple[Run, dict[str, str]]:
    """The run at work within its caller's limits, and the headers that tell of both.

    Args:
        parts: of the server.
        work: what is to be done.
        caller: whose limits count.
        key_id: the API key that asks, if it is one.
        earlier: the events of runs that this one goes on with.
        past: what is kept of this very run, where it is taken up again.
        request_key: the Idempotency-Key, and the digest of the body that came with it.

    Raises:
        ApiError: 429, the caller's limits; 503, the server is shutting down.
        ModelNotFound: the model is not there any more.
    """
    begins = await begin(parts, work, earlier)
    headers = await parts.limits.enter(caller)

    def ended(run: Run) -> None:
        parts.limits.leave(caller, run.usage.prompt_tokens + run.usage.completion_tokens)
        parts.metrics.run(run.record)

    origin = Origin(work.user_id, key_id, work.mode, work.model, work.backend, work.session_id)
    asked = Asked(model=work.shown, messages=tuple(new_messages(work.said)))
    try:
        run = parts.runs.start(origin, asked, begins, ended, past)
    except ApiError:
        parts.limits.leave(caller, 0)
        raise
    if past is None and (request_key or work.mode != DEFAULT):
        key, digest = request_key or (None, None)
        kept = encode(work) if work.mode != DEFAULT else None
        parts.recorder.request(RequestRecord(run.id, work.user_id, key, digest, kept, run.created_at))
    session = {"x-session-id": work.session_id} if work.session_id else {}
    return run, {**headers, **session, "x-run-id": run.id}


async def known(parts: Parts, run_id: str, user_id: str, param: str = "run_id") -> tuple[Run | None, RunRecord]:
    """A user's run as it stands now, if it is under way here, and as it is kept. `param` is where its id came from.

    Raises:
        ApiError: 404, there is no such run, or it is someone else's.
    """
    if (run := parts.runs.get(run_id, user_id)) is not None:
        return run, run.record
    await parts.recorder.flush()
    if (record := await parts.run_store.get(run_id, user_id)) is None:
        raise not_found(f"No run found with id '{run_id[:64]}'.", "run_not_found", param)
    return None, record


async def taken_up(parts: Parts, record: RunRecord, caller: str) -> Run | None:
    """A run that was paused or interrupted, at work again, also where somebody else has taken it up by now.

    None: it has ended, or what it takes for that was not kept.
    """
    async with parts.turns.of(record.id):
        run, record = await known(parts, record.id, record.user_id)
        if run is not None:
            return run
        return await _taken_up(parts, record, caller) if record.status in ("paused", "interrupted") else None


async def _taken_up(parts: Parts, record: RunRecord, caller: str) -> Run | None:
    request = await parts.run_store.request(record.id)
    if request is None or request.work is None:
        return None
    work, earlier = await _chain(parts, record.id)
    if work is None:
        return None
    records = await parts.run_store.events(record.id)
    events = [read_event(each) for each in records]
    past = Past(record, records, events, _worked(record, records, events))
    run, _ = await start(parts, work, caller=caller, key_id=record.key_id, earlier=earlier, past=past)
    return run


def _worked(record: RunRecord, records: Sequence[EventRecord], events: Sequence[AnyEvent]) -> float:
    """Seconds of work until a run was paused or interrupted."""
    pauses = [
        event.data["seconds"] for event in events if isinstance(event, Log) and event.data and event.text == PAUSED
    ]
    return float(pauses[-1]) if pauses else max(0.0, records[-1].at - record.created_at) if records else 0.0


def replayed(events: Sequence[AnyEvent]) -> Iterator[AnyEvent]:
    """The events of a run as they were told: what was said comes in whole pieces, since only those are kept."""
    answers = {event.choice: event for event in events if isinstance(event, Answer)}
    told: set[int] = set()
    for event in events:
        match event:
            case Spoke(message=message, choice=choice):
                if message.thought:
                    yield ThoughtDelta(text=message.thought, choice=choice, by=event.by)
                answer = answers.get(choice)
                is_answer = not event.aside and answer is not None and message.text == answer.text
                if message.text and not event.silent:
                    yield TextDelta(text=message.text, choice=choice, by=event.by, aside=not is_answer)
                if is_answer:
                    told.add(choice)
            case Answer(text=text, choice=choice):
                if text and choice not in told:
                    yield TextDelta(text=text, choice=choice)
                for index, call in enumerate(event.calls):
                    yield ToolCallDelta(id=call.id, call=CallDelta(index, call.name), choice=choice)
                    yield ToolCallDelta(id=call.id, call=CallDelta(index, "", call.arguments), choice=choice)
        yield event
