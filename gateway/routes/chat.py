"""POST /v1/chat/completions: an answer from a model, or from an agent that works on it."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar import Request, Response, post

from agents import AGENTS, Context
from agents.events import Asked
from gateway.errors import ApiError, bad_request, cancelled, decode, missing
from gateway.modes import choose
from gateway.openai.request import ChatRequest, choices, new_messages, to_model_request
from gateway.openai.response import ChunkStream, Head, completion, head
from gateway.parts import VERSION, Parts, parts_of
from gateway.presence import watched
from gateway.responses import JsonResponse
from gateway.runs import Origin, Run
from gateway.sse import EventStream
from models.backend import Backend, ModelInfo, ModelNotFound, ModelRequest
from models.structured import check_schema

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
    """Answers a conversation, streamed or whole, by the agent and model that `model` names."""
    parts = parts_of(request)
    await parts.catalog.listed()
    body = decode(_decoder, await request.body())
    mode, name = choose(body, request.headers, parts.catalog)
    if body.messages is None:
        raise missing("messages")
    backend, info = await _find(parts, name)
    model_request = to_model_request(body, info.id)
    _check_abilities(model_request, info)
    if model_request.output is not None and model_request.output.schema is not None:
        await check_schema(model_request.output.schema)
    count = choices(body)
    run, headers = await _start(request, parts, mode, Context(backend, model_request, count), body, info)
    top = head(str(body.model), mode, run.id, f"{VERSION} {info.backend} {info.id}")
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = ChunkStream(top, choices=count, include_usage=include_usage, reasoning=parts.settings.reasoning_field)
        return await _streamed(run, stream, headers, parts.settings.keep_alive_seconds)
    return await _whole(request, run, top, headers, parts)


async def _find(parts: Parts, name: str) -> tuple[Backend, ModelInfo]:
    if name:
        return await parts.catalog.find(name)
    if (default := await parts.default_model()) is None:
        raise ModelNotFound(parts.settings.default_model or "default")
    return await parts.catalog.find(default.id)


def _check_abilities(request: ModelRequest, info: ModelInfo) -> None:
    """Refuses what the model is known not to be able to do; where nobody knows, the backend decides."""
    if (able := info.capabilities) is None:
        return
    if "chat" not in able:
        raise bad_request(f"The model `{info.id}` does not support chat.", "model", "unsupported_value")
    if request.tools and "tools" not in able:
        raise bad_request(f"tools is not supported by the model `{info.id}`.", "tools", "unsupported_parameter")
    if "vision" not in able and any(message.images for message in request.messages):
        raise bad_request("image_url is not supported by this model.", "messages", "unsupported_content")


async def _start(
    request: Request[Any, Any, Any], parts: Parts, mode: str, context: Context, body: ChatRequest, info: ModelInfo
) -> tuple[Run, dict[str, str]]:
    """The run at work within its caller's limits, and the headers that tell of both."""
    principal = request.user
    caller = principal.caller
    headers = await parts.limits.enter(caller)

    def ended(run: Run) -> None:
        parts.limits.leave(caller, run.usage.prompt_tokens + run.usage.completion_tokens)
        parts.metrics.run(run.record)

    asked = Asked(model=str(body.model), messages=tuple(new_messages(context.request.messages)))
    origin = Origin(principal.user_id, principal.key_id, mode, info.id, info.backend)
    try:
        run = parts.runs.start(origin, asked, AGENTS[mode](context), ended)
    except ApiError:
        parts.limits.leave(caller, 0)
        raise
    request.scope["state"]["run"] = run
    return run, {**headers, "x-run-id": run.id}


async def _streamed(run: Run, stream: ChunkStream, headers: dict[str, str], keep_alive: float) -> Response[Any]:
    await run.begun(PRIME)
    if run.error is not None:
        raise run.error
    frames = _frames(run, stream)
    return EventStream(frames, left=lambda: run.stop(cancelled()), keep_alive=keep_alive, headers=headers)


async def _frames(run: Run, stream: ChunkStream) -> AsyncGenerator[bytes, None]:
    """What has come since the last frame goes out in one piece: under load that is fewer, larger writes."""
    pending = stream.opening()
    async for events in run.follow():
        if pending := pending + stream.frames(events):
            yield pending
            pending = b""


async def _whole(
    request: Request[Any, Any, Any], run: Run, top: Head, headers: dict[str, str], parts: Parts
) -> Response[Any]:
    with watched(request, lambda: run.stop(cancelled())):
        await run.over()
    if run.error is not None:
        raise run.error
    return JsonResponse(completion(top, run.events, parts.settings.reasoning_field), headers)


HANDLERS = (create_chat_completion,)
