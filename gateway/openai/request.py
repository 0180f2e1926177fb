"""A chat request as clients send it, and its translation into a ModelRequest.

Anything that would change what the answer is gets honoured or refused by name; hints and unknown fields are ignored.
Every optional field may be null, which is the same as absent.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from agents.options import Options
from agents.turn import new_call_id
from gateway.errors import ApiError, bad_request, missing
from models.backend import JsonOutput, ModelRequest, NamedTool, Sampling, TextOutput, ToolChoice, ToolSpec
from models.duration import seconds
from models.messages import Image, Message, Part, Text, ToolCall

LONGEST_FORM = 64 * 1024
"""Characters of a regular expression, of all choices, or of a grammar."""

Number = int | float
"""PHP and Lua clients send 1000.0 where an integer is meant."""


class FunctionCallIn(Struct, frozen=True):
    """The function of a tool call in a message."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCallIn(Struct, frozen=True):
    """A tool call in a message."""

    function: FunctionCallIn
    id: str | None = None
    type: str | None = None


class ImageUrl(Struct, frozen=True):
    """A picture by its address."""

    url: str
    detail: str | None = None


class FileContent(Struct, frozen=True):
    """A file: one that was uploaded, or its bytes as a data: URI or base64."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class ContentPart(Struct, frozen=True):
    """A part of a message's content. `type` decides which other field counts."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: FileContent | None = None


class MessageIn(Struct, frozen=True):
    """A message as clients send it."""

    role: str
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCallIn | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class FunctionIn(Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(Struct, frozen=True):
    """A tool that the model may call."""

    type: str
    function: FunctionIn | None = None


class ToolName(Struct, frozen=True):
    """A function by its name."""

    name: str


class AllowedTool(Struct, frozen=True):
    """One of the tools that `allowed_tools` leaves over."""

    type: str = "function"
    function: ToolName | None = None


class AllowedTools(Struct, frozen=True):
    """A choice among some of the tools only."""

    mode: str
    tools: list[AllowedTool]


class ToolChoiceIn(Struct, frozen=True):
    """A choice of tool in its object form."""

    type: str
    function: ToolName | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchemaIn(Struct, frozen=True):
    """The schema of `response_format`. OpenAI requires `name`; the `llm` tool leaves it out."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, frozen=True):
    """The form that the answer must have."""

    type: str
    json_schema: JsonSchemaIn | None = None


class StructuredOutputs(Struct, frozen=True):
    """The form of the answer as vLLM takes it: one of these."""

    json: dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class StreamOptions(Struct, frozen=True):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class OllamaOptions(Struct, frozen=True):
    """Ollama's `options`, as Open WebUI passes them on."""

    top_k: Number | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    num_ctx: Number | None = None


class ChatRequest(Struct, frozen=True):
    """The body of POST /v1/chat/completions."""

    model: str | None = None
    messages: list[MessageIn] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Number | None = None
    max_tokens: Number | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: Number | None = None
    n: Number | None = None
    logprobs: bool | None = None
    top_logprobs: Number | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: str | ToolChoiceIn | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionIn] | None = None
    function_call: str | ToolName | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    top_k: Number | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    num_ctx: Number | None = None
    keep_alive: str | Number | None = None
    think: bool | str | None = None
    options: OllamaOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    session_id: str | None = None
    metadata: dict[str, Any] | None = None
    agent_type: str | None = None
    x_agent: Options | None = None


def to_model_request(body: ChatRequest, model: str) -> ModelRequest:
    """The call of `model` that a request asks for. `n`, the agent and the check of a schema are the route's matter.

    Raises:
        ApiError: 400 that names the field.
    """
    if body.modalities and "audio" in body.modalities:
        raise bad_request("Audio output is not supported.", "modalities", "unsupported_value")
    tools, choice = _tools(body)
    options = body.options or OllamaOptions()
    effort, think = _thinking(body)
    return ModelRequest(
        model=model,
        messages=to_messages(body.messages or []),
        sampling=_sampling(body, options),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        output=_output(body.response_format) or _json_output(body),
        text_output=_text_output(body),
        reasoning_effort=effort,
        think=think,
        keep_alive=_keep_alive(body.keep_alive),
        num_ctx=_integer("num_ctx", _first(body.num_ctx, options.num_ctx), 1, 2**31 - 1),
        template_options=body.chat_template_kwargs,
        continue_final_message=bool(body.continue_final_message),
        stream=bool(body.stream),
    )


# --- messages ---------------------------------------------------------------------------------------------------------


