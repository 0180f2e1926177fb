"""Every parameter of a chat request: honoured, as the backend sees it; refused by name; or ignored."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from agents import AGENTS
from models.backend import JsonOutput, ModelInfo, ModelRequest, NamedTool, Sampling, TextOutput, ToolSpec
from models.messages import Image, Message, Text, ToolCall
from models.scripted import Script, Scripted
from tests.doors import envelope
from tests.live import Live, serving
from tests.wire import CHAT, HELLO, failure

pytestmark = pytest.mark.anyio

HELLO_SEEN = ModelRequest("scripted", (Message("user", "Hello"),), stream=False)
"""What the backend is asked for HELLO: nothing that was not said."""

REPO = "hf.co/org/repo:Q4"
PNG = "iVBORw0KGgo="


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    """A backend that can do all that can be asked for, and has models with odd names."""
    names = ("scripted", REPO, "simple/odd", "simply/odd")
    return Scripted([Script(text="{}")], [ModelInfo(name, "scripted") for name in names])


@pytest.fixture(scope="module")
async def live(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Any, scripted: Scripted
) -> AsyncIterator[Live]:
    """A server on it."""
    async with serving(tmp_path_factory.mktemp("parameters"), empty_database, [scripted]) as server:
        await server.server.parts.catalog.models()
        yield server


@pytest.fixture(scope="module")
async def client(live: Live) -> httpx.AsyncClient:
    """The admin."""
    return await live.http()


@pytest.fixture
def seen(client: httpx.AsyncClient, scripted: Scripted) -> Any:
    """What the backend is asked for a body."""

    async def ask(body: Any, **headers: str) -> ModelRequest:
        asked = len(scripted.asked)
        response = await client.post(CHAT, json=body, headers=headers)
        assert response.status_code == 200, response.text
        assert len(scripted.asked) == asked + 1
        return scripted.asked[-1]

    return ask


def asked(**changes: Any) -> ModelRequest:
    """The request for HELLO with some changes; those of `sampling` by their own names."""
    sampling = {name: changes.pop(name) for name in Sampling.__struct_fields__ if name in changes}
    return msgspec.structs.replace(HELLO_SEEN, sampling=Sampling(**sampling), **changes)


# Sampling

SAMPLING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0}, {"temperature": 0.0}),
    ({"temperature": 2}, {"temperature": 2.0}),
    ({"top_p": 0.9}, {"top_p": 0.9}),
    ({"presence_penalty": -2, "frequency_penalty": 2.0}, {"presence_penalty": -2.0, "frequency_penalty": 2.0}),
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"max_tokens": 1000.0}, {"max_tokens": 1000}),
    ({"max_completion_tokens": 8}, {"max_tokens": 8}),
    ({"max_completion_tokens": 8, "max_tokens": 7}, {"max_tokens": 8}),
    ({"max_completion_tokens": 0}, {}),
    ({"max_tokens": 0}, {}),
    ({"max_completion_tokens": 0, "max_tokens": 7}, {"max_tokens": 7}),
    ({"stop": "END"}, {"stop": ("END",)}),
    ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
    ({"stop": list("abcdef")}, {"stop": tuple("abcdef")}),
    ({"stop": []}, {}),
    ({"stop": ""}, {}),
    ({"seed": -1}, {"seed": -1}),
    ({"seed": 2**63}, {"seed": 2**63}),
    ({"seed": 42.0}, {"seed": 42}),
    ({"logprobs": True}, {"logprobs": True}),
    ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 20}),
    ({"logprobs": False, "top_logprobs": 0}, {}),
    ({"logit_bias": {"50256": -100, "0": 1.5}}, {"logit_bias": {50256: -100.0, 0: 1.5}}),
    ({"logit_bias": {}}, {}),
    ({"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1}, {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1}),
    (
        {"options": {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "mirostat": 2}},
        {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1},
    ),
    ({"top_k": 1, "options": {"top_k": 40}}, {"top_k": 1}),
]


@pytest.mark.parametrize(("given", "expected"), SAMPLING)
async def test_sampling_is_passed_on_as_it_was_given(
    seen: Any, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert await seen(HELLO | given) == asked(**expected)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": None}},
]
ADD = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "number"}}}, True)
NOW = ToolSpec("now")


def allowed(mode: str, *names: str) -> Any:
    """A choice among some of the tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": False, "stream_options": {"include_usage": True, "include_obfuscation": False}}, {}),
    ({"n": 1}, {}),
    ({"n": 1.0}, {}),
    ({"modalities": ["text"], "audio": {"voice": "alloy"}}, {}),
    ({"tools": []}, {}),
    ({"tools": TOOLS}, {"tools": (ADD, NOW)}),
    ({"tools": TOOLS, "tool_choice": "auto"}, {"tools": (ADD, NOW)}),
    ({"tools": TOOLS, "tool_choice": "none"}, {}),
    ({"tool_choice": "none"}, {}),
    ({"tool_choice": "auto"}, {}),
    ({"tools": TOOLS, "tool_choice": "required"}, {"tools": (ADD, NOW), "tool_choice": "required"}),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}},
        {"tools": (ADD, NOW), "tool_choice": NamedTool("now")},
    ),
    ({"tools": TOOLS, "tool_choice": allowed("auto", "now")}, {"tools": (NOW,)}),
    ({"tools": TOOLS, "tool_choice": allowed("auto")}, {}),
    (
        {"tools": TOOLS, "tool_choice": allowed("required", "now", "add")},
        {"tools": (ADD, NOW), "tool_choice": "required"},
    ),
    ({"tools": TOOLS, "parallel_tool_calls": False}, {"tools": (ADD, NOW), "parallel_tool_calls": False}),
    ({"tools": TOOLS, "parallel_tool_calls": True}, {"tools": (ADD, NOW)}),
    ({"functions": [TOOLS[0]["function"]]}, {"tools": (ADD,)}),
    ({"functions": [TOOLS[0]["function"]], "function_call": "auto"}, {"tools": (ADD,)}),
    ({"functions": [TOOLS[0]["function"]], "function_call": "none"}, {}),
    (
        {"functions": [TOOLS[0]["function"]], "function_call": {"name": "add"}},
        {"tools": (ADD,), "tool_choice": NamedTool("add")},
    ),
    ({"response_format": {"type": "text"}}, {}),
    ({"structured_outputs": {"json": {"type": "object"}}}, {"output": JsonOutput({"type": "object"})}),
    ({"structured_outputs": {"regex": "[0-9]+"}}, {"text_output": TextOutput(regex="[0-9]+")}),
    ({"structured_outputs": {"choice": ["a", "b"]}}, {"text_output": TextOutput(choice=("a", "b"))}),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"text_output": TextOutput(grammar='root ::= "a"')}),
    ({"response_format": {"type": "json_object"}}, {"output": JsonOutput()}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
        {"output": JsonOutput({"type": "object"})},
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "point",
                    "description": "A point.",
                    "strict": False,
                    "schema": {"type": "object"},
                },
            }
        },
        {"output": JsonOutput({"type": "object"}, "point", "A point.", False)},
    ),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}}, {"output": JsonOutput(name="any")}),
    *(
        ({"reasoning_effort": effort}, {"reasoning_effort": effort})
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    ),
    ({"think": True}, {"think": True}),
    ({"think": False}, {"think": False}),
    ({"think": "high"}, {"reasoning_effort": "high"}),
    ({"keep_alive": "5m"}, {"keep_alive": "5m"}),
    ({"keep_alive": "1h30m"}, {"keep_alive": "1h30m"}),
    ({"keep_alive": 0}, {"keep_alive": 0}),
    ({"keep_alive": -1}, {"keep_alive": -1}),
    ({"num_ctx": 4096}, {"num_ctx": 4096}),
    ({"options": {"num_ctx": 4096.0}}, {"num_ctx": 4096}),
    ({"chat_template_kwargs": {"enable_thinking": False}}, {"template_options": {"enable_thinking": False}}),
    ({"continue_final_message": True, "add_generation_prompt": False}, {"continue_final_message": True}),
    ({"agent_type": "simple"}, {}),
    ({"x_agent": {}}, {}),
]


