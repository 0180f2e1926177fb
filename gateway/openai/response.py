"""The events of a run as OpenAI's answers: chunks of a stream, or one completion, which is the fold of the same events.

The order of a stream's frames is what clients were seen to need: the role first and once, thoughts before text, calls
in frames of their own, one finish for each choice, then the usage if asked for, then `[DONE]`. A failure is a frame of
its own.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agents.events import (
    Answer,
    AnyEvent,
    Failed,
    Spoke,
    TextDelta,
    ThoughtDelta,
    ToolCallDelta,
)
from gateway.errors import ErrorBody, ErrorObject
from gateway.ids import new_id
from models.messages import FinishReason, TokenLogprob, ToolCall, Usage

ReasoningField = Literal["reasoning_content", "reasoning", "think_tags", "none"]

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


class AgentReport(Struct, frozen=True, omit_defaults=True):
    """Our own `x_agent`: how the answer came about."""

    mode: str
    run_id: str
    stop_reason: str


class Completion(Struct, frozen=True):
    """The body of an answer that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[Choice]
    usage: UsageOut
    x_agent: AgentReport | UnsetType = UNSET


class Chunk(Struct, frozen=True):
    """A frame of a stream. `usage` is absent unless asked for, and then null in all frames but the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[ChunkChoice]
    usage: UsageOut | UnsetType | None = UNSET
    x_agent: AgentReport | UnsetType = UNSET


class Head(Struct, frozen=True):
    """What all frames of one answer share."""

    id: str
    created: int
    model: str
    """The model as requested, agent prefix and all."""
    fingerprint: str
    mode: str
    run_id: str


_encode = msgspec.json.Encoder().encode


def head(model: str, mode: str, run_id: str, build: str) -> Head:
    """A new answer's id and time. `build` tells one version of server and backend from another."""
    return Head(new_id("chatcmpl-"), int(time.time()), model, fingerprint(build), mode, run_id)


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

    def __init__(self, head: Head, *, choices: int, include_usage: bool, reasoning: ReasoningField) -> None:
        self._head = head
        self._include_usage = include_usage
        self._reasoning = reasoning
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
        match event:
            case TextDelta(aside=False):
                yield self._content(event)
            case TextDelta() | ThoughtDelta():
                if self._reasoning != "none":
                    yield self._thought(event.choice, event.text)
            case ToolCallDelta():
                yield self._call(event)
            case Spoke():
                self._usage += event.usage
            case Answer():
                yield self._finish(event)
                self._open -= 1
                if not self._open:
                    yield from self._end()
            case Failed():
                yield error_frame(error_object(event))
                yield DONE
                self.ended = True

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

    def _call(self, event: ToolCallDelta) -> bytes:
        piece = event.call
        if event.id in self._called:
            call = ToolCallChunk(piece.index, UNSET, UNSET, FunctionOut(UNSET, piece.arguments))
        else:
            self._called.add(event.id)
            call = ToolCallChunk(piece.index, event.id, "function", FunctionOut(piece.name, piece.arguments))
        return self._chunk(ChunkChoice(event.choice, DeltaOut(tool_calls=(call,))))

    def _finish(self, answer: Answer) -> bytes:
        delta = DeltaOut(content="</think>\n\n") if answer.choice in self._thinking else DeltaOut()
        report = AgentReport(self._head.mode, self._head.run_id, answer.finish)
        return self._chunk(ChunkChoice(answer.choice, delta, None, answer.finish), report)

    def _end(self) -> Iterator[bytes]:
        if self._include_usage:
            yield self._frame((), usage_out(self._usage))
        yield DONE
        self.ended = True

    def _chunk(self, choice: ChunkChoice, report: AgentReport | UnsetType = UNSET) -> bytes:
        return self._frame((choice,), None if self._include_usage else UNSET, report)

    def _frame(
        self,
        choices: Sequence[ChunkChoice],
        usage: UsageOut | UnsetType | None,
        report: AgentReport | UnsetType = UNSET,
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
            )
        )


def completion(head: Head, events: Sequence[AnyEvent], reasoning: ReasoningField) -> Completion:
    """One answer from all events of a run that has ended well."""
    answers = sorted((event for event in events if isinstance(event, Answer)), key=lambda answer: answer.choice)
    logprobs, thoughts = _logprobs(events), _thoughts(events)
    return Completion(
        head.id,
        "chat.completion",
        head.created,
        head.model,
        head.fingerprint,
        [
            Choice(
                answer.choice,
                _message(answer, "".join(thoughts.get(answer.choice, ())), reasoning),
                logprobs.get(answer.choice),
                answer.finish,
            )
            for answer in answers
        ],
        usage_out(usage_of(events)),
        AgentReport(head.mode, head.run_id, answers[0].finish),
    )


def _logprobs(events: Sequence[AnyEvent]) -> dict[int, Logprobs]:
    items: dict[int, list[TokenLogprob]] = {}
    for event in events:
        if isinstance(event, TextDelta) and event.logprobs:
            items.setdefault(event.choice, []).extend(event.logprobs)
    return {choice: Logprobs(content) for choice, content in items.items()}


def _thoughts(events: Sequence[AnyEvent]) -> dict[int, list[str]]:
    thoughts: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ThoughtDelta) or (isinstance(event, TextDelta) and event.aside):
            thoughts.setdefault(event.choice, []).append(event.text)
    return thoughts


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
