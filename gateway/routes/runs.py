"""/v1/runs: what ran and what is running, its events, and stopping it. A run belongs to whoever started it."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Struct, structs

from agents.events import AnyEvent, Asked
from gateway.asking import asked
from gateway.errors import cancelled, conflict, decode
from gateway.openai.request import ChatRequest
from gateway.openai.response import ChunkStream, UsageOut, head, usage_out
from gateway.parts import VERSION, Parts, parts_of
from gateway.repeat import Repeated
from gateway.responses import JsonResponse
from gateway.runs import Run
from gateway.sse import EventStream
from gateway.store.runs import LIVELY, EventRecord, RunRecord
from gateway.work import known, read_event, replayed, start, taken_up
from models.messages import Usage

_chat = msgspec.json.Decoder(ChatRequest)


class RunOut(Struct, frozen=True):
    """A run: what was asked of whom, how it stands or ended, and what it took."""

    id: str
    object: Literal["run"]
    status: str
    mode: str
    model: str
    backend: str
    created: float
    finished: float | None
    usage: UsageOut
    first_token_ms: float | None
    stop_reason: str | None
    error_code: str | None


class RunList(Struct, frozen=True):
    """A page of runs, newest first; the next begins `after` the last id."""

    object: Literal["list"]
    data: list[RunOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


@get("/v1/runs", opt={"scope": "runs"}, operation_id="listRuns")
async def list_runs(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    after: Annotated[str | None, QueryParameter()] = None,
) -> RunList:
    """Lists the caller's runs."""
    parts, user_id = parts_of(request), request.user.user_id
    await parts.recorder.flush()
    before = await _record(parts, after, user_id, "after") if after else None
    records = await parts.run_store.page(user_id, limit=limit + 1, before=before)
    page = [_out(record) for record in records[:limit]]
    return RunList("list", page, len(records) > limit, page[0].id if page else None, page[-1].id if page else None)


@get("/v1/runs/{run_id:str}", opt={"scope": "runs"}, operation_id="retrieveRun")
async def retrieve_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> RunOut:
    """Describes one run."""
    return await _described(parts_of(request), run_id, request.user.user_id)


@post("/v1/runs", status_code=202, opt={"scope": "chat"}, operation_id="createRun")
async def create_run(request: Request[Any, Any, Any]) -> Response[Any]:
    """Begins a run with the body of a chat request, and does not wait for it. It goes on whoever leaves."""
    parts, user, data = parts_of(request), request.user, await request.body()
    body = decode(_chat, data)
    repeated = Repeated.of(request, data)
    async with repeated.turn(parts) if repeated else nullcontext():
        if repeated is not None and (earlier := await repeated.find(parts)) is not None:
            return JsonResponse(await _described(parts, earlier, user.user_id), {"x-run-id": earlier}, 202)
        work, before = await asked(parts, user.user_id, request.headers, body)
        run, headers = await start(
            parts,
            work,
            caller=user.caller,
            key_id=user.key_id,
            earlier=before,
            request_key=repeated.record if repeated else None,
        )
    return JsonResponse(await _described(parts, run.id, user.user_id), headers, 202)


@post("/v1/runs/{run_id:str}/cancel", status_code=200, opt={"scope": "runs"}, operation_id="cancelRun")
async def cancel_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> RunOut:
    """Stops a run and waits until its backend is free. One that has ended already stays as it is."""
    parts, user_id = parts_of(request), request.user.user_id
    async with parts.turns.of(run_id):
        run, record = await known(parts, run_id, user_id)
        if run is None and record.status == "paused":
            parts.recorder.run(structs.replace(record, status="cancelled", finished_at=time.time()))
    if run is not None:
        run.stop(cancelled())
        await run.over()
    return await _described(parts, run_id, user_id)


@post("/v1/runs/{run_id:str}/pause", status_code=200, opt={"scope": "runs"}, operation_id="pauseRun")
async def pause_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> RunOut:
    """Pauses a run as soon as what is being said or done has ended; until then it is `pausing`."""
    parts, user_id = parts_of(request), request.user.user_id
    run = parts.runs.get(run_id, user_id)
    if run is not None and not run.ended:
        run.pause()
    elif (record := await _record(parts, run_id, user_id)).status != "paused":
        raise conflict(f"A run that is {record.status} cannot be paused.", "illegal_transition")
    return await _described(parts, run_id, user_id)


