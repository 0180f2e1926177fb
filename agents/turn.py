"""The moves that agents are made of. `speak`: a model takes one turn."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from agents.context import Context
from agents.events import AnyEvent, Spoke, TextDelta, ThoughtDelta, ToolCallDelta
from models.backend import BackendFailed
from models.messages import CallDelta, FinishReason, Message, ToolCall, Usage
from models.structured import conforming


def new_call_id() -> str:
    """A tool call's id, unique over any conversation: backends reuse theirs, which breaks agent loops."""
    return "call_" + secrets.token_urlsafe(18)


async def speak(context: Context, choice: int = 0) -> AsyncGenerator[AnyEvent, None]:
    """Lets the model answer once: text, thoughts and calls as they come, and at the end `Spoke` with the whole turn.

    Raises:
        ModelError: the model could not answer, or broke off.
    """
    request = context.request
    text: list[str] = []
    thought: list[str] = []
    calls = _Calls()
    usage = Usage()
    finish: FinishReason | None = None
    deltas = context.backend.chat(request)
    if request.output is not None:
        deltas = conforming(deltas, request.output)
    async with aclosing(deltas):  # type: ignore[type-var]
        async for delta in deltas:
            if delta.thought:
                thought.append(delta.thought)
                yield ThoughtDelta(text=delta.thought, choice=choice)
            if delta.text or delta.logprobs:
                text.append(delta.text)
                yield TextDelta(text=delta.text, logprobs=delta.logprobs, choice=choice)
            for piece in delta.calls:
                yield ToolCallDelta(id=calls.add(piece), call=piece, choice=choice)
            usage = delta.usage or usage
            finish = delta.finish or finish
    if finish is None:
        raise BackendFailed("the model's answer ended in the middle")
    for piece in calls.without_arguments():
        yield ToolCallDelta(id=calls.add(piece), call=piece, choice=choice)
    message = Message("assistant", "".join(text), "".join(thought), calls.finished())
    yield Spoke(message=message, usage=usage, finish=finish, model=request.model, choice=choice)


class _Calls:
    """The tool calls of one turn, put together from their pieces."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def add(self, piece: CallDelta) -> str:
        """Takes a piece and returns its call's id."""
        if piece.index not in self._ids:
            self._ids[piece.index] = new_call_id()
            self._names[piece.index] = piece.name
            self._arguments[piece.index] = []
        self._arguments[piece.index].append(piece.arguments)
        return self._ids[piece.index]

    def without_arguments(self) -> list[CallDelta]:
        """The missing pieces of calls that take nothing: clients parse the arguments, and "" is no JSON."""
        return [CallDelta(i, "", "{}") for i in sorted(self._ids) if not "".join(self._arguments[i])]

    def finished(self) -> tuple[ToolCall, ...]:
        """The calls, in the order of their index."""
        return tuple(ToolCall(self._ids[i], self._names[i], "".join(self._arguments[i])) for i in sorted(self._ids))