def to_messages(messages: Sequence[MessageIn]) -> tuple[Message, ...]:
    """The conversation, all system and developer texts merged into one first message.

    Templates of Qwen, Mistral and others raise on a second system message or one that is not first.
    """
    if not messages:
        raise bad_request("Invalid 'messages': empty array. Expected at least one message.", "messages")
    system: list[str] = []
    turns: list[Message] = []
    call_names: dict[str, str] = {}
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        match message.role:
            case "system" | "developer":
                system.append(_text(message.content, path))
            case "user":
                turns.append(Message("user", _content(message.content, path), name=message.name or ""))
            case "assistant":
                turns.append(turn := _assistant(message, path))
                call_names.update((call.id, call.name) for call in turn.tool_calls)
            case "tool" | "function":
                turns.append(_tool_result(message, path, call_names))
            case role:
                known = "'system', 'developer', 'user', 'assistant', 'tool' and 'function'"
                raise bad_request(f"Invalid value: '{role[:40]}'. Supported values are: {known}.", f"{path}.role")
    if system:
        turns.insert(0, Message("system", "\n\n".join(system)))
    return tuple(turns)


def _assistant(message: MessageIn, path: str) -> Message:
    calls = message.tool_calls or []
    if not calls and message.function_call is not None:
        calls = [ToolCallIn(message.function_call)]
    thought = message.reasoning_content or message.reasoning or message.thinking or ""
    if message.content is None and not (calls or thought or message.refusal or message.audio):
        raise bad_request("An assistant message needs content or tool_calls.", f"{path}.content")
    return Message(
        "assistant",
        _text(message.content, path) or message.refusal or "",
        thought=thought,
        tool_calls=tuple(_call(call) for call in calls),
        name=message.name or "",
    )


def _call(call: ToolCallIn) -> ToolCall:
    arguments = call.function.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(call.id or new_call_id(), call.function.name, arguments or "{}")


def _tool_result(message: MessageIn, path: str, call_names: dict[str, str]) -> Message:
    call_id = message.tool_call_id
    if message.role == "function":
        call_id = next((key for key, name in reversed(call_names.items()) if name == message.name), None)
        if call_id is None:
            text = "must be the name of a function called in an assistant message before it."
            raise bad_request(f"Invalid value for '{path}.name': {text}", f"{path}.name")
    if not call_id:
        raise missing(f"{path}.tool_call_id")
    if call_id not in call_names:
        text = "'tool_call_id' must be the id of a tool call in an assistant message before it."
        raise bad_request(f"Invalid value for '{path}.tool_call_id': {text}", f"{path}.tool_call_id")
    return Message("tool", _text(message.content, path), tool_call_id=call_id, name=call_names[call_id])


def _text(content: str | list[ContentPart] | None, path: str) -> str:
    """Content of a message that cannot hold pictures."""
    parts = _content(content, path)
    if isinstance(parts, str):
        return parts
    raise bad_request("Pictures are taken in user messages only.", f"{path}.content", "unsupported_value")


