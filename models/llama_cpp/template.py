"""Messages → prompt, by the chat template in the model's file."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from functools import cache, cached_property
from hashlib import sha256
from itertools import combinations
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.backend import InvalidRequest, ModelRequest, ToolSpec, Unsupported
from models.llama_cpp.families import family_of
from models.llama_cpp.vocabulary import Vocabulary
from models.messages import Message, Text, ToolCall

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"""

_BREAK = "\ufdd0"
"""A noncharacter: Unicode reserves it for use inside a program."""
_PICTURE = "\ufdd1"
"""Another one: the place of a picture in a prompt."""

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
        self._family = family_of(self.text)
        self._control_names = frozenset(vocabulary.control_names) | _control_marks(self._family.marks)

    def prompt(self, request: ModelRequest) -> tuple[list[list[int]], str]:
        """The prompt as tokens, in parts between which the pictures of the messages belong, and its text."""
        text = self._render(request)
        parts = [self._tokens(part) for part in text.split(_PICTURE)]
        if len(parts) - 1 != sum(len(message.images) for message in request.messages):
            raise InvalidRequest("The model's chat template does not show each picture once.", "messages")
        first = self._vocabulary.first
        if first is not None and parts[0][:1] != [first]:
            parts[0].insert(0, first)
        if not parts[-1]:
            raise InvalidRequest("The prompt is empty.", "messages")
        return parts, text.replace(_BREAK, "").replace(_PICTURE, "")

    def _tokens(self, text: str) -> list[int]:
        pieces = [self._vocabulary.tokens(piece, special=True) for piece in text.split(_BREAK) if piece]
        return [token for piece in pieces for token in piece]

    def _render(self, request: ModelRequest) -> str:
        source = self._with_tools if request.tools else self.text
        if request.tools and "tools" not in source:
            raise Unsupported("This model's chat template has no place for tools.", "tools")
        try:
            text = self._fill(self._compile(source), request)
        except _TEMPLATE_FAULTS as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {error}", "messages") from error
        if request.continue_final_message:
            return _continued(text, self._defused(request.messages[-1].text))
        ending, opening = self._family.turn
        return text + opening if ending and text.endswith(ending) else text

    def _fill(self, template: Template, request: ModelRequest) -> str:
        """The prompt with the messages as they are, or else in the first shape that the template takes."""
        variables = self._variables(request)
        messages = [self._message(message) for message in request.messages]

        def render(messages: _Messages) -> str:
            return template.render(variables | {"messages": _with_parts(messages) if self._wants_parts else messages})

        try:
            return render(messages)
        except _TEMPLATE_FAULTS:
            for reshaped in _reshaped(messages):
                try:
                    return render(reshaped)
                except _TEMPLATE_FAULTS:
                    continue
            raise

    def _variables(self, request: ModelRequest) -> dict[str, Any]:
        # Without tools there is no variable of that name: some templates go through it without a look.
        tools = {"tools": self._defused([_tool(tool) for tool in request.tools])} if request.tools else {}
        return {
            **self._names,
            **_thinking(request, self._family.efforts),
            **(request.template_options or {}),
            **tools,
            "add_generation_prompt": not request.continue_final_message,
        }

    def _message(self, message: Message) -> dict[str, Any]:
        defused: dict[str, Any] = self._defused(_message(message))
        return defused | {"content": self._content(message)}

    def _content(self, message: Message) -> str:
        """The text of a message with marks for its pictures."""
        if isinstance(message.content, str):
            return cast(str, self._defused(message.content))
        parts = [self._defused(part.text) if isinstance(part, Text) else _PICTURE for part in message.content]
        return "\n".join(parts).replace(f"{_PICTURE}\n", _PICTURE).replace(f"\n{_PICTURE}", _PICTURE)

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template shows nothing of content that is a text and no list of parts (SmolVLM's)."""
        messages = [{"role": "user", "content": "needle"}]
        return not self._shows_needle(messages) and self._shows_needle(_with_parts(messages))

    def _shows_needle(self, messages: "_Messages") -> bool:
        try:
            return "needle" in self._compile(self.text).render({**self._names, "messages": messages})
        except _TEMPLATE_FAULTS:
            return False

    def _defused(self, value: Any) -> Any:
        """The value with a mark inside each name of a control token, so that what people write never becomes one."""
        if isinstance(value, str):
            return _defused(value, self._control_names)
        if isinstance(value, list):
            return [self._defused(item) for item in value]
        if isinstance(value, dict):
            return {self._defused(key): self._defused(item) for key, item in value.items()}
        return value


def _defused(text: str, names: Collection[str]) -> str:
    text = text.replace(_BREAK, "").replace(_PICTURE, "")
    for name in names:
        if name in text:
            text = text.replace(name, name[0] + _BREAK + name[1:])
    return text


def _control_marks(marks: Collection[str]) -> frozenset[str]:
    """The tags that are control tokens by their names, also where llama.cpp has them as text, as those of gpt-oss."""
    named = (mark for mark in marks if mark.startswith("<|") or mark.endswith("|>"))
    return frozenset(mark for mark in named if mark[0] == "<" and mark.find(">") == len(mark) - 1)


_Messages = list[dict[str, Any]]


def _with_parts(messages: _Messages) -> _Messages:
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _reshaped(messages: _Messages) -> Iterator[_Messages]:
    """The messages with as few changes as possible, then with more. Templates differ in what they refuse."""
    changes = [change for change in _CHANGES if change(messages) != messages]
    for count in range(1, len(changes) + 1):
        for chosen in combinations(changes, count):
            changed = messages
            for change in chosen:
                changed = change(changed)
            yield changed


def _with_system_in_user_message(messages: _Messages) -> _Messages:
    """For templates without a system role (Gemma 2, the first Mistral)."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    return [messages[1] | {"content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}, *messages[2:]]


def _with_neighbours_joined(messages: _Messages) -> _Messages:
    """For templates that demand that user and assistant take turns."""
    joined: _Messages = []
    for message in messages:
        last = joined[-1] if joined else {}
        if message["role"] == last.get("role") == "user" or (
            message["role"] == last.get("role") == "assistant" and "tool_calls" not in last
        ):
            joined[-1] = last | message | {"content": f"{last['content']}\n\n{message['content']}".strip()}
        else:
            joined.append(message)
    return joined


def _with_single_calls(messages: _Messages) -> _Messages:
    """For templates that take one call at a time (Llama 3): each call with its result, one after another."""
    results = {message["tool_call_id"]: message for message in messages if "tool_call_id" in message}
    split: _Messages = []
    moved: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            split += [message] if message.get("tool_call_id") not in moved else []
            continue
        for call in calls:
            content = message["content"] if call is calls[0] else ""
            split.append(message | {"tool_calls": [call], "content": content})
            split += [results[call["id"]]] if call["id"] in results else []
            moved.add(call["id"])
    return split


def _with_short_ids(messages: _Messages) -> _Messages:
    """For templates that demand ids of nine letters and digits (Mistral)."""

    def short(value: str) -> str:
        return sha256(value.encode()).hexdigest()[:9]

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        calls = {"tool_calls": [call | {"id": short(call["id"])} for call in message.get("tool_calls", ())]}
        answered = {"tool_call_id": short(message.get("tool_call_id", ""))}
        return message | (calls if "tool_calls" in message else {}) | (answered if "tool_call_id" in message else {})

    return [changed(message) for message in messages]


def _with_arguments_as_text(messages: _Messages) -> _Messages:
    """For templates that join the arguments to text (DeepSeek's)."""

    def changed(call: dict[str, Any]) -> dict[str, Any]:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return call | {"function": call["function"] | {"arguments": text}}

    return [
        message | {"tool_calls": [changed(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _without_text_beside_thoughts(messages: _Messages) -> _Messages:
    """For templates that take a thought or a text with a tool call, but not both (gpt-oss)."""
    return [
        message | {"content": ""} if message.get("thinking") and "tool_calls" in message else message
        for message in messages
    ]


_CHANGES: tuple[Callable[[_Messages], _Messages], ...] = (
    _with_arguments_as_text,
    _with_single_calls,
    _with_short_ids,
    _without_text_beside_thoughts,
    _with_system_in_user_message,
    _with_neighbours_joined,
)


def _message(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thought:
        value |= {"reasoning_content": message.thought, "thinking": message.thought}
    if message.tool_calls:
        value["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    return value


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _parsed(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _thinking(request: ModelRequest, efforts: Mapping[str, str]) -> dict[str, Any]:
    """The variables that templates have for it: `thinking` is what DeepSeek and Granite 3 call it."""
    effort = request.reasoning_effort
    think = request.think if request.think is not None or effort is None else effort != "none"
    chosen: dict[str, Any] = {} if think is None else {"enable_thinking": think, "thinking": think}
    return chosen if effort is None else {"reasoning_effort": efforts.get(effort, effort), **chosen}


def _continued(text: str, ending: str) -> str:
    """The prompt up to the end of the last message, without what the template puts behind it."""
    place = text.rfind(ending.strip())
    if place < 0 or not ending.strip():
        raise InvalidRequest(
            "The model's chat template does not show the last message as it is.", "continue_final_message"
        )
    return text[: place + len(ending.strip())]


class _Generation(Extension):
    """`{% generation %}`, by which templates mark what the assistant says for training: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters |= {"tojson": _tojson, "from_json": json.loads}
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which no model was trained on.
    plain = list(value) if isinstance(value, Iterator) else value
    return json.dumps(plain, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