@pytest.mark.parametrize(("given", "expected"), OTHERS)
async def test_all_else_that_changes_the_answer_is_passed_on(
    seen: Any, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert await seen(HELLO | given) == asked(**expected)


async def test_null_is_the_same_as_absent(seen: Any) -> None:
    known = "stream stream_options max_completion_tokens max_tokens temperature top_p presence_penalty "
    known += "frequency_penalty stop seed n logprobs top_logprobs logit_bias tools tool_choice parallel_tool_calls "
    known += "functions function_call response_format structured_outputs reasoning_effort modalities "
    known += "top_k min_p repeat_penalty num_ctx "
    known += "keep_alive think options chat_template_kwargs continue_final_message agent_type x_agent "
    known += "audio user metadata store prediction service_tier"
    assert await seen(HELLO | dict.fromkeys(known.split())) == HELLO_SEEN
    inner: dict[str, Any] = {
        "stream_options": {"include_usage": None},
        "options": {"top_k": None},
        "response_format": {"type": "text", "json_schema": None},
        "messages": [
            {
                "role": "user",
                "content": "Hello",
                "name": None,
                "tool_calls": None,
                "tool_call_id": None,
                "thinking": None,
            }
        ],
    }
    assert await seen(HELLO | inner) == HELLO_SEEN


@pytest.mark.parametrize(
    "field",
    [
        {"verbosity": "low"},
        {"prediction": {"type": "content", "content": "x"}},
        {"prompt_cache_key": "a", "prompt_cache_retention": "24h", "prompt_cache_options": {}},
        {"safety_identifier": "a", "user": "ada"},
        {"service_tier": "flex"},
        {"store": True, "metadata": {"a": "b"}},
        {"moderation": {}, "web_search_options": {}},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"a_field_of_the_future": [{"with": {"anything": "in it"}}]},
    ],
)
async def test_hints_and_unknown_fields_are_ignored(seen: Any, field: dict[str, Any]) -> None:
    assert await seen(HELLO | field) == HELLO_SEEN


