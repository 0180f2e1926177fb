"""What is asked of an OpenAI-compatible server: requests as bodies."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from models.backend import InvalidRequest, JsonOutput, ModelRequest, NamedTool, TextOutput, ToolChoice, ToolSpec
from models.messages import Image, Message, Text


class Dialect(Struct, frozen=True):
    """What a server understands of OpenAI's API; learnt from its refusals."""

    stream_options: bool = True
    max_tokens: bool = True
    """False: it wants `max_completion_tokens`, as OpenAI's reasoning models do."""

    def corrected(self, refusal: InvalidRequest) -> "Dialect":
        """The dialect that `refusal` asks for; the same if it is about something else."""
        complaint = f"{refusal.param} {refusal.message}"
        if self.stream_options and "stream_options" in complaint:
            return Dialect(False, self.max_tokens)
        if self.max_tokens and "max_tokens" in complaint and "max_completion_tokens" in complaint:
            return Dialect(self.stream_options, False)
        return self


class ImageUrl(Struct, frozen=True, omit_defaults=True):
    url: str
    detail: str = "auto"


class TextPart(Struct, frozen=True, tag="text"):
    text: str


class ImagePart(Struct, frozen=True, tag="image_url"):
    image_url: ImageUrl


class SentFunction(Struct, frozen=True):
    name: str
    arguments: str


class SentCall(Struct, frozen=True):
    id: str
    function: SentFunction
    type: str = "function"


class SentMessage(Struct, frozen=True, omit_defaults=True):
    role: str
    content: str | list[TextPart | ImagePart]
    reasoning_content: str = ""
    tool_calls: list[SentCall] | None = None
    tool_call_id: str = ""
    name: str = ""


class ToolFunction(Struct, frozen=True, omit_defaults=True):
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False


class SentTool(Struct, frozen=True):
    function: ToolFunction
    type: str = "function"


class StreamOptions(Struct, frozen=True):
    include_usage: bool = True


class ChatBody(Struct, frozen=True, omit_defaults=True):
    """The body of POST /chat/completions."""

    model: str
    messages: list[SentMessage]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logit_bias: dict[int, float] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    tools: list[SentTool] | None = None
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    response_format: dict[str, Any] | None = None
    structured_outputs: TextOutput | None = None
    reasoning_effort: str | None = None
    think: bool | None = None
    keep_alive: str | int | None = None
    num_ctx: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class EmbeddingsBody(Struct, frozen=True, omit_defaults=True):
    """The body of POST /embeddings."""

    model: str
    input: Sequence[str]
    encoding_format: str | None = None
    dimensions: int | None = None


encode = msgspec.json.Encoder().encode


def chat_body(request: ModelRequest, dialect: Dialect) -> bytes:
    """The request as `dialect` puts it."""
    sampling = request.sampling
    continued = request.continue_final_message
    return encode(
        ChatBody(
            model=request.model,
            messages=[_message(message) for message in request.messages],
            stream=request.stream,
            stream_options=StreamOptions() if request.stream and dialect.stream_options else None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            # llama-server and LM Studio know the first name, vLLM and SGLang the second; each ignores the other.
            repeat_penalty=sampling.repeat_penalty,
            repetition_penalty=sampling.repeat_penalty,
            seed=sampling.seed,
            stop=sampling.stop,
            max_tokens=sampling.max_tokens if dialect.max_tokens else None,
            max_completion_tokens=None if dialect.max_tokens else sampling.max_tokens,
            logit_bias=sampling.logit_bias,
            logprobs=sampling.logprobs,
            top_logprobs=sampling.top_logprobs if sampling.logprobs else 0,
            tools=[sent_tool(tool) for tool in request.tools] or None,
            tool_choice=_tool_choice(request.tool_choice),
            parallel_tool_calls=request.parallel_tool_calls or not request.tools,
            response_format=_response_format(request.output) if request.output else None,
            structured_outputs=request.text_output,
            reasoning_effort=request.reasoning_effort,
            think=request.think,
            keep_alive=request.keep_alive,
            num_ctx=request.num_ctx,
            chat_template_kwargs=request.template_options,
            add_generation_prompt=not continued,
            continue_final_message=continued,
        )
    )


def _message(message: Message) -> SentMessage:
    content = message.content
    return SentMessage(
        message.role,
        content if isinstance(content, str) else [_part(part) for part in content],
        message.thought,
        [SentCall(call.id, SentFunction(call.name, call.arguments)) for call in message.tool_calls] or None,
        message.tool_call_id,
        message.name,
    )


def _part(part: Text | Image) -> TextPart | ImagePart:
    if isinstance(part, Text):
        return TextPart(part.text)
    return ImagePart(ImageUrl(f"data:{part.media_type};base64,{part.data}", part.detail))


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice


def sent_tool(tool: ToolSpec) -> SentTool:
    """A tool in OpenAI's shape, which Ollama shares."""
    return SentTool(ToolFunction(tool.name, tool.description, tool.parameters, tool.strict))


def _response_format(output: JsonOutput) -> dict[str, Any]:
    if output.schema is None:
        return {"type": "json_object"}
    schema = {"name": output.name, "schema": output.schema, "strict": output.strict}
    if output.description:
        schema["description"] = output.description
    return {"type": "json_schema", "json_schema": schema}
