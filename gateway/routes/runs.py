"""/v1/runs: what ran and what is running, its events, and stopping it. A run belongs to whoever started it."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from litestar import Request, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from gateway.errors import cancelled, not_found
from gateway.openai.response import UsageOut, usage_out
from gateway.parts import Parts, parts_of
from gateway.runs import Run
from gateway.sse import EventStream
from gateway.store.runs import EventRecord, RunRecord
from models.messages import Usage


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
    return _out(await _record(parts_of(request), run_id, request.user.user_id))


@post("/v1/runs/{run_id:str}/cancel", status_code=200, opt={"scope": "runs"}, operation_id="cancelRun")
async def cancel_run(request: Request[Any, Any, Any], run_id: FromPath[str]) -> RunOut:
    """Stops a run and waits until its backend is free. One that has ended already stays as it is."""
    parts, user_id = parts_of(request), request.user.user_id
    if (run := parts.runs.get(run_id, user_id)) is not None:
        run.stop(cancelled())
        await run.over()
    return _out(await _record(parts, run_id, user_id))


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
    if (run := parts.runs.get(run_id, user_id)) is not None:
        return run.record
    await parts.recorder.flush()
    if (record := await parts.run_store.get(run_id, user_id)) is None:
        raise not_found(f"No run found with id '{run_id[:64]}'.", "run_not_found", param)
    return record


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


HANDLERS = (list_runs, retrieve_run, cancel_run, stream_run_events)