# Refusals


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"temperature": 2.01}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.01}, "temperature", "decimal_below_min_value"),
        ({"top_p": 1.1}, "top_p", "decimal_above_max_value"),
        ({"presence_penalty": 2.1}, "presence_penalty", "decimal_above_max_value"),
        ({"frequency_penalty": -2.1}, "frequency_penalty", "decimal_below_min_value"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": -1, "max_tokens": 5}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 10.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": "10"}, "max_tokens", "invalid_type"),
        ({"seed": 2**64}, "seed", "integer_above_max_value"),
        ({"seed": 0.5}, "seed", "invalid_type"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"stop": 1}, "stop", "invalid_type"),
        ({"stop": [None]}, "stop[0]", "invalid_type"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"logit_bias": {"1": "x"}}, "logit_bias[...]", "invalid_type"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"function": {"name": "x"}}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        (
            {"tools": [*TOOLS, {"type": "function", "function": {"name": "x" * 65}}]},
            "tools[2].function.name",
            "invalid_value",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]},
            "tools[0].function.parameters",
            "invalid_type",
        ),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "invalid_value"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "custom": {}}}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "sub")}, "tool_choice", "invalid_value"),
        (
            {"tools": TOOLS, "tool_choice": allowed("sometimes", "add")},
            "tool_choice.allowed_tools.mode",
            "invalid_value",
        ),
        ({"tools": TOOLS, "tool_choice": allowed("required")}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "sound"}}, "response_format", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs", "invalid_value"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "invalid_value",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "sound"}}}},
            "response_format",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "https://a.example/"}}}},
            "response_format",
            "invalid_value",
        ),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "invalid_value"),
        ({"think": "hard"}, "think", "invalid_value"),
        ({"keep_alive": "a while"}, "keep_alive", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_type"),
        ({"min_p": 2}, "min_p", "decimal_above_max_value"),
        ({"repeat_penalty": -1}, "repeat_penalty", "decimal_below_min_value"),
        ({"num_ctx": 0}, "num_ctx", "integer_below_min_value"),
        ({"options": {"top_k": "many"}}, "options.top_k", "invalid_type"),
        ({"agent_type": "nobody"}, "agent_type", "unknown_agent_type"),
        ({"x_agent": {"max_iteration": 3}}, "x_agent.max_iteration", "unknown_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_honoured_is_refused_by_name(
    client: httpx.AsyncClient, scripted: Scripted, given: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    before = len(scripted.asked)
    status, body, headers = failure(await client.post(CHAT, json=HELLO | given | {"stream": stream}))
    assert (status, body, headers) == (400, envelope(body["error"]["message"], code, param=param), {})
    assert len(scripted.asked) == before


# Messages

CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
]
CALLED = (ToolCall("call_1", "add", '{"a": 1}'), ToolCall("call_2", "now", "{}"))
PICTURE = f"data:image/png;base64,{PNG}"

MESSAGES: dict[str, tuple[list[Any], tuple[Message, ...]]] = {
    "instructions are merged into one, and come first": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}]},
            {"role": "assistant", "content": "Hello"},
            {"role": "system", "content": "Be gone.", "name": "boss"},
        ],
        (
            Message("system", "Be brief.\n\nBe\nkind.\n\nBe gone."),
            Message("user", "Hi"),
            Message("assistant", "Hello"),
        ),
    ),
    "a developer alone is a system": (
        [{"role": "developer", "content": "Be brief."}],
        (Message("system", "Be brief."),),
    ),
    "parts of text are one text": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one"},
                    {"type": "input_text", "text": "two"},
                    {"type": "refusal", "refusal": "three"},
                ],
            }
        ],
        (Message("user", "one\ntwo\nthree"),),
    ),
    "a speaker keeps their name": (
        [{"role": "user", "content": "Hi", "name": "ada"}, {"role": "assistant", "content": "Ho", "name": "bob"}],
        (Message("user", "Hi", name="ada"), Message("assistant", "Ho", name="bob")),
    ),
    "content may be null or absent beside calls, and results find the names of their calls": (
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2", "name": "whatever"},
            {"role": "assistant", "tool_calls": CALLS[:1]},
            {"role": "tool", "tool_call_id": "call_1"},
        ],
        (
            Message("user", "1+1?"),
            Message("assistant", tool_calls=CALLED),
            Message("tool", "noon", tool_call_id="call_2", name="now"),
            Message("tool", "2", tool_call_id="call_1", name="add"),
            Message("assistant", tool_calls=CALLED[:1]),
            Message("tool", "", tool_call_id="call_1", name="add"),
        ),
    ),
    "an id that is used again means the last call": (
        [
            {"role": "assistant", "tool_calls": CALLS[:1]},
            {"role": "assistant", "tool_calls": [CALLS[1] | {"id": "call_1"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ],
        (
            Message("assistant", tool_calls=CALLED[:1]),
            Message("assistant", tool_calls=(ToolCall("call_1", "now", "{}"),)),
            Message("tool", "noon", tool_call_id="call_1", name="now"),
        ),
    ),
    "arguments may be an object, absent or no JSON at all": (
        [
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "1", "function": {"name": "f", "arguments": {"a": [1, "ü"]}}},
                    {"id": "2", "function": {"name": "f"}},
                    {"id": "3", "function": {"name": "f", "arguments": "{oops"}},
                ],
            }
        ],
        (
            Message(
                "assistant",
                tool_calls=(ToolCall("1", "f", '{"a":[1,"ü"]}'), ToolCall("2", "f"), ToolCall("3", "f", "{oops")),
            ),
        ),
    ),
    "thoughts have three names": (
        [
            {"role": "assistant", "content": "a", "reasoning_content": "one"},
            {"role": "assistant", "content": "b", "reasoning": "two"},
            {"role": "assistant", "content": "c", "thinking": "three"},
            {"role": "assistant", "thinking": "four"},
            {"role": "user", "content": "d", "reasoning": "not mine"},
        ],
        (
            Message("assistant", "a", "one"),
            Message("assistant", "b", "two"),
            Message("assistant", "c", "three"),
            Message("assistant", "", "four"),
            Message("user", "d"),
        ),
    ),
    "what SDKs send back of an answer is taken": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "No.", "refusal": None, "audio": None, "function_call": None},
            {"role": "assistant", "content": None, "refusal": "I won't.", "annotations": []},
            {"role": "assistant", "content": None, "audio": {"id": "audio_1"}},
        ],
        (
            Message("user", "Hi"),
            Message("assistant", "No."),
            Message("assistant", "I won't."),
            Message("assistant", ""),
        ),
    ),
    "pictures keep their place among the texts": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                    {"type": "image_url", "image_url": PICTURE.replace("png", "JPG")},
                    {"type": "text", "text": "Well?"},
                ],
            }
        ],
        (
            Message(
                "user",
                (Text("Look:"), Image(PNG, "image/png", "low"), Image(PNG, "image/jpeg"), Text("Well?")),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_messages(seen: Any, name: str) -> None:
    given, expected = MESSAGES[name]
    assert await seen(HELLO | {"messages": given}) == asked(messages=expected)


async def test_functions_of_old_find_their_results_by_name(seen: Any) -> None:
    given = [
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "add", "content": "2"},
    ]
    request = await seen(HELLO | {"messages": given})
    add, now = (message.tool_calls[0].id for message in request.messages[:2])
    assert add.startswith("call_") and now.startswith("call_") and add != now
    assert request == asked(
        messages=(
            Message("assistant", tool_calls=(ToolCall(add, "add", '{"a": 1}'),)),
            Message("assistant", tool_calls=(ToolCall(now, "now"),)),
            Message("tool", "2", tool_call_id=add, name="add"),
        )
    )


def user(*parts: Any) -> list[Any]:
    """One message of these parts."""
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([], "messages", "invalid_value"),
        ([{"content": "Hi"}], "messages[0].role", "missing_required_parameter"),
        ([{"role": "robot", "content": "Hi"}], "messages[0].role", "invalid_value"),
        ([{"role": "assistant"}], "messages[0].content", "invalid_value"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content", "invalid_value"),
        ([{"role": "tool", "content": "2"}], "messages[0].tool_call_id", "missing_required_parameter"),
        ([{"role": "tool", "tool_call_id": "x", "content": "2"}], "messages[0].tool_call_id", "invalid_value"),
        ([{"role": "function", "name": "f", "content": "2"}], "messages[0].name", "invalid_value"),
        (
            [
                {"role": "tool", "tool_call_id": "call_1", "content": "2"},
                {"role": "assistant", "tool_calls": CALLS},
            ],
            "messages[0].tool_call_id",
            "invalid_value",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1"}]}],
            "messages[0].tool_calls[0].function",
            "missing_required_parameter",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}],
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        (user({"text": "Hi"}), "messages[0].content[0].type", "missing_required_parameter"),
        (user({"type": "text"}), "messages[0].content[0].text", "missing_required_parameter"),
        (user({"type": "image_url"}), "messages[0].content[0].image_url", "missing_required_parameter"),
        (user({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].type", "unsupported_content"),
        (user({"type": "file", "file": {}}), "messages[0].content[0].file.file_id", "missing_required_parameter"),
        *(
            (
                user({"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": url}}),
                "messages[0].content[1].image_url",
                "invalid_value",
            )
            for url in (
                "https://example.org/a.png",
                "http://169.254.169.254/latest/meta-data",
                "file:///etc/passwd",
                "data:text/html;base64,aGk=",
                "data:image/svg+xml;base64,aGk=",
                "data:image/png,hello",
                "data:image/png;base64,",
                "data:image/png;base64,@@@@",
                "data:image/png;base64,aGk",
                "",
            )
        ),
        ([{"role": "system", "content": user({"type": "image_url", "image_url": PICTURE})[0]["content"]}],
         "messages[0].content", "unsupported_value"),
    ],
)  # fmt: skip
async def test_messages_that_are_refused(
    client: httpx.AsyncClient, scripted: Scripted, messages: list[Any], param: str, code: str
) -> None:
    before = len(scripted.asked)
    status, body, headers = failure(await client.post(CHAT, json=HELLO | {"messages": messages}))
    assert (status, body, headers) == (400, envelope(body["error"]["message"], code, param=param), {})
    assert len(scripted.asked) == before


