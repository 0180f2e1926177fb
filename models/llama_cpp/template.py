"""Messages → prompt, by the chat template in the model's file."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.backend import InvalidRequest, ModelRequest, ToolSpec, Unsupported
from models.llama_cpp.vocabulary import Vocabulary
from models.messages import Message, ToolCall

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"""

_BREAK = "\ufdd0"
"""A noncharacter: Unicode reserves it for use inside a program."""


_TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template may raise: it is a program."""


class ChatTemplate:
    """The template of a loaded model. It came with the file and is not trusted: it runs in Jinja's sandbox."""

    def __init__(self, metadata: Mapping[str, str], vocabulary: Vocabulary) -> None:
        self.text = metadata.get("tokenizer.chat_template") or _CHATML
        self._with_tools = metadata.get("tokenizer.chat_template.tool_use", self.text)
        self._vocabulary = vocabulary
        self._compile = cache(_environment().from_string)
        self._names = {"bos_token": vocabulary.bos_name, "eos_token": vocabulary.eos_name}

    def prompt(self, request: ModelRequest) -> tuple[list[int], str]:
        """The prompt as tokens, and its text."""
        text = self._render(request)
        tokens: list[int] = []
        for part in text.split(_BREAK):
            tokens += self._vocabulary.tokens(part, special=True) if part else []
        first = self._vocabulary.first
        if first is not None and tokens[:1] != [first]:
            tokens.insert(0, first)
        if not tokens:
            raise InvalidRequest("The prompt is empty.", "messages")
        return [tokens], text.replace(_BREAK, "")

    def _render(self, request: ModelRequest) -> str:
        source = self._with_tools if request.tools else self.text
        if request.tools and "tools" not in source:
            raise Unsupported("This model's chat template has no place for tools.", "tools")
        try:
            text = self._fill(self._compile(source), request)
        except _TEMPLATE_FAULTS as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {error}", "messages") from error
        ending = self._defused(request.messages[-1].text)
        return _continued(text, ending) if request.continue_final_message else text

    def _fill(self, template: Template, request: ModelRequest) -> str:
        variables = self._variables(request)
        try:
            return template.render(variables)
        except TypeError:
            # Some templates (DeepSeek's) join the arguments to text: they want them as JSON text.
            return template.render(variables | {"messages": self._messages(request, plain_arguments=True)})

    def _variables(self, request: ModelRequest) -> dict[str, Any]:
        return {
            **self._names,
            **_thinking(request),
            **(request.template_options or {}),
            "messages": self._messages(request, plain_arguments=False),
            "tools": self._defused([_tool(tool) for tool in request.tools]) if request.tools else None,
            "add_generation_prompt": not request.continue_final_message,
        }

    def _messages(self, request: ModelRequest, *, plain_arguments: bool) -> Any:
        return self._defused([_message(message, plain_arguments) for message in request.messages])

    def _defused(self, value: Any) -> Any:
        """The value with a mark inside each name of a control token, so that what people write never becomes one."""
        if isinstance(value, str):
            return _defused(value, self._vocabulary.control_names)
        if isinstance(value, list):
            return [self._defused(item) for item in value]
        if isinstance(value, dict):
            return {self._defused(key): self._defused(item) for key, item in value.items()}
        return value


def _defused(text: str, names: Collection[str]) -> str:
    text = text.replace(_BREAK, "")
    for name in names:
        if name in text:
            text = text.replace(name, name[0] + _BREAK + name[1:])
    return text


def _message(message: Message, plain_arguments: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thought:
        value["reasoning_content"] = message.thought
    if message.tool_calls:
        value["tool_calls"] = [_call(call, plain_arguments) for call in message.tool_calls]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    return value


def _call(call: ToolCall, plain_arguments: bool) -> dict[str, Any]:
    arguments = call.arguments if plain_arguments else _parsed(call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _thinking(request: ModelRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        chosen = {"reasoning_effort": request.reasoning_effort, "enable_thinking": request.reasoning_effort != "none"}
    if request.think is not None:
        chosen["enable_thinking"] = request.think
    return chosen


def _continued(text: str, ending: str) -> str:
    """The prompt up to the end of the last message, without what the template puts behind it."""
    place = text.rfind(ending.strip())
    if place < 0 or not ending.strip():
        raise InvalidRequest(
            "The model's chat template does not show the last message as it is.", "continue_final_message"
        )
    return text[: place + len(ending.strip())]


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
