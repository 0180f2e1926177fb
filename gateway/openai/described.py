"""Requests as the documentation describes them: what a client should send.

`request.py` takes more than that, for clients that exist: numbers such as 1000.0, older messages, missing names.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agents.options import Options
from gateway.openai.request import FileContent, ImageUrl, OllamaOptions, StreamOptions, ToolName

Count = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
FunctionName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextPart(Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """A picture, for models that can see."""

    image_url: ImageUrl
    """`url` is a data: URI with a PNG, JPEG, WebP or GIF picture in base64. Addresses are not fetched."""


class FilePart(Struct, tag_field="type", tag="file"):
    """A file, which goes into the session."""

    file: FileContent
    """`file_id` of an upload, or `filename` and `file_data`: a data: URI or base64."""


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """A refusal from an earlier answer."""

    refusal: str


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions. All of them are merged into one first message."""

    content: str | list[TextPart]
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    """Another name for a system message."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    """What the user says."""

    content: str | list[TextPart | ImagePart | FilePart]
    name: str | None = None


class AskedFunction(Struct):
    """A function, and what it was called with."""

    name: str
    arguments: str
    """A JSON object, as text."""


class AskedCall(Struct):
    """A call that an earlier answer asked for."""

    id: str
    function: AskedFunction
    type: Literal["function"] = "function"


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """An earlier answer. It has content, or tool calls, or both."""

    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[AskedCall] | None = None
    reasoning_content: str | None = None
    """What the model thought; `reasoning` and `thinking` are taken as well."""


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """The result of a tool call."""

    content: str | list[TextPart]
    tool_call_id: str
    """The id of a call in an assistant message before it."""


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(Struct):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of its arguments. Absent: it takes none."""
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    """A tool. The client runs it: the answer asks for the call, the next request brings the result."""

    function: Function


class ChosenFunction(Struct, tag_field="type", tag="function"):
    """The model must call this function."""

    function: ToolName


class AllowedFunctions(Struct):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[ChosenFunction]


class ChosenFunctions(Struct, tag_field="type", tag="allowed_tools"):
    """The model sees only these tools."""

    allowed_tools: AllowedFunctions


class TextForm(Struct, tag_field="type", tag="text"):
    """Free text."""


class ObjectForm(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct):
    """A JSON Schema with a name."""

    name: Annotated[str, Meta(max_length=64)] | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class SchemaForm(Struct, tag_field="type", tag="json_schema"):
    """JSON that the schema allows, and nothing around it."""

    json_schema: NamedSchema


class StructuredOutputs(Struct):
    """One of these, in the way of vLLM."""

    json: dict[str, Any] | None = None
    """A JSON Schema, as in `response_format`."""
    regex: str | None = None
    """A regular expression for the whole answer."""
    choice: list[str] | None = None
    """The answers that there are."""
    grammar: str | None = None
    """A context-free grammar, in the notation of Lark or of llama.cpp (GBNF)."""


class LegacyFunctionName(Struct):
    """A function by its name."""

    name: str


class ChatBody(Struct):
    """What to answer, by which model, and how. Every optional field may be null, which is the same as absent."""

    model: Annotated[str, Meta(min_length=1)]
    """An id of /v1/models, with or without an agent before it: `llama3.2:3b`, `simple/llama3.2:3b`. An agent alone
    (`simple/`) takes the default model."""
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    """The conversation so far."""
    stream: bool | None = None
    """Send the answer as server-sent events, while it is being written."""
    stream_options: StreamOptions | None = None
    """`include_usage`: the last chunk before `[DONE]` tells the tokens spent."""
    max_completion_tokens: Count | None = None
    """Most tokens to generate, thoughts included."""
    max_tokens: Count | None = None
    """An older name for `max_completion_tokens`, which wins where both are given."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """How freely tokens are drawn; 0: always the likeliest. Absent: the model's own default, as for all like it."""
    top_p: Share | None = None
    """Draw from the likeliest tokens that together have this probability."""
    presence_penalty: Penalty | None = None
    """Above 0: less likely to come back to what was said."""
    frequency_penalty: Penalty | None = None
    """Above 0: less likely to repeat the same words."""
    stop: str | list[str] | None = None
    """Texts that end the answer. They are not part of it."""
    seed: int | None = None
    """The same seed, request and backend draw the same tokens, as far as the backend can."""
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    """How many answers to give."""
    logprobs: bool | None = None
    """Tell the log probability of each token."""
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Tell this many likeliest tokens at each position too. Needs `logprobs`."""
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    """Makes tokens likelier or less likely, by their ids."""
    tools: list[FunctionTool] | None = None
    """Functions that the model may ask the client to call."""
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | ChosenFunctions | None = None
    """Whether the model may, must, or must not call a tool, or which."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in an answer."""
    functions: list[Function] | None = None
    """Superseded by `tools`."""
    function_call: Literal["none", "auto"] | LegacyFunctionName | None = None
    """Superseded by `tool_choice`."""
    response_format: TextForm | ObjectForm | SchemaForm | None = None
    """The form of the answer. It is imposed while the answer is written, not asked for."""
    structured_outputs: StructuredOutputs | None = None
    """Other forms of the answer, imposed likewise. Only llama.cpp models, and upstreams that know it."""
    reasoning_effort: Effort | None = None
    """How long the model may think, where it can."""
    modalities: list[Literal["text"]] | None = None
    """Text is all there is."""
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    """Draw from this many likeliest tokens."""
    min_p: Share | None = None
    """Draw from tokens with at least this share of the likeliest one's probability."""
    repeat_penalty: Annotated[float, Meta(ge=0, le=10)] | None = None
    """Above 1: tokens that were used become less likely."""
    num_ctx: Count | None = None
    """Context in tokens, where the operator lets requests choose it."""
    keep_alive: str | int | None = None
    """How long the model stays loaded afterwards: seconds, or a duration such as `5m`; below zero: for ever."""
    think: bool | Effort | None = None
    """Whether the model thinks before it answers, where it can."""
    options: OllamaOptions | None = None
    """Some of the above as Ollama's clients nest them."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    continue_final_message: bool | None = None
    """Continue the last message, an assistant's, instead of answering it."""
    session_id: str | None = None
    """The session that it belongs to, as an alternative to the header `X-Session-Id`; one that is not there is made."""
    metadata: dict[str, Any] | None = None
    """Only `session_id` in it counts, for clients that can set nothing else."""
    agent_type: str | None = None
    """Which agent answers, as an alternative to the prefix of `model` and to the header `X-Agent-Type`."""
    x_agent: Options | None = None
    """Options of the agent; unknown ones are refused."""


class EmbeddingBody(Struct):
    """Which texts to embed, by which model."""

    model: Annotated[str, Meta(min_length=1)]
    """An id of /v1/models."""
    input: Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    """One text or several."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers (default), or little-endian 32-bit floats in base64."""
    dimensions: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """Cut vectors to this length, where the model allows it."""
