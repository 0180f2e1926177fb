"""What is asked of Ollama: requests as bodies of its native API."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from models.backend import ModelRequest, Unsupported
from models.choice import choice_schema
from models.messages import Message, ToolCall
from models.openai_request import SentTool, sent_tool

EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


class SentFunction(Struct, frozen=True):
    name: str
    arguments: dict[str, Any]


class SentCall(Struct, frozen=True):
    id: str
    function: SentFunction


class SentMessage(Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    images: list[str] | None = None
    tool_calls: list[SentCall] | None = None
    tool_name: str = ""
    tool_call_id: str = ""


class Options(Struct, frozen=True, omit_defaults=True):
    """What Ollama calls the parameters of a model; what is left out comes from its Modelfile."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_predict: int | None = None
    num_ctx: int | None = None


class ChatBody(Struct, frozen=True, omit_defaults=True):
    """The body of POST /api/chat."""

    model: str
    messages: list[SentMessage]
    options: Options
    stream: bool | None = None
    tools: list[SentTool] | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: str | int | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class EmbedBody(Struct, frozen=True, omit_defaults=True):
    """The body of POST /api/embed."""

    model: str
    input: Sequence[str]
    dimensions: int | None = None


class ShowBody(Struct, frozen=True):
    """The body of POST /api/show."""

    model: str


encode = msgspec.json.Encoder().encode
_read_object = msgspec.json.Decoder(dict[str, Any]).decode


def chat_body(request: ModelRequest, allow_num_ctx: bool) -> ChatBody:
    """The request in Ollama's words."""
    sampling = request.sampling
    if sampling.logit_bias:
        raise Unsupported("Ollama does not support logit_bias.", "logit_bias")
    return ChatBody(
        model=request.model,
        messages=_messages(request.messages),
        stream=request.stream,
        options=_options(request, allow_num_ctx),
        tools=[sent_tool(tool) for tool in request.tools] or None,
        format=_format(request),
        think=_think(request),
        keep_alive=request.keep_alive,
        logprobs=sampling.logprobs,
        top_logprobs=sampling.top_logprobs if sampling.logprobs else 0,
    )


def is_choice(request: ModelRequest) -> bool:
    """Whether `choice_schema` holds the answer: Ollama ignores `tool_choice`, and with `format` calls no tools."""
    return bool(request.tools) and (request.tool_choice != "auto" or request.output is not None)


def _format(request: ModelRequest) -> str | dict[str, Any] | None:
    if request.text_output:
        raise Unsupported("structured_outputs is not supported by Ollama.", "structured_outputs")
    if is_choice(request):
        return choice_schema(request.tools, request.tool_choice, request.output)
    if request.output is None:
        return None
    return "json" if request.output.schema is None else request.output.schema


def _think(request: ModelRequest) -> bool | str | None:
    if request.think is False or request.reasoning_effort is None:
        return request.think
    return EFFORTS[request.reasoning_effort]


def _options(request: ModelRequest, allow_num_ctx: bool) -> Options:
    sampling = request.sampling
    return Options(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repeat_penalty=sampling.repeat_penalty,
        seed=sampling.seed,
        stop=sampling.stop,
        num_predict=sampling.max_tokens,
        num_ctx=request.num_ctx if allow_num_ctx else None,
    )


def _messages(messages: Sequence[Message]) -> list[SentMessage]:
    """The conversation; a tool's result carries the name of the tool instead of its call's id."""
    tools: dict[str, str] = {}
    sent = []
    for message in messages:
        # Ids come again in the histories of some clients: the last call of an id is the one that is answered.
        tools.update((call.id, call.name) for call in message.tool_calls)
        sent.append(_message(message, tools))
    return sent


def _message(message: Message, tools: Mapping[str, str]) -> SentMessage:
    return SentMessage(
        role=message.role,
        content=message.text,
        thinking=message.thought,
        images=[image.data for image in message.images] or None,
        tool_calls=[_call(call) for call in message.tool_calls] or None,
        tool_name=(message.name or tools.get(message.tool_call_id, "")) if message.role == "tool" else "",
        tool_call_id=message.tool_call_id,
    )


def _call(call: ToolCall) -> SentCall:
    return SentCall(call.id, SentFunction(call.name, _arguments(call.arguments)))


def _arguments(text: str) -> dict[str, Any]:
    """Arguments as the object that Ollama wants. What is no object is shown to the model as it was written."""
    try:
        return _read_object(text or "{}")
    except msgspec.MsgspecError:
        return {"_raw": text}