def _content(content: str | list[ContentPart] | None, path: str) -> str | tuple[Part, ...]:
    """Content as one text where it has no pictures, else as parts in their order."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{path}.content[{i}]") for i, part in enumerate(content)]
    if any(isinstance(part, Image) for part in parts):
        return tuple(parts)
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def _part(part: ContentPart, path: str) -> Part:
    match part.type:
        case "text" | "refusal" | "input_text" | "output_text":
            text = part.text if part.text is not None else part.refusal
            if text is None:
                raise missing(f"{path}.text")
            return Text(text)
        case "image_url":
            return _image(part.image_url, f"{path}.image_url")
        case "file":
            return _file(part.file, f"{path}.file")
        case kind:
            known = "'text', 'refusal', 'image_url' and 'file'"
            raise bad_request(
                f"Content of type '{kind[:40]}' is not supported; supported are {known}.",
                f"{path}.type",
                "unsupported_content",
            )


_DATA_URI = re.compile(r"data:(image/(?:png|jpe?g|webp|gif));base64,", re.IGNORECASE)


def _image(source: ImageUrl | str | None, path: str) -> Image:
    if source is None:
        raise missing(path)
    url, detail = (source, None) if isinstance(source, str) else (source.url, source.detail)
    if (prefix := _DATA_URI.match(url)) is None:
        # Fetching an address for a caller would let him reach the server's own network.
        text = "must be a data: URI with a PNG, JPEG, WebP or GIF picture in base64; addresses are not fetched."
        raise bad_request(f"Invalid value for '{path}': {text}", path)
    data = url[prefix.end() :]
    if not _is_base64(data):
        raise bad_request(f"Invalid value for '{path}': the picture is not valid base64.", path)
    return Image(data, prefix[1].lower().replace("jpg", "jpeg"), detail or "auto")


def _file(file: FileContent | None, path: str) -> Text:
    """A file by its name. What it holds goes into a session, where there is one."""
    if file is None:
        raise missing(path)
    if not (file.file_id or file.file_data):
        raise missing(f"{path}.file_id")
    return Text(f"[File: {(file.filename or file.file_id or 'file')[:200]}]")


def _is_base64(data: str) -> bool:
    """Whether these are bytes in base64, at least one."""
    try:
        return bool(b64decode(data, validate=True))
    except ValueError:
        return False


# --- tools ------------------------------------------------------------------------------------------------------------

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _tools(body: ChatRequest) -> tuple[tuple[ToolSpec, ...], ToolChoice]:
    """The tools that the model is told of, and whether it must use one. Choice "none" tells it of none."""
    tools, choice = body.tools, body.tool_choice
    if not tools and body.functions:
        tools = [ToolIn("function", function) for function in body.functions]
        legacy = body.function_call
        choice = ToolChoiceIn("function", legacy) if isinstance(legacy, ToolName) else legacy
    specs = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or [])]
    match choice:
        case None | "auto":
            return tuple(specs), "auto"
        case "none":
            return (), "auto"
        case "required":
            return _required(specs), "required"
        case ToolChoiceIn(type="function", function=ToolName(name)):
            _known(name, specs)
            return tuple(specs), NamedTool(name)
        case ToolChoiceIn(type="allowed_tools", allowed_tools=AllowedTools(mode, allowed)):
            names = {tool.function.name for tool in allowed if tool.function is not None}
            for name in names:
                _known(name, specs)
            if mode not in ("auto", "required"):
                raise bad_request("'mode' must be 'auto' or 'required'.", "tool_choice.allowed_tools.mode")
            left = [spec for spec in specs if spec.name in names]
            return (_required(left), "required") if mode == "required" else (tuple(left), "auto")
    text = "must be 'none', 'auto', 'required', or an object that names a function of 'tools'."
    raise bad_request(f"Invalid value for 'tool_choice': {text}", "tool_choice")


def _tool(tool: ToolIn, path: str) -> ToolSpec:
    if tool.type != "function":
        raise bad_request(
            f"Tools of type '{tool.type[:40]}' are not supported; use 'function'.", f"{path}.type", "unsupported_value"
        )
    if (function := tool.function) is None:
        raise missing(f"{path}.function")
    if not _TOOL_NAME.fullmatch(function.name):
        text = "must be 1 to 64 letters, digits, underscores and hyphens."
        raise bad_request(f"Invalid value for '{path}.function.name': {text}", f"{path}.function.name")
    return ToolSpec(function.name, function.description or "", function.parameters, bool(function.strict))


def _required(specs: list[ToolSpec]) -> tuple[ToolSpec, ...]:
    if not specs:
        raise bad_request("'tool_choice' requires a tool, but 'tools' has none.", "tool_choice")
    return tuple(specs)


def _known(name: str, specs: list[ToolSpec]) -> None:
    if all(spec.name != name for spec in specs):
        raise bad_request(f"'tool_choice' names '{name[:64]}', which is not in 'tools'.", "tool_choice")


# --- the rest ---------------------------------------------------------------------------------------------------------


def _sampling(body: ChatRequest, options: OllamaOptions) -> Sampling:
    # OpenAI's own SDK tests send 0 for "unset".
    cap_name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    cap = _integer(cap_name, body.max_completion_tokens or body.max_tokens or None, 0, 2**31 - 1)
    top_logprobs = _integer("top_logprobs", body.top_logprobs, 0, 20) or 0
    if top_logprobs and not body.logprobs:
        raise bad_request("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    return Sampling(
        temperature=_decimal("temperature", body.temperature, 0, 2),
        top_p=_decimal("top_p", body.top_p, 0, 1),
        top_k=_integer("top_k", _first(body.top_k, options.top_k), -1, 2**31 - 1),
        min_p=_decimal("min_p", _first(body.min_p, options.min_p), 0, 1),
        presence_penalty=_decimal("presence_penalty", body.presence_penalty, -2, 2),
        frequency_penalty=_decimal("frequency_penalty", body.frequency_penalty, -2, 2),
        repeat_penalty=_decimal("repeat_penalty", _first(body.repeat_penalty, options.repeat_penalty), 0, 10),
        seed=_integer("seed", body.seed, -(2**63), 2**64 - 1),
        stop=_stop(body.stop),
        max_tokens=cap,
        logit_bias=_logit_bias(body.logit_bias),
        logprobs=bool(body.logprobs),
        top_logprobs=top_logprobs,
    )


def choices(body: ChatRequest) -> int:
    """How many answers are wanted (`n`)."""
    return _integer("n", body.n, 1, 128) or 1


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text)


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise bad_request("The keys of 'logit_bias' must be token ids.", "logit_bias")
        _decimal("logit_bias", value, -100, 100)
    return {int(token): value for token, value in bias.items()}


def _output(form: ResponseFormat | None) -> JsonOutput | None:
    match form:
        case None | ResponseFormat(type="text"):
            return None
        case ResponseFormat(type="json_object"):
            return JsonOutput()
        case ResponseFormat(type="json_schema", json_schema=JsonSchemaIn() as given):
            if given.schema is None:
                return JsonOutput(name=given.name or "answer")
            return JsonOutput(given.schema, given.name or "answer", given.description or "", given.strict is not False)
        case ResponseFormat(type="json_schema"):
            raise missing("response_format.json_schema", "response_format")
    raise bad_request(
        "'response_format.type' must be 'text', 'json_object' or 'json_schema'.", "response_format", "invalid_value"
    )


def _json_output(body: ChatRequest) -> JsonOutput | None:
    schema = body.structured_outputs.json if body.structured_outputs else None
    return None if schema is None else JsonOutput(schema)


def _text_output(body: ChatRequest) -> TextOutput | None:
    given, field = body.structured_outputs, "structured_outputs"
    if given is None:
        return None
    forms = [form for form in (given.json, given.regex, given.choice, given.grammar) if form is not None]
    if len(forms) != 1 or not (forms[0] or given.json is not None):
        raise bad_request(f"'{field}' needs one of 'json', 'regex', 'choice' and 'grammar'.", field)
    if _output(body.response_format):
        raise bad_request(f"'{field}' cannot be used with 'response_format'.", field)
    if given.json is not None:
        return None
    if sum(map(len, given.choice or [given.regex or given.grammar or ""])) > LONGEST_FORM:
        raise bad_request(f"'{field}' may have {LONGEST_FORM} characters.", field)
    return TextOutput(given.regex or "", tuple(given.choice or ()), given.grammar or "")


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_EFFORTS: dict[str, Effort] = {effort: effort for effort in get_args(Effort)}


def _thinking(body: ChatRequest) -> tuple[Effort | None, bool | None]:
    """`reasoning_effort` and `think`; Ollama's `think` may be an effort too."""
    name, given = "reasoning_effort", body.reasoning_effort
    if isinstance(body.think, str):
        name, given = "think", body.think
    think = body.think if isinstance(body.think, bool) else None
    if given is None:
        return None, think
    if given not in _EFFORTS:
        raise bad_request(f"Invalid value for '{name}': supported are {', '.join(_EFFORTS)}.", name)
    return _EFFORTS[given], think


