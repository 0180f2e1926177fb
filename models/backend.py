"""The Backend protocol: what every source of language models offers, what it is asked, and how it fails.

ModelError
├── ModelNotFound        no such model here
├── InvalidRequest       the request cannot be served as asked: names the parameter
│   ├── Unsupported      this backend or model cannot do what a parameter asks
│   └── ContextTooLong   the prompt does not fit
├── Busy                 try again later: queue full, rate limited
├── Unavailable          the backend does not answer, or is still starting
├── BackendTimeout       it took too long
└── BackendFailed        it answered with an error or with nonsense, or died on the way
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from models.messages import Delta, Message, Usage


class ToolSpec(Struct, frozen=True, omit_defaults=True):
    """A tool as a model is told of it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments object; None: takes none."""
    strict: bool = False


class NamedTool(Struct, frozen=True, tag="named"):
    """The choice of one tool by its name."""

    name: str


ToolChoice = Literal["auto", "required"] | NamedTool
"""Whether the model may, must, or must with this one tool answer by a call; for "none" no tools are sent."""


class JsonOutput(Struct, frozen=True, tag="json"):
    """The answer must be JSON; with a schema, JSON that it allows."""

    schema: dict[str, Any] | None = None
    """JSON Schema; None: any JSON object."""
    name: str = "answer"
    description: str = ""
    strict: bool = True


class TextOutput(Struct, frozen=True, omit_defaults=True):
    """The answer must be a text of a form: one of these three."""

    regex: str = ""
    """A regular expression for the whole answer, without look-around and back-references."""
    choice: tuple[str, ...] = ()
    """The answers that there are."""
    grammar: str = ""
    """A context-free grammar, in the notation of Lark or of llama.cpp (GBNF)."""


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How tokens are drawn. None leaves a choice to the model's own defaults."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    """Cap of everything generated, thought included."""
    logit_bias: dict[int, float] | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class ModelRequest(Struct, frozen=True, omit_defaults=True):
    """One call of a model, checked and complete."""

    model: str
    """The id as the backend lists it."""
    messages: tuple[Message, ...]
    """At most one system message, and that one first."""
    sampling: Sampling = Sampling()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    output: JsonOutput | None = None
    """None: free text."""
    text_output: TextOutput | None = None
    """Beside it there is no `output`."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    think: bool | None = None
    keep_alive: str | int | None = None
    """How long the backend keeps the model loaded afterwards: seconds or such as "5m"; below zero: for ever."""
    num_ctx: int | None = None
    template_options: dict[str, Any] | None = None
    """`chat_template_kwargs` of the request: variables for the model's own template."""
    continue_final_message: bool = False
    """The last message is an assistant's that the model is to continue."""
    stream: bool = True
    """False: the caller reads only the whole; a backend may then answer in one piece."""


Capability = Literal["chat", "embed", "tools", "vision", "thinking"]


class ModelInfo(Struct, frozen=True, omit_defaults=True):
    """A model that a backend has."""

    id: str
    backend: str
    created: int = 0
    """Unix time in seconds; 0 where nobody knows."""
    owned_by: str = ""
    capabilities: frozenset[Capability] | None = None
    """None where the backend does not say: then a request is passed on, and the backend decides."""
    context: int | None = None
    """Tokens that fit into prompt and answer together."""
    loaded: bool | None = None


class Embedded(Struct, frozen=True):
    """Vectors in the order of the inputs."""

    vectors: list[list[float]]
    usage: Usage


class Health(Struct, frozen=True):
    """Whether a backend answers, and if not, why and what to do about it."""

    ok: bool
    detail: str
    """One line: version and models, or what went wrong. Never a credential."""
    hint: str = ""
    """What a person can do to mend it."""


class Backend(Protocol):
    """A source of language models. Its methods raise `ModelError` and nothing else of their own."""

    name: str

    async def models(self) -> list[ModelInfo]:
        """The models that can be called now."""
        ...

    def chat(self, request: ModelRequest) -> AsyncIterator[Delta]:
        """One answer, piece by piece. Closing the iterator stops the work at the source."""
        ...

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """One vector for each input, cut to `dimensions` where the backend can."""
        ...

    async def check(self) -> Health:
        """Asks the backend whether it can work. Never raises."""
        ...

    async def close(self) -> None:
        """Gives back connections and processes. No call may be under way."""
        ...

    def status(self) -> Mapping[str, Any]:
        """What the backend is doing, for /health/status: JSON values, no secrets, no waiting.

        What is known of single models stands by their ids under `models`. Its numbers are measured, too.
        """
        ...


class ModelError(Exception):
    """The root of all errors that a backend raises. Its text is fit to show to the caller."""

    param: str | None = None
    code: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ModelNotFound(ModelError):
    """No such model."""

    param, code = "model", "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model}` does not exist or you do not have access to it.")
        self.model = model


class InvalidRequest(ModelError):
    """The request as asked cannot be served; `param` names the field of the OpenAI request."""

    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or type(self).code


class Unsupported(InvalidRequest):
    """The model or its backend cannot do what a parameter asks."""

    code = "unsupported_parameter"


class ContextTooLong(InvalidRequest):
    """The prompt does not fit into the model's context."""

    def __init__(self, limit: int | None, detail: str = "") -> None:
        # LiteLLM looks for this very sentence, LangChain for the literal code (openai.md 4.1).
        length = f"maximum context length is {limit} tokens" if limit else "maximum context length is exceeded"
        text = f"This model's {length}. {detail}".strip()
        super().__init__(f"{text} (context_length_exceeded)", "messages", "context_length_exceeded")
        self.limit = limit


class Busy(ModelError):
    """The backend has too much to do."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class Unavailable(ModelError):
    """The backend does not answer now. `code` is `upstream_unavailable` or `model_loading`."""

    code = "upstream_unavailable"

    def __init__(self, message: str, retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class BackendTimeout(ModelError):
    """The backend did not answer in time."""

    code = "upstream_timeout"


class BackendFailed(ModelError):
    """The backend failed on this request."""

    code = "upstream_error"
