"""The events of a run as OpenAI's answers: chunks of a stream, or one completion, which is the fold of the same events.

The order of a stream's frames is what clients were seen to need: the role first and once, thoughts before text, calls
in frames of their own, one finish for each choice, then the usage if asked for, then `[DONE]`. A failure is a frame of
its own.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agents.events import (
    LIVE,
    Answer,
    AnyEvent,
    Consensus,
    Failed,
    Planned,
    Routed,
    Spoke,
    TextDelta,
    ToolCallDelta,
    ToolFinished,
    ToolStarted,
    encode,
)
from gateway.errors import ErrorBody, ErrorObject
from gateway.ids import new_id
from gateway.openai.trace import Narrator, Report, Tally, narrated
from models.messages import FinishReason, TokenLogprob, ToolCall, Usage

ReasoningField = Literal["reasoning_content", "reasoning", "think_tags", "none"]
Steps = Literal["reasoning", "content", "think", "events", "owui"]
"""How an agent's steps are shown; see `agents.options.Options.stream`."""

DONE = b"data: [DONE]\n\n"


class PromptDetails(Struct, frozen=True):
    """Part of the usage."""

    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    """Part of the usage."""

    reasoning_tokens: int


class UsageOut(Struct, frozen=True):
    """Tokens spent by all calls of models that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType = UNSET
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class FunctionOut(Struct, frozen=True):
    """A function call. In a stream, `name` comes with the first piece only."""

    name: str | UnsetType
    arguments: str


class ToolCallOut(Struct, frozen=True):
    """A call that the client is asked to make."""

    id: str
    type: Literal["function"]
    function: FunctionOut


class ToolCallChunk(Struct, frozen=True):
    """A piece of a call. Clients join repeated ids and names, so both come once."""

    index: int
    id: str | UnsetType
    type: Literal["function"] | UnsetType
    function: FunctionOut


class Logprobs(Struct, frozen=True):
    """Log probabilities of the tokens of this piece."""

    content: Sequence[TokenLogprob]
    refusal: None = None


class MessageOut(Struct, frozen=True):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: Sequence[ToolCallOut] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class DeltaOut(Struct, frozen=True):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: Sequence[ToolCallChunk] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class Choice(Struct, frozen=True):
    """One answer."""

    index: int
    message: MessageOut
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChunkChoice(Struct, frozen=True):
    """A piece of one answer."""

    index: int
    delta: DeltaOut
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Struct, frozen=True):
    """The body of an answer that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[Choice]
    usage: UsageOut
    x_agent: Report | UnsetType = UNSET
    x_session_id: str | UnsetType = UNSET


class Chunk(Struct, frozen=True):
    """A frame of a stream. `usage` is absent unless asked for, and then null in all frames but the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[ChunkChoice]
    usage: UsageOut | UnsetType | None = UNSET
    x_agent: Report | UnsetType = UNSET
    x_session_id: str | UnsetType = UNSET


class Head(Struct, frozen=True):
    """What all frames of one answer share."""

    id: str
    created: int
    model: str
    """The model as requested, agent prefix and all."""
    fingerprint: str
    mode: str
    run_id: str
    session_id: str | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


def head(model: str, mode: str, run_id: str, build: str, session_id: str | None = None) -> Head:
    """A new answer's id and time. `build` tells one version of server and backend from another."""
    now = int(time.time())
    return Head(new_id("chatcmpl-"), now, model, fingerprint(build), mode, run_id, session_id or UNSET)


def fingerprint(build: str) -> str:
    """`system_fingerprint`: changes when what generates changes."""
    if build not in _fingerprints:
        _fingerprints[build] = "fp_" + hashlib.sha256(build.encode()).hexdigest()[:10]
    return _fingerprints[build]


_fingerprints: dict[str, str] = {}


def frame(value: Struct) -> bytes:
    """A value as one data line: `event:`, `id:` and `retry:` lines break OpenAI's own client."""
    return b"data: " + _encode(value) + b"\n\n"


def error_frame(error: ErrorObject) -> bytes:
    """A failure in mid-stream. Without `choices`: Open WebUI loses an error beside them."""
    return frame(ErrorBody(error))


def error_object(failed: Failed) -> ErrorObject:
    """The failed run's error as clients see it."""
    return ErrorObject(failed.message, failed.error_type, failed.param, failed.code)


