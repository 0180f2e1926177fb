"""What an OpenAI-compatible server answers: chunks and completions as deltas."""

from typing import Any, cast, get_args

import msgspec
from msgspec import Struct

from models.backend import ModelInfo, ModelRequest
from models.messages import CallDelta, Delta, FinishReason, TokenLogprob, Usage


class Failure(Struct, frozen=True):
    """An error as upstreams word it."""

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    n_ctx: int | None = None


class FunctionPiece(Struct, frozen=True):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPiece(Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class Piece(Struct, frozen=True):
    """A `delta`, or a whole `message`."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None


class Logprobs(Struct, frozen=True):
    content: tuple[TokenLogprob, ...] | None = None


class Choice(Struct, frozen=True):
    delta: Piece | None = None
    message: Piece | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(Struct, frozen=True):
    cached_tokens: int | None = None


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int | None = None


class ToldUsage(Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def usage(self) -> Usage:
        """The same as a value of ours."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens or 0,
            self.completion_tokens or 0,
            (prompt.cached_tokens or 0) if prompt else 0,
            completion.reasoning_tokens if completion else None,
        )


class Chunk(Struct, frozen=True):
    """A chunk of a stream, a whole completion, or an error in the place of either."""

    choices: list[Choice] | None = None
    usage: ToldUsage | None = None
    error: Failure | str | None = None


class Vector(Struct, frozen=True):
    embedding: list[float]
    index: int = 0


class Embeddings(Struct, frozen=True):
    """The answer of POST /embeddings."""

    data: list[Vector]
    usage: ToldUsage | None = None


class ListedModel(Struct, frozen=True):
    id: str
    created: int | None = None
    owned_by: str | None = None
    max_model_len: int | None = None
    """vLLM's context length."""

    def info(self, backend: str) -> ModelInfo:
        """The same as a value of ours."""
        return ModelInfo(self.id, backend, self.created or 0, self.owned_by or "", context=self.max_model_len)


class Listing(Struct, frozen=True):
    """The answer of GET /models."""

    data: list[ListedModel]


class Refusal(Struct, frozen=True):
    """The body of a failed request: OpenAI's form, FastAPI's `detail`, or old vLLM's bare error."""

    error: Failure | str | None = None
    detail: Any = None
    message: str | None = None


class Reply:
    """The answer to one request, as it builds up from its chunks."""

    def __init__(self, request: ModelRequest) -> None:
        self.finish: FinishReason | None = None
        self._usage: ToldUsage | None = None
        self._calls = Calls(None if request.parallel_tool_calls else 1)

    def add(self, chunk: Chunk) -> Delta | None:
        """What `chunk` adds to the answer; None: nothing to see."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self.finish = _finish(choice.finish_reason)
        piece = choice.delta or choice.message
        if piece is None:
            return None
        text = piece.content or piece.refusal or ""
        thought = piece.reasoning_content or piece.reasoning or ""
        calls = self._calls.add(piece.tool_calls) if piece.tool_calls else ()
        logprobs = (choice.logprobs.content or ()) if choice.logprobs else ()
        if text or thought or calls or logprobs:
            return Delta(text, thought, calls, logprobs)
        return None

    def last(self) -> Delta:
        """The delta that ends the answer."""
        usage = self._usage.usage() if self._usage else None
        return Delta(calls=self._calls.completed(), finish=self._final_finish(), usage=usage)

    def whole(self, completion: Chunk) -> Delta:
        """The whole answer in one piece."""
        delta = self.add(completion) or Delta()
        last = self.last()
        return Delta(delta.text, delta.thought, delta.calls + last.calls, delta.logprobs, last.finish, last.usage)

    def _final_finish(self) -> FinishReason:
        # Some upstreams end an answer of calls with "stop", some an answer without calls with "tool_calls"; either
        # breaks agent loops (openai.md 5, rows 7 and 8).
        if self._calls.any and self.finish in ("stop", None):
            return "tool_calls"
        if self.finish == "tool_calls" and not self._calls.any:
            return "stop"
        return self.finish or "stop"


class Calls:
    """The calls of one answer, told apart although upstreams forget, repeat or reuse their indexes and ids."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._opened: list[OpenedCall] = []

    @property
    def any(self) -> bool:
        """Whether there was a call."""
        return bool(self._opened)

    def add(self, pieces: list[CallPiece]) -> tuple[CallDelta, ...]:
        """The pieces under our own indexes; a call's name is told once."""
        deltas = [self._delta(piece) for piece in pieces]
        return tuple(delta for delta in deltas if delta is not None)

    def completed(self) -> tuple[CallDelta, ...]:
        """The arguments of calls that came without any."""
        empty = [number for number, call in enumerate(self._opened[: self._limit]) if not call.has_arguments]
        return tuple(CallDelta(number, arguments="{}") for number in empty)

    def _delta(self, piece: CallPiece) -> CallDelta | None:
        function = piece.function or FunctionPiece()
        number = self._continued(piece, function.name)
        name = ""
        if number is None:
            name = function.name or ""
            self._opened.append(OpenedCall(piece.index, piece.id, name))
            number = len(self._opened) - 1
        arguments = _arguments(function.arguments)
        if arguments:
            self._opened[number].has_arguments = True
        if (self._limit is not None and number >= self._limit) or not (name or arguments):
            return None
        return CallDelta(number, name, arguments)

    def _continued(self, piece: CallPiece, name: str | None) -> int | None:
        """The number of the call that `piece` goes on with; None: it opens one."""
        for number in range(len(self._opened) - 1, -1, -1):
            if self._opened[number].goes_on_with(piece, name):
                return number
        return None


class OpenedCall:
    """A call that has begun."""

    def __init__(self, index: int | None, id: str | None, name: str) -> None:
        self.index = index
        self.id = id
        self.name = name
        self.has_arguments = False

    def goes_on_with(self, piece: CallPiece, name: str | None) -> bool:
        """Whether `piece` belongs to this call."""
        if piece.id and self.id:
            return piece.id == self.id and piece.index in (None, self.index)
        if piece.index is not None:
            return piece.index == self.index and name in (None, "", self.name)
        return not name


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _finish(reason: str) -> FinishReason:
    if reason in get_args(FinishReason):
        return cast(FinishReason, reason)
    return "tool_calls" if reason == "function_call" else "stop"
