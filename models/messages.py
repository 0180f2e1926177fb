"""The values in which Drover speaks with language models: messages, tool calls, deltas, usage. No I/O."""

from typing import Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
"""The only four values that OpenAI clients accept (pydantic-ai rejects any other)."""


class Text(Struct, frozen=True, tag="text"):
    """A piece of text in a message."""

    text: str


class Image(Struct, frozen=True, tag="image"):
    """A picture in a message."""

    data: str
    """The file's bytes in base64, without a `data:` prefix."""
    media_type: str
    """`image/png`, `image/jpeg`, `image/webp` or `image/gif`."""
    detail: str = "auto"


Part = Text | Image


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """A call that a model wants made."""

    id: str
    name: str
    arguments: str = "{}"
    """A JSON object as text. Models do write invalid JSON: whoever runs the call checks it."""


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Role
    content: str | tuple[Part, ...] = ""
    thought: str = ""
    """What the model thought before it answered; only on assistant messages."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """On a tool message: the call that it answers."""
    name: str = ""
    """On a user message its speaker, on a tool message the tool."""

    @property
    def text(self) -> str:
        """The text parts, joined by line breaks."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, Image))


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens spent, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Everything generated: thought, answer and tool calls."""
    cached_tokens: int = 0
    """The share of `prompt_tokens` that was not computed again."""
    reasoning_tokens: int | None = None
    """The share of `completion_tokens` that was thought; None where the backend does not say."""

    def __add__(self, other: "Usage") -> "Usage":
        reasoning = (
            None
            if self.reasoning_tokens is None and other.reasoning_tokens is None
            else (self.reasoning_tokens or 0) + (other.reasoning_tokens or 0)
        )
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            reasoning,
        )


class TopLogprob(Struct, frozen=True):
    """A token that could have stood at a position, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(Struct, frozen=True):
    """A generated token, the logarithm of its probability, and its closest rivals."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


class CallDelta(Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call. `index` counts an answer's calls from 0; `name` comes once, with the first piece."""

    index: int
    name: str = ""
    arguments: str = ""
    """The next piece of the arguments' JSON text."""


class Delta(Struct, frozen=True, omit_defaults=True):
    """The next piece of a model's answer. The last one carries `finish`; usage comes with it or just before."""

    text: str = ""
    thought: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
