"""POST /v1/chat/completions: an answer from a model, or from an agent that works on it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from litestar import Request, Response, post
from msgspec.structs import replace

from agents.events import Answer, AnyEvent, Failed, ToolStarted
from agents.options import Options
from gateway.asking import asked
from gateway.attachments import body_of
from gateway.errors import NO_RETRY, ApiError, cancelled, conflict, decode, failed
from gateway.openai.request import ChatRequest, choices
from gateway.openai.response import ChunkStream, Head, completion, head
from gateway.parts import VERSION, Parts, parts_of
from gateway.presence import watched
from gateway.repeat import Repeated
from gateway.responses import JsonResponse
from gateway.runs import Run
from gateway.sse import EventStream
from gateway.store.runs import RunRecord
from gateway.uploads import Upload, is_multipart, received
from gateway.work import known, read_event, replayed, start, taken_up

PRIME = 0.8
"""Seconds that a stream waits for its first event, so that a failure until then has a real status.

The first bytes are out within a second all the same, also while a model loads: clients give up on silent servers.
"""

_decoder = msgspec.json.Decoder(ChatRequest)


@post(
    ["/v1/chat/completions", "/chat/completions", "/api/chat/completions"],
    status_code=200,
    opt={"scope": "chat"},
    name="chat",
)
async def create_chat_completion(request: Request[Any, Any, Any]) -> Response[Any]:
    """Answers a conversation, streamed or whole, by the agent and model that `model` names.

    The body is JSON, or a form with `messages` as JSON, further fields, and files. A request that was sent before with
    the same `Idempotency-Key` gets the same answer, and nothing is done again.
    """
    parts = parts_of(request)
    if is_multipart(request):
        limits = {"file_bytes": parts.files.file_bytes, "total_bytes": parts.settings.max_body_bytes}
        async with received(request, parts.files.folder, **limits) as form:
            body = body_of(form)
            run, headers = await _begin(request, parts, body, form.files)
        return await _answer(request, parts, body, run, headers)
    data = await request.body()
    body = decode(_decoder, data)
    if (repeated := Repeated.of(request, data)) is None:
        run, headers = await _begin(request, parts, body)
        return await _answer(request, parts, body, run, headers)
    async with repeated.turn(parts):
        if (earlier := await repeated.find(parts)) is None:
            run, headers = await _begin(request, parts, body, repeated=repeated)
    if earlier is not None:
        return await _again(request, parts, body, earlier)
    return await _answer(request, parts, body, run, headers)


async def _begin(
    request: Request[Any, Any, Any],
    parts: Parts,
    body: ChatRequest,
    uploads: Sequence[Upload] = (),
    repeated: Repeated | None = None,
) -> tuple[Run, dict[str, str]]:
    user = request.user
    work, earlier = await asked(parts, user.user_id, request.headers, body, uploads)
    return await start(
        parts,
        work,
        caller=user.caller,
        key_id=user.key_id,
        earlier=earlier,
        request_key=repeated.record if repeated else None,
    )


async def _answer(
    request: Request[Any, Any, Any], parts: Parts, body: ChatRequest, run: Run, headers: dict[str, str]
) -> Response[Any]:
    request.scope["state"]["run"] = run
    top = _head(body, run.record)
    if body.stream:
        return await _streamed(run, _chunks(body, top, parts), headers, parts, _options(body))
    return await _whole(request, run, top, headers, parts, _options(body))


async def _again(request: Request[Any, Any, Any], parts: Parts, body: ChatRequest, run_id: str) -> Response[Any]:
    """The answer of a run that an earlier request has begun. It goes on, whoever leaves."""
    options, user_id = replace(_options(body), on_disconnect="continue"), request.user.user_id
    run, record = await known(parts, run_id, user_id)
    if run is None and record.status == "interrupted":
        run = await taken_up(parts, record, request.user.caller)
    top, headers = _head(body, record), {"x-run-id": run_id}
    if run is not None and body.stream:
        return await _streamed(run, _chunks(body, top, parts), headers, parts, options)
    if run is not None:
        return await _whole(request, run, top, headers, parts, options)
    events = list(replayed([read_event(each) for each in await parts.run_store.events(run_id)]))
    if not any(isinstance(event, Answer | Failed) for event in events):
        raise conflict(f"The run {run_id} of this Idempotency-Key is {record.status}: it has no answer.", "no_answer")
    if body.stream:
        stream = _chunks(body, top, parts)
        return EventStream(_kept(stream, events), keep_alive=parts.settings.keep_alive_seconds, headers=headers)
    for event in events:
        if isinstance(event, Failed):
            raise failed(event)
    field = parts.settings.reasoning_field
    return JsonResponse(completion(top, events, field, options.stream, trace=options.trace), headers)


async def _kept(stream: ChunkStream, events: list[AnyEvent]) -> AsyncGenerator[bytes, None]:
    yield stream.opening() + stream.frames(events)


def _head(body: ChatRequest, record: RunRecord) -> Head:
    build = f"{VERSION} {record.backend} {record.model}"
    return head(str(body.model), record.mode, record.id, build, record.session_id)


def _options(body: ChatRequest) -> Options:
    return body.x_agent or Options()


def _chunks(body: ChatRequest, top: Head, parts: Parts) -> ChunkStream:
    options = _options(body)
    return ChunkStream(
        top,
        choices=choices(body),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        reasoning=parts.settings.reasoning_field,
        steps=options.stream,
        trace=options.trace,
    )


async def _streamed(
    run: Run, stream: ChunkStream, headers: dict[str, str], parts: Parts, options: Options
) -> Response[Any]:
    await run.begun(PRIME)
    if run.error is not None:
        raise _failure(run, run.error)
    keep_alive = parts.settings.keep_alive_seconds
    return EventStream(_frames(run, stream), left=lambda: _left(run, options), keep_alive=keep_alive, headers=headers)


def _left(run: Run, options: Options) -> None:
    """The client has gone. What it began goes on only if it said so."""
    if options.on_disconnect == "cancel":
        run.stop(cancelled())


async def _frames(run: Run, stream: ChunkStream) -> AsyncGenerator[bytes, None]:
    """What has come since the last frame goes out in one piece: under load that is fewer, larger writes."""
    pending = stream.opening()
    async for events in run.follow():
        if pending := pending + stream.frames(events):
            yield pending
            pending = b""


async def _whole(
    request: Request[Any, Any, Any],
    run: Run,
    top: Head,
    headers: dict[str, str],
    parts: Parts,
    options: Options,
) -> Response[Any]:
    with watched(request, lambda: _left(run, options)):
        await run.over()
    if run.error is not None:
        raise _failure(run, run.error)
    field = parts.settings.reasoning_field
    return JsonResponse(completion(top, run.events, field, options.stream, trace=options.trace), headers)


def _failure(run: Run, error: ApiError) -> ApiError:
    """The error of a run, with the run's id."""
    error.headers["x-run-id"] = run.id
    if any(isinstance(event, ToolStarted) for event in run.events):
        # A second try would do again what the tools have done.
        error.headers.update(NO_RETRY)
    return error


HANDLERS = (create_chat_completion,)