def usage_of(events: Iterable[AnyEvent]) -> Usage:
    """The sum of all calls of models."""
    return sum((event.usage for event in events if isinstance(event, Spoke)), Usage())


def usage_out(usage: Usage) -> UsageOut:
    """Usage in OpenAI's words; details only where somebody counted them."""
    return UsageOut(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptDetails(usage.cached_tokens) if usage.cached_tokens else UNSET,
        CompletionDetails(usage.reasoning_tokens) if usage.reasoning_tokens is not None else UNSET,
    )


class ChunkStream:
    """Turns a run's events into the frames of a stream."""

    def __init__(
        self,
        head: Head,
        *,
        choices: int,
        include_usage: bool,
        reasoning: ReasoningField,
        steps: Steps = "reasoning",
        trace: bool = False,
    ) -> None:
        self._steps = steps
        self._tally = Tally(head.mode, head.run_id, trace=trace)
        self._narrators = [Narrator() for _ in range(choices)]
        self._head = head
        self._include_usage = include_usage
        self._reasoning = _field(reasoning, steps)
        self._usage = Usage()
        self._open = choices
        self._choices = choices
        self._thinking: set[int] = set()
        self._called: set[str] = set()
        self.ended = False
        """Set with the last frame."""

    def opening(self) -> bytes:
        """The frames that introduce each choice: role and empty content."""
        return b"".join(
            self._chunk(ChunkChoice(index, DeltaOut(role="assistant", content=""))) for index in range(self._choices)
        )

    def frames(self, events: Iterable[AnyEvent]) -> bytes:
        """The frames of the next events; after a run's end, of the stream's end too."""
        return b"".join(frame for event in events for frame in self._frames(event))

    def _frames(self, event: AnyEvent) -> Iterator[bytes]:
        # Nearly all events are text: nothing else is to be asked about those.
        if isinstance(event, TextDelta) and not event.aside:
            yield self._content(event)
            return
        self._tally.add(event)
        match event:
            case ToolCallDelta(aside=False):
                yield from self._closed(event.choice)
                yield self._call(event)
                return
            case Spoke():
                self._usage += event.usage
        if self._reasoning != "none" and (text := self._narrators[event.choice].tell(event)):
            yield self._thought(event.choice, text)
        if self._steps == "events" and not isinstance(event, LIVE):
            yield self._extra(x_agent_event=msgspec.Raw(encode(event)))
        if self._steps == "owui" and (status := _status(event)) is not None:
            yield self._extra(event=status)
        match event:
            case Answer():
                yield from self._closed(event.choice)
                yield self._finish(event)
                self._open -= 1
                if not self._open:
                    yield from self._end()
            case Failed():
                yield error_frame(error_object(event))
                yield DONE
                self.ended = True

    def _extra(self, **fields: Any) -> bytes:
        """A chunk that says nothing, with a field of our own. Clients that look at `choices` first must find one."""
        chunk = self._chunk(ChunkChoice(0, DeltaOut()))
        whole: dict[str, Any] = msgspec.json.decode(chunk.removeprefix(b"data: "))
        return b"data: " + _encode(whole | fields) + b"\n\n"

    def _content(self, event: TextDelta) -> bytes:
        text = event.text
        if event.choice in self._thinking:
            self._thinking.discard(event.choice)
            text = "</think>\n\n" + text
        logprobs = Logprobs(event.logprobs) if event.logprobs else None
        return self._chunk(ChunkChoice(event.choice, DeltaOut(content=text), logprobs))

    def _thought(self, choice: int, text: str) -> bytes:
        match self._reasoning:
            case "reasoning_content":
                delta = DeltaOut(reasoning_content=text)
            case "reasoning":
                delta = DeltaOut(reasoning=text)
            case _:
                delta = DeltaOut(content=text if choice in self._thinking else "<think>" + text)
                self._thinking.add(choice)
        return self._chunk(ChunkChoice(choice, delta))

    def _closed(self, choice: int) -> Iterator[bytes]:
        """The end of the thoughts, where they stand in the text."""
        if choice in self._thinking:
            self._thinking.discard(choice)
            yield self._chunk(ChunkChoice(choice, DeltaOut(content="</think>\n\n")))

    def _call(self, event: ToolCallDelta) -> bytes:
        piece = event.call
        if event.id in self._called:
            call = ToolCallChunk(piece.index, UNSET, UNSET, FunctionOut(UNSET, piece.arguments))
        else:
            self._called.add(event.id)
            call = ToolCallChunk(piece.index, event.id, "function", FunctionOut(piece.name, piece.arguments))
        return self._chunk(ChunkChoice(event.choice, DeltaOut(tool_calls=(call,))))

    def _finish(self, answer: Answer) -> bytes:
        finish = ChunkChoice(answer.choice, DeltaOut(), None, answer.finish)
        return self._chunk(finish, self._tally.report(answer))

    def _end(self) -> Iterator[bytes]:
        if self._include_usage:
            yield self._frame((), usage_out(self._usage))
        yield DONE
        self.ended = True

    def _chunk(self, choice: ChunkChoice, report: Report | UnsetType = UNSET) -> bytes:
        return self._frame((choice,), None if self._include_usage else UNSET, report)

    def _frame(
        self,
        choices: Sequence[ChunkChoice],
        usage: UsageOut | UnsetType | None,
        report: Report | UnsetType = UNSET,
    ) -> bytes:
        head = self._head
        return frame(
            Chunk(
                head.id,
                "chat.completion.chunk",
                head.created,
                head.model,
                head.fingerprint,
                choices,
                usage,
                report,
                UNSET if report is UNSET else head.session_id,
            )
        )


