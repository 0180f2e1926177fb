"""Answers in the words of Ollama."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tests.fakes.server import Stream, Turn


def line(content: str = "", **fields: Any) -> bytes:
    """One line of a streamed answer; fields of the message are `thinking` and `tool_calls`."""
    return msgspec.json.encode(whole(content, **{"done": False, **fields})) + b"\n"


def last(reason: str = "stop", **fields: Any) -> bytes:
    """The last line."""
    return line(**{**ending(reason), **fields})


def whole(content: str = "", **fields: Any) -> dict[str, Any]:
    """An answer in one piece."""
    message = {"role": "assistant", "content": content}
    message |= {key: fields.pop(key) for key in ("thinking", "tool_calls") if key in fields}
    return {"model": "m", "created_at": "2026-11-21T08:00:00.123456789Z", "message": message, **fields}


def ending(reason: str = "stop") -> dict[str, Any]:
    """The fields of a finished answer."""
    return {"done": True, "done_reason": reason, "prompt_eval_count": 11, "eval_count": 7}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool call as Ollama writes it."""
    return {"id": "call_1", "function": {"index": 0, "name": name, "arguments": arguments}}


def ndjson(*pieces: bytes | Turn) -> Stream:
    """A streamed answer."""
    return Stream(pieces, "application/x-ndjson")


def tags(*models: str) -> dict[str, Sequence[Any]]:
    """The answer of GET /api/tags."""
    return {
        "models": [
            {"name": name, "model": name, "modified_at": "2025-05-04T17:37:44.706015396-07:00", "digest": f"sha-{name}"}
            for name in models
        ]
    }
