"""A backend that says what it was told to: the shipped fake, for tests, examples and trying out clients.

backend = Scripted([Script(text="Hello")])          # answers in turn, the last one again and again
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from models.backend import Embedded, Health, ModelError, ModelInfo, ModelNotFound, ModelRequest
from models.messages import CallDelta, Delta, FinishReason, TokenLogprob, ToolCall, Usage
from models.probe import OUTPUT, PROBE, WORD


class Script(Struct, frozen=True):
    """One answer of a scripted model."""

    text: str = ""
    thought: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    """None: `tool_calls` when there are calls, else `stop`."""
    usage: Usage = Usage(prompt_tokens=5, completion_tokens=3)
    pieces: int = 4
    """Characters in each text delta."""
    delay: float = 0.0
    """Seconds before the first piece, and again between pieces."""
    error: ModelError | None = None
    """Raised after the text, or at once where there is none."""


Answer = Script | Callable[[ModelRequest], Script]


class Scripted:
    """Answers from a list, and keeps what it was asked in `asked`."""

    name = "scripted"

    def __init__(
        self,
        script: Sequence[Answer] = (),
        models: Sequence[ModelInfo] | None = None,
        *,
        calls_tools: bool = True,
        keeps_to_schema: bool = True,
    ) -> None:
        self.calls_tools = calls_tools
        """How it does when it is tried out; the script holds only the conversation."""
        self.keeps_to_schema = keeps_to_schema
        self.script = list(script) or [echo]
        self.asked: list[ModelRequest] = []
        self.started = asyncio.Event()
        """Set when a chat has begun."""
        self.stopped = asyncio.Event()
        """Set when a chat was given up before its end."""
        self.running = 0
        self._models = list(models) if models is not None else [_model("scripted")]

    async def models(self) -> list[ModelInfo]:
        """The models that it was made with."""
        return self._models

    async def chat(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        """The next answer of the script."""
        if all(request.model != model.id for model in self._models):
            raise ModelNotFound(request.model)
        if request.tools == (PROBE,) or request.output is OUTPUT:
            yield self._probed(request)
            return
        answer = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(request)
        script = answer if isinstance(answer, Script) else answer(request)
        self.running += 1
        self.started.set()
        finished = False
        try:
            for delta in _deltas(script):
                if script.delay:
                    await asyncio.sleep(script.delay)
                yield delta
            if script.error is not None:
                raise script.error
            finished = True
            finish = script.finish or ("tool_calls" if script.calls else "stop")
            yield Delta(finish=finish, usage=script.usage)
        finally:
            self.running -= 1
            if not finished and script.error is None:
                self.stopped.set()

    def _probed(self, request: ModelRequest) -> Delta:
        word = json.dumps({"word": WORD})
        if request.tools:
            calls = (CallDelta(0, PROBE.name, word),) if self.calls_tools else ()
            return Delta(calls=calls, finish="tool_calls" if calls else "stop", usage=Usage())
        return Delta(text=word if self.keeps_to_schema else "no", finish="stop", usage=Usage())

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """Two numbers for each input, made from its length: enough to see which is which."""
        if all(model != known.id for known in self._models):
            raise ModelNotFound(model)
        vectors = [[len(text) / 8, 1.0][: dimensions or 2] for text in inputs]
        return Embedded(vectors, Usage(prompt_tokens=sum(map(len, inputs))))

    async def check(self) -> Health:
        """Always well."""
        return Health(True, f"scripted: {len(self._models)} model(s)")

    async def close(self) -> None:
        """Holds nothing."""

    def status(self) -> Mapping[str, Any]:
        """How many chats are running, and how many were begun."""
        return {"running": self.running, "asked": len(self.asked)}


def echo(request: ModelRequest) -> Script:
    """Says again what was said last, and counts words as tokens."""
    text = request.messages[-1].text
    words = len(text.split())
    prompt = sum(len(message.text.split()) for message in request.messages)
    return Script(text=text, usage=Usage(prompt_tokens=prompt, completion_tokens=words))


def _deltas(script: Script) -> list[Delta]:
    deltas = [Delta(thought=script.thought)] if script.thought else []
    if script.logprobs:
        deltas += [Delta(text=item.token, logprobs=(item,)) for item in script.logprobs]
    else:
        cuts = range(0, len(script.text), script.pieces)
        deltas += [Delta(text=script.text[cut : cut + script.pieces]) for cut in cuts]
    for index, call in enumerate(script.calls):
        deltas += [Delta(calls=(CallDelta(index, call.name),)), Delta(calls=(CallDelta(index, "", call.arguments),))]
    return deltas


def _model(name: str) -> ModelInfo:
    return ModelInfo(name, "scripted", owned_by="drover", capabilities=frozenset({"chat", "embed", "tools", "vision"}))
