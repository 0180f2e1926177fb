"""The two moves that agents are made of. `speak`: a model takes one turn. `use`: a tool is called."""

import asyncio
import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from msgspec.structs import replace

from agents.budget import Exhausted
from agents.context import Context
from agents.events import (
    AnyEvent,
    Log,
    Spoke,
    Stopped,
    TextDelta,
    ThoughtDelta,
    ToolCallDelta,
    ToolFinished,
    ToolStarted,
)
from models.backend import BackendFailed, ContextTooLong, ModelError, ModelRequest
from models.messages import CallDelta, Delta, FinishReason, Image, Message, Text, ToolCall, Usage
from models.structured import conforming
from models.thoughts import apart
from tools.toolbox import cut

LEAST_SHOWN = 400
"""Characters to which what came of the work is cut down at most, where a model has no room."""
UNSEEN = "[A picture, which you cannot see yourself.]"


def new_call_id() -> str:
    """A tool call's id, unique over any conversation: backends reuse theirs, which breaks agent loops."""
    return "call_" + secrets.token_urlsafe(18)


def call_id(context: Context, by: str, step: int) -> str:
    """The id of a call that the frame has read from a text: the same when the run is gone through again."""
    digest = hashlib.sha256(f"{context.run}\0{by}\0{step}".encode()).digest()
    return "call_" + urlsafe_b64encode(digest[:18]).decode()


def check(context: Context, by: str = "", choice: int = 0) -> None:
    """Whether there is anything left to spend; where a run is taken up again, as it was then.

    Raises:
        Exhausted: there is nothing, but for the final answer.
        ModelError: the model failed then.
    """
    match context.journal.next(by, choice):
        case None:
            context.budget.check()
        case Stopped(what="model", text=text):
            context.journal.take(by, choice)
            context.budget.recall(calls=1)
            raise BackendFailed(text)
        case Stopped(what=what):
            context.journal.take(by, choice)
            raise Exhausted(what)