# Models and agents


@pytest.mark.parametrize(
    ("model", "headers", "field", "found"),
    [
        (REPO, {}, None, REPO),
        (f"simple/{REPO}", {}, None, REPO),
        ("simple/scripted", {}, None, "scripted"),
        ("simple/scripted", {"X-Agent-Type": "simple"}, "simple", "scripted"),
        ("scripted", {"X-Agent-Type": ""}, "", "scripted"),
        ("simple/odd", {}, None, "simple/odd"),
        ("simply/odd", {}, None, "simply/odd"),
        ("simple/", {}, None, "scripted"),
        ("simple", {}, None, "scripted"),
    ],
)
async def test_a_model_id_may_name_an_agent(
    seen: Any, model: str, headers: dict[str, str], field: str | None, found: str
) -> None:
    assert await seen(HELLO | {"model": model, "agent_type": field}, **headers) == asked(model=found)


async def test_the_answer_names_the_model_as_it_was_asked_for(client: httpx.AsyncClient) -> None:
    for model in (REPO, f"simple/{REPO}", "simple"):
        assert (await client.post(CHAT, json=HELLO | {"model": model})).json()["model"] == model


async def test_an_agent_that_does_not_exist_is_refused(client: httpx.AsyncClient) -> None:
    message = f"There is no agent 'nobody'. Agents are: {', '.join(AGENTS)}."
    answers = [
        await client.post(CHAT, json=HELLO, headers={"X-Agent-Type": "nobody"}),
        await client.post(CHAT, json=HELLO | {"agent_type": "nobody"}),
    ]
    assert [failure(answer) for answer in answers] == [
        (400, envelope(message, "unknown_agent_type", param=param), {}) for param in ("X-Agent-Type", "agent_type")
    ]


@pytest.mark.skipif(len(AGENTS) < 2, reason="there is only one agent yet")
async def test_two_different_agents_are_refused(client: httpx.AsyncClient) -> None:
    other = next(name for name in AGENTS if name != "simple")
    expected = envelope(
        f"The request names different agents: {' and '.join(sorted(('simple', other)))}.",
        "conflicting_agent_type",
        param="agent_type",
    )
    answers = [
        await client.post(CHAT, json=HELLO | {"model": "simple/scripted", "agent_type": other}),
        await client.post(CHAT, json=HELLO | {"model": "simple/scripted"}, headers={"X-Agent-Type": other}),
        await client.post(CHAT, json=HELLO | {"agent_type": "simple"}, headers={"X-Agent-Type": other}),
    ]
    assert [failure(answer) for answer in answers] == [(400, expected, {})] * 3


async def test_n_asks_so_many_times(client: httpx.AsyncClient, scripted: Scripted) -> None:
    before = len(scripted.asked)
    answer = (await client.post(CHAT, json=HELLO | {"n": 3})).json()
    assert scripted.asked[before:] == [HELLO_SEEN] * 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
