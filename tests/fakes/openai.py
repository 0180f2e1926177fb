"""Answers in the words of an OpenAI-compatible server."""

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def chunk(finish: str | None = None, usage: Any = None, **delta: Any) -> bytes:
    """One chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return event({"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": usage})


def usage_chunk(prompt: int, completion: int) -> bytes:
    """The chunk after the last, with the tokens used."""
    return event({"id": "x", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def completion(finish: str = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    """A whole completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": None}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def listing(*models: str) -> dict[str, Any]:
    """The answer of GET /models."""
    return {
        "object": "list",
        "data": [{"id": model, "object": "model", "created": 7, "owned_by": "me"} for model in models],
    }


def failure(message: str, **fields: Any) -> dict[str, Any]:
    """The body of a failed request."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}
