"""What Ollama answers: lines of its native API as deltas, its listings as models."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from models.backend import BackendFailed, Capability, ModelInfo, ModelRequest
from models.choice import read_choice
from models.messages import CallDelta, Delta, FinishReason, TokenLogprob, Usage
from models.ollama_request import is_choice


class SaidFunction(Struct, frozen=True):
    name: str = ""
    arguments: Raw = Raw(b"{}")


class SaidCall(Struct, frozen=True):
    function: SaidFunction


class Said(Struct, frozen=True):
    """The `message` of a line."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[SaidCall] | None = None


class Line(Struct, frozen=True):
    """One line of a streamed answer, or the whole of one that is not; an error in the place of either."""

    message: Said | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int = 0
    prompt_eval_cached_count: int = 0
    eval_count: int = 0
    error: str | None = None
    status: int = 500


class Embeddings(Struct, frozen=True):
    """The answer of POST /api/embed."""

    embeddings: list[list[float]]
    prompt_eval_count: int = 0


class Tag(Struct, frozen=True):
    """A model in the answer of GET /api/tags, or of GET /api/ps."""

    name: str
    digest: str = ""
    modified_at: datetime | None = None
    context_length: int | None = None
    """The window that a loaded model was given."""


class Tags(Struct, frozen=True):
    """The answer of GET /api/tags and GET /api/ps."""

    models: list[Tag] | None = None


class Shown(Struct, frozen=True):
    """The answer of POST /api/show."""

    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None
    parameters: str = ""


class Version(Struct, frozen=True):
    """The answer of GET /api/version."""

    version: str


class Refusal(Struct, frozen=True):
    """The body of a failed request."""

    error: str


class EngineFailure(Struct, frozen=True):
    """An error of llama-server, which newer versions of Ollama pass on as JSON within their own."""

    message: str = ""
    type: str = ""
    n_ctx: int | None = None


class EngineRefusal(Struct, frozen=True):
    error: EngineFailure


CAPABILITIES: dict[str, Capability] = {
    "completion": "chat",
    "embedding": "embed",
    "tools": "tools",
    "vision": "vision",
    "thinking": "thinking",
}


class Traits(Struct, frozen=True):
    """What /api/show tells of a model."""

    capabilities: frozenset[Capability] | None = None
    context: int | None = None


def traits(shown: Shown) -> Traits:
    """The traits in the answer of /api/show. Versions before 0.6.4 do not tell capabilities."""
    capabilities = None
    if shown.capabilities is not None:
        capabilities = frozenset(CAPABILITIES[name] for name in shown.capabilities if name in CAPABILITIES)
    return Traits(capabilities, _set_context(shown.parameters) or _trained_context(shown.model_info or {}))


def model_info(tag: Tag, traits: Traits, loaded: Tag | None, backend: str) -> ModelInfo:
    """A listed model as a value of ours."""
    namespace = tag.name.rpartition("/")[0]
    return ModelInfo(
        id=tag.name,
        backend=backend,
        created=int(tag.modified_at.timestamp()) if tag.modified_at else 0,
        owned_by=namespace or "library",
        capabilities=traits.capabilities,
        context=(loaded.context_length if loaded else None) or traits.context,
        loaded=loaded is not None,
    )


def _set_context(parameters: str) -> int | None:
    """`num_ctx` of a Modelfile, whose parameters are lines of a name and a value."""
    for line in parameters.splitlines():
        match line.split():
            case ["num_ctx", value] if value.isdecimal():
                return int(value)
    return None


def _trained_context(info: dict[str, Any]) -> int | None:
    context = info.get(f"{info.get('general.architecture')}.context_length")
    return context if isinstance(context, int) else None


class Reply:
    """The answer to one request, as it builds up from its lines."""

    def __init__(self, request: ModelRequest) -> None:
        self._call_limit = None if request.parallel_tool_calls else 1
        self._choice: list[str] | None = [] if is_choice(request) else None
        self._calls = 0

    def add(self, line: Line) -> Delta | None:
        """What `line` adds to the answer; None: nothing to see."""
        said = line.message or Said()
        calls = self._called(said.tool_calls) if said.tool_calls else ()
        text, thought = said.content or "", said.thinking or ""
        if self._choice is not None:
            self._choice.append(text)
            text = ""
            if line.done:
                text, calls = self._chosen(line, calls)
        if line.done:
            return Delta(text, thought, calls, line.logprobs or (), self._finish(line.done_reason), _usage(line))
        if text or thought or calls or line.logprobs:
            return Delta(text, thought, calls, line.logprobs or ())
        return None

    def _called(self, calls: Sequence[SaidCall]) -> tuple[CallDelta, ...]:
        room = calls if self._call_limit is None else calls[: self._call_limit - self._calls]
        first = self._calls
        self._calls += len(room)
        return tuple(
            CallDelta(number, call.function.name, bytes(call.function.arguments).decode())
            for number, call in enumerate(room, first)
        )

    def _chosen(self, line: Line, calls: tuple[CallDelta, ...]) -> tuple[str, tuple[CallDelta, ...]]:
        """The text and the calls of an answer under `choice_schema`, which Ollama itself may have taken for a call."""
        written = "".join(self._choice or ())
        if self._calls or line.done_reason == "length":
            return "", calls
        try:
            choice = read_choice(written)
        except msgspec.MsgspecError as error:
            raise _no_call() from error
        if choice.name is not None:
            self._calls = 1
            return "", (CallDelta(0, choice.name, bytes(choice.arguments).decode()),)
        if not bytes(choice.answer):
            raise _no_call()
        return bytes(choice.answer).decode(), ()

    def _finish(self, reason: str | None) -> FinishReason:
        if reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"


def _no_call() -> BackendFailed:
    return BackendFailed("The model was to call a tool and wrote something else.")


def _usage(line: Line) -> Usage:
    return Usage(line.prompt_eval_count, line.eval_count, line.prompt_eval_cached_count)