def completion(
    head: Head,
    events: Sequence[AnyEvent],
    reasoning: ReasoningField,
    steps: Steps = "reasoning",
    *,
    trace: bool = False,
) -> Completion:
    """One answer from all events of a run that has ended well."""
    answers = sorted((event for event in events if isinstance(event, Answer)), key=lambda answer: answer.choice)
    logprobs, field = _logprobs(events), _field(reasoning, steps)
    thoughts = [narrated(event for event in events if event.choice == answer.choice) for answer in answers]
    tally = Tally(head.mode, head.run_id, trace=trace)
    for event in events:
        tally.add(event)
    return Completion(
        head.id,
        "chat.completion",
        head.created,
        head.model,
        head.fingerprint,
        [
            Choice(answer.choice, _message(answer, thought, field), logprobs.get(answer.choice), answer.finish)
            for answer, thought in zip(answers, thoughts, strict=True)
        ],
        usage_out(usage_of(events)),
        tally.report(answers[0]),
        head.session_id,
    )


def _field(reasoning: ReasoningField, steps: Steps) -> ReasoningField:
    """Where thoughts and steps go, by the setting and by what the request says."""
    match steps:
        case "content":
            return "none"
        case "think":
            return "think_tags"
    return reasoning


def _status(event: AnyEvent) -> dict[str, Any] | None:
    """A step as Open WebUI shows it under the answer."""
    match event:
        case ToolStarted(call=call):
            text, done = f"Calls {call.name}", False
        case ToolFinished(failed=failed):
            text, done = "The tool has failed" if failed else "The tool has answered", False
        case Planned(steps=steps):
            text, done = f"Plans {len(steps)} steps", False
        case Consensus(round=number, agreement=agreement):
            text, done = f"Round {number}: {agreement:.0%} agree", False
        case Routed(mode=mode):
            text, done = f"Works as {mode}", False
        case Answer():
            text, done = "Done", True
        case _:
            return None
    return {"type": "status", "data": {"description": text, "done": done}}


def _logprobs(events: Sequence[AnyEvent]) -> dict[int, Logprobs]:
    items: dict[int, list[TokenLogprob]] = {}
    for event in events:
        if isinstance(event, TextDelta) and event.logprobs and not event.aside:
            items.setdefault(event.choice, []).extend(event.logprobs)
    return {choice: Logprobs(content) for choice, content in items.items()}


def _message(answer: Answer, thought: str, reasoning: ReasoningField) -> MessageOut:
    text = answer.text
    if thought and reasoning == "think_tags":
        text = f"<think>{thought}</think>\n\n{text}"
    return MessageOut(
        "assistant",
        text if text or not answer.calls else None,
        tool_calls=[_call(call) for call in answer.calls] or UNSET,
        reasoning_content=thought if thought and reasoning == "reasoning_content" else UNSET,
        reasoning=thought if thought and reasoning == "reasoning" else UNSET,
    )


def _call(call: ToolCall) -> ToolCallOut:
    return ToolCallOut(call.id, "function", FunctionOut(call.name, call.arguments))