async def speak(
    context: Context,
    choice: int = 0,
    *,
    by: str = "",
    aside: bool = False,
    silent: bool = False,
    checked: bool = True,
    counts: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[AnyEvent, None]:
    """Lets the model answer once: text, thoughts and calls as they come, and at the end `Spoke` with the whole turn.

    What is only remembered is left out, the oldest first, until the model has room for the rest; where that is not
    enough, what came of the work is cut. What the budget has no room for is cut off: such a turn finishes with
    `length`.

    Args:
        context: what it is asked.
        choice: which of the answers asked for it is.
        by: who speaks, where there are several.
        aside: it is not meant for the user.
        silent: nobody is shown it as it comes.
        checked: an answer that has not the form that was asked for is an error.
        counts: tells, where the model breaks off, whether what it has said counts as a turn that was cut off: where the
            user has seen it, it cannot be taken back.

    Raises:
        ModelError: the model could not answer, or broke off.
        Exhausted: there is nothing left to spend.
    """
    recorded = context.journal.next(by, choice)
    if isinstance(recorded, Spoke):
        context.journal.take(by, choice)
        context.budget.recall(calls=1, tokens=recorded.usage.prompt_tokens + recorded.usage.completion_tokens)
        yield recorded
        return
    check(context, by, choice)
    context.budget.call()
    while True:
        try:
            async with aclosing(_attempt(context, choice, by, aside, checked, counts)) as events:
                async for event in events:
                    if not silent or isinstance(event, Log):
                        yield event
                    elif isinstance(event, Spoke):
                        yield replace(event, silent=True)
            return
        except ContextTooLong:
            # Nothing was said yet: a prompt that does not fit is refused before the first token.
            if (shorter := _shortened(context)) is not None:
                left_out = len(context.request.messages) - len(shorter.request.messages)
                text = f"{left_out} messages of the conversation did not fit and were left out"
            elif (shorter := _cut(context)) is not None:
                text = "what came of the work did not fit and was cut"
            else:
                raise
            yield Log(text=text, choice=choice, by=by)
            context = shorter


async def use(context: Context, call: ToolCall, *, by: str = "") -> AsyncGenerator[AnyEvent, None]:
    """Calls one of the server's tools: `ToolStarted`, then `ToolFinished` with what the model is told.

    Raises:
        Exhausted: there is nothing left to spend.
    """
    recorded = context.journal.next(by)
    if isinstance(recorded, tuple):
        context.journal.take(by)
        context.budget.recall(tool_calls=1)
        started, finished = recorded
        yield started
        # It may have done what it does, and doing it twice may do harm.
        lost = "Error: the server was stopped while this ran. Nobody knows what came of it."
        yield finished or ToolFinished(call_id=started.call.id, result=lost, failed=True, by=by)
        return
    check(context, by)
    context.budget.use_tool()
    yield ToolStarted(call=call, by=by)
    assert context.session is not None, "tools of the server need a session"
    try:
        async with asyncio.timeout(_patience(context)):
            result = await context.toolbox.run(call.name, call.arguments, context.session)
        text, failed = result.text, result.error is not None
    except TimeoutError:
        text, failed = "Error: there was no time left for this. It was stopped.", True
    yield ToolFinished(call_id=call.id, result=text, failed=failed, by=by)


def _patience(context: Context) -> float | None:
    """Seconds that may be waited for a model or a tool."""
    left = context.budget.left("seconds")
    return None if left == float("inf") else max(0.0, left)


def _shortened(context: Context) -> Context | None:
    """The context without the older half of what is only remembered; None where there is nothing of that."""
    messages = context.request.messages
    first = 1 if messages and messages[0].role == "system" else 0
    memory = messages[first : first + context.remembered]
    begins = [i for i, message in enumerate(memory) if message.role == "user" and i >= (len(memory) + 1) // 2]
    keep = memory[begins[0] :] if begins else ()
    if len(keep) == len(memory):
        return None
    request = replace(context.request, messages=(*messages[:first], *keep, *messages[first + len(memory) :]))
    gone = len(memory) - len(keep)
    work = range(context.work.start - gone, context.work.stop - gone)
    return replace(context, request=request, remembered=len(keep), work=work)


def _cut(context: Context) -> Context | None:
    """The context with half as much of what came of the work at most; None where there is nothing left to cut."""
    messages, work = context.request.messages, context.work
    longest = max((len(messages[i].text) for i in work), default=0)
    if longest <= LEAST_SHOWN:
        return None
    short = [
        replace(message, content=cut(message.text, max(LEAST_SHOWN // 2, longest // 2)))
        if i in work and len(message.text) > max(LEAST_SHOWN, longest // 2)
        else message
        for i, message in enumerate(messages)
    ]
    return replace(context, request=replace(context.request, messages=tuple(short)))


def _seen(context: Context) -> ModelRequest:
    """The request, without pictures where the model is known not to see."""
    request, able = context.request, context.info.capabilities if context.info is not None else None
    if able is None or "vision" in able or not any(message.images for message in request.messages):
        return request
    blind = [
        replace(message, content=tuple(Text(UNSEEN) if isinstance(part, Image) else part for part in message.content))
        if message.images
        else message
        for message in request.messages
    ]
    return replace(request, messages=tuple(blind))


async def _attempt(
    context: Context, choice: int, by: str, aside: bool, checked: bool, counts: Callable[[], bool]
) -> AsyncGenerator[AnyEvent, None]:
    request, budget = _seen(context), context.budget
    text: list[str] = []
    thought: list[str] = []
    calls = _Calls()
    usage: Usage | None = None
    finish: FinishReason | None = None
    spent = 0
    deltas = apart(context.backend.chat(request))
    if request.output is not None and checked:
        deltas = cast(AsyncGenerator[Delta, None], conforming(deltas, request.output))
    patience = _patience(context)
    deadline = None if patience is None else asyncio.get_running_loop().time() + patience
    async with aclosing(deltas):
        while True:
            try:
                if deadline is None:
                    delta = await anext(deltas)
                else:
                    async with asyncio.timeout_at(deadline):
                        delta = await anext(deltas)
            except StopAsyncIteration:
                break
            except TimeoutError:
                finish = "length"
                break
            except ModelError as error:
                if not (text and counts()):
                    raise
                yield Log(text=f"the answer broke off: {error.message}", choice=choice, by=by)
                finish = "length"
                break
            if delta.thought:
                thought.append(delta.thought)
                yield ThoughtDelta(text=delta.thought, choice=choice, by=by)
            if delta.text or delta.logprobs:
                text.append(delta.text)
                yield TextDelta(text=delta.text, logprobs=delta.logprobs, choice=choice, by=by, aside=aside)
            for piece in delta.calls:
                yield ToolCallDelta(id=calls.add(piece), call=piece, choice=choice, by=by, aside=aside)
            usage = delta.usage or usage
            finish = delta.finish or finish
            # A piece is about a token; the right count comes at the end.
            spent += 1
            budget.spend(1)
            if finish is None and budget.runs_out():
                finish = "length"
                break
    if finish is None:
        raise BackendFailed("the model's answer ended in the middle")
    # Of a turn that was cut off here nobody has counted the tokens: there were as many as pieces, at least.
    usage = usage or Usage(completion_tokens=spent if finish == "length" else 0)
    if total := usage.prompt_tokens + usage.completion_tokens:
        budget.spend(total - spent)
    for piece in calls.without_arguments():
        yield ToolCallDelta(id=calls.add(piece), call=piece, choice=choice, by=by, aside=aside)
    message = Message("assistant", "".join(text), "".join(thought), calls.finished())
    yield Spoke(message=message, usage=usage, finish=finish, model=request.model, choice=choice, by=by, aside=aside)


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