def _keep_alive(value: str | Number | None) -> str | int | None:
    if not isinstance(value, str):
        return _integer("keep_alive", value, -1, 2**31 - 1)
    try:
        seconds(value)
    except ValueError as error:
        raise bad_request(f"'keep_alive' {error}.", "keep_alive") from None
    return value


N = TypeVar("N", int, float)


def _first(*values: N | None) -> N | None:
    return next((value for value in values if value is not None), None)


def _integer(name: str, value: Number | None, low: int, high: int) -> int | None:
    if value is None:
        return None
    if value != int(value):
        raise bad_request(f"Invalid type for '{name}': expected an integer, but got a decimal.", name, "invalid_type")
    if value < low:
        raise _out_of_range("integer_below_min_value", name, f">= {low}", value)
    if value > high:
        raise _out_of_range("integer_above_max_value", name, f"<= {high}", value)
    return int(value)


def _decimal(name: str, value: float | None, low: float, high: float) -> float | None:
    if value is None:
        return None
    if value < low:
        raise _out_of_range("decimal_below_min_value", name, f">= {low:g}", value)
    if value > high:
        raise _out_of_range("decimal_above_max_value", name, f"<= {high:g}", value)
    return value


def _out_of_range(code: str, name: str, bound: str, value: Number) -> ApiError:
    text = f"{code.split('_')[1]} {code.split('_')[2]} value"
    shown = f"{value:g}" if isinstance(value, float) else str(value)[:24]
    return bad_request(
        f"Invalid '{name}': {code.split('_')[0]} {text}. Expected a value {bound}, but got {shown}.", name, code
    )


def new_messages(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages since the last answer, pictures replaced by a note: what a run keeps of its question."""
    start = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
    for message in messages[start + 1 :]:
        if isinstance(message.content, str):
            yield message
        else:
            yield msgspec.structs.replace(message, content=tuple(map(_noted, message.content)))


def _noted(part: Part) -> Part:
    if isinstance(part, Image):
        return Text(f"[picture: {part.media_type}, {len(part.data) * 3 // 4} bytes]")
    return part