@post("/v1/runs/{run_id:str}/resume", status_code=200, opt={"scope": "runs"}, operation_id="resumeRun")
async def resume_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> RunOut:
    """Goes on with a run that was paused, or that a server left when it ended."""
    parts, user_id = parts_of(request), request.user.user_id
    run = parts.runs.get(run_id, user_id)
    if run is not None and not run.ended:
        run.resume()
        return await _described(parts, run_id, user_id)
    record = await _record(parts, run_id, user_id)
    if await taken_up(parts, record, request.user.caller) is None:
        raise conflict(f"A run that is {record.status} cannot be resumed.", "illegal_transition")
    return await _described(parts, run_id, user_id)


@get(
    "/v1/runs/{run_id:str}/replay",
    opt={"scope": "runs"},
    operation_id="replayRun",
    media_type="text/event-stream",
)
async def replay_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> EventStream:
    """Streams the answer of a run that has ended, as its client was sent it, from what is kept. No model is asked."""
    parts, user_id = parts_of(request), request.user.user_id
    record = await _record(parts, run_id, user_id)
    if record.status in LIVELY:
        raise conflict("The run has not ended yet.", "illegal_transition")
    await parts.recorder.flush()
    events = [read_event(each) for each in await parts.run_store.events(run_id)]
    model = next((event.model for event in events if isinstance(event, Asked)), record.model)
    top = head(model, record.mode, run_id, f"{VERSION} {record.backend} {record.model}", record.session_id)
    choices = len({event.choice for event in events})
    stream = ChunkStream(top, choices=choices, include_usage=True, reasoning=parts.settings.reasoning_field)
    return EventStream(_told(stream, events), keep_alive=parts.settings.keep_alive_seconds)


async def _told(stream: ChunkStream, events: Sequence[AnyEvent]) -> AsyncGenerator[bytes, None]:
    yield stream.opening() + stream.frames(replayed(events))


@get(
    "/v1/runs/{run_id:str}/events",
    opt={"scope": "runs"},
    operation_id="streamRunEvents",
    media_type="text/event-stream",
)
async def stream_run_events(
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    after: Annotated[int | None, QueryParameter(ge=0)] = None,
) -> EventStream:
    """Streams the durable events of a run after the one with number `after`, live until it ends.

    A reader that comes back may send `Last-Event-ID` instead. Any number may read; leaving stops nothing.
    """
    parts, user_id = parts_of(request), request.user.user_id
    if after is None:
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
    run = parts.runs.get(run_id, user_id)
    if run is None:
        await _record(parts, run_id, user_id)
    frames = _live(run, after) if run is not None else _kept(parts, run_id, after)
    return EventStream(frames, keep_alive=parts.settings.keep_alive_seconds)


async def _live(run: Run, after: int) -> AsyncGenerator[bytes, None]:
    while True:
        if records := run.records[after:]:
            after = records[-1].seq
            yield b"".join(map(_frame, records))
        elif run.ended:
            return
        else:
            await run.changed()


async def _kept(parts: Parts, run_id: str, after: int) -> AsyncGenerator[bytes, None]:
    if records := await parts.run_store.events(run_id, after):
        yield b"".join(map(_frame, records))


def _frame(record: EventRecord) -> bytes:
    """An event with its number; EventSource sends that number back as Last-Event-ID when it reconnects."""
    fields = b'{"seq":%d,"at":%.6f,%b' % (record.seq, record.at, record.data[1:])
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (record.seq, record.type.encode(), fields)


async def _record(parts: Parts, run_id: str, user_id: str, param: str = "run_id") -> RunRecord:
    """The run as it stands now. `param` is where its id came from.

    Raises:
        ApiError: 404, there is no such run, or it is someone else's.
    """
    return (await known(parts, run_id, user_id, param))[1]


async def _described(parts: Parts, run_id: str, user_id: str) -> RunOut:
    """The run as it stands now."""
    out = _out(await _record(parts, run_id, user_id))
    run = parts.runs.get(run_id, user_id)
    return structs.replace(out, status="pausing") if run is not None and run.pausing else out


def _out(record: RunRecord) -> RunOut:
    usage = Usage(record.prompt_tokens, record.completion_tokens, record.cached_tokens)
    return RunOut(
        record.id,
        "run",
        record.status,
        record.mode,
        record.model,
        record.backend,
        record.created_at,
        record.finished_at,
        usage_out(usage),
        record.first_token_ms,
        record.stop_reason,
        record.error_code,
    )


HANDLERS = (
    list_runs,
    create_run,
    retrieve_run,
    cancel_run,
    pause_run,
    resume_run,
    stream_run_events,
    replay_run,
)
