"""What a model really can, found out by trying once: backends promise more than models keep."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import msgspec
from msgspec import Struct

from models.backend import (
    Backend,
    BackendFailed,
    InvalidRequest,
    JsonOutput,
    ModelInfo,
    ModelRequest,
    Sampling,
    ToolSpec,
)
from models.messages import Delta, Message

WORD = "meadow"
PROBE = ToolSpec(
    "search",
    "Searches for a word.",
    {
        "type": "object",
        "properties": {"word": {"type": "string", "description": "The word to search for."}},
        "required": ["word"],
        "additionalProperties": False,
    },
)
"""The tool of the trial: of a sort that models have seen, as small ones cannot spell a name that they have not.

A scripted model knows it, too.
"""

_QUESTION = (Message("user", f"Call the tool `{PROBE.name}` with the word {WORD}. Do nothing else."),)
OUTPUT = JsonOutput(
    {
        "type": "object",
        "properties": {"word": {"enum": [WORD]}},
        "required": ["word"],
        "additionalProperties": False,
    },
    "word",
)
"""The form of the second trial."""
_SAMPLING = Sampling(temperature=0, max_tokens=512)


class Abilities(Struct, frozen=True):
    """What a model was seen to do."""

    calls_tools: bool
    """It calls tools in its own way, with the right arguments."""
    keeps_to_schema: bool
    """Its backend holds an answer to a JSON Schema."""


class Prober:
    """Tries each model once, and remembers."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Abilities] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def of(self, backend: Backend, model: str, info: ModelInfo | None = None) -> Abilities:
        """What a model can.

        Raises:
            ModelError: it cannot be asked now; nothing is remembered.
        """
        key = (backend.name, model)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if (known := self._known.get(key)) is None:
                promised = info is None or info.capabilities is None or "tools" in info.capabilities
                calls_tools = promised and await _calls_tools(backend, model)
                known = Abilities(calls_tools, await _keeps_to_schema(backend, model))
                self._known[key] = known
        return known


async def _calls_tools(backend: Backend, model: str) -> bool:
    """Whether it calls a tool when it is told to."""
    answer = await _answer(backend, ModelRequest(model, _QUESTION, _SAMPLING, tools=(PROBE,)))
    return answer is not None and answer.name == PROBE.name and _word_in(answer.arguments) == WORD


async def _keeps_to_schema(backend: Backend, model: str) -> bool:
    """Whether its answer keeps to a schema."""
    answer = await _answer(backend, ModelRequest(model, _QUESTION, _SAMPLING, output=OUTPUT))
    return answer is not None and _word_in(answer.text) == WORD


class _Answer(Struct):
    text: str = ""
    name: str = ""
    arguments: str = ""


async def _answer(backend: Backend, request: ModelRequest) -> _Answer | None:
    """What the model answers; None: its backend does not take such a request, or fails at it."""
    answer = _Answer()
    try:
        async with aclosing(cast(AsyncGenerator[Delta, None], backend.chat(request))) as deltas:
            async for delta in deltas:
                answer.text += delta.text
                for piece in delta.calls:
                    answer.name += piece.name
                    answer.arguments += piece.arguments
    except (InvalidRequest, BackendFailed):
        return None
    return answer


def _word_in(text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return value.get("word") if isinstance(value, dict) else None
