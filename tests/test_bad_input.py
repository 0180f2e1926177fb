"""Bodies that no client should send: each is refused in OpenAI's words or answered, and the server goes on."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from models.backend import ModelInfo, ModelRequest
from models.scripted import Script, Scripted
from tests.doors import envelope
from tests.live import Live, serving
from tests.wire import CHAT, HELLO, UNPARSABLE, check_envelope, check_headers, doors_of, failure, frames

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024
LIMIT = 12 * MEGABYTE


def answer(request: ModelRequest) -> Script:
    """The same to everything, cut short where it would have to keep to a schema."""
    return Script(text="Yes." if request.output is None else "{", finish="length" if request.output else None)


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, empty_database: Any) -> AsyncIterator[Live]:
    """One server for all bodies: after each, the next must find it well."""
    backend = Scripted([answer], [ModelInfo("scripted", "scripted")])
    async with serving(
        tmp_path_factory.mktemp("bodies"), empty_database, [backend], max_body_bytes=LIMIT, run_timeout=20
    ) as server:
        yield server


@pytest.fixture(scope="module")
async def client(live: Live) -> httpx.AsyncClient:
    """The admin."""
    return await live.http()


@pytest.fixture(autouse=True)
async def still_well(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """After each test the server answers as ever."""
    yield
    response = await client.post(CHAT, json=HELLO)
    assert (response.status_code, response.json()["choices"][0]["message"]["content"]) == (200, "Yes.")


WHOLE = b'{"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "stream": %b'
"""A good body that has not ended yet."""

BAD: dict[str, bytes] = {
    "nothing": b"",
    "space": b" \r\n\t ",
    "null bytes": b"\0" * 16,
    "a null byte after it": WHOLE + b"}\0",
    "a list": b"[%b]",
    "a string": b'"%b"',
    "a number": b"1",
    "null": b"null",
    "cut off": WHOLE,
    "cut off in a string": WHOLE + b', "user": "a',
    "twice": WHOLE + b"}{}",
    "a comma too many": WHOLE + b",}",
    "a comment": WHOLE + b"} // thanks",
    "single quotes": WHOLE.replace(b'"', b"'") + b"}",
    "a form": b"model=scripted&messages=Hello&stream=%b",
    "a page": b"<html><body>%b</body></html>",
    "a byte order mark": b"\xef\xbb\xbf" + WHOLE + b"}",
    "UTF-16": (WHOLE + b"}").decode().encode("utf-16"),
    "bad UTF-8": WHOLE.replace(b"Hello", b"\xff\xfe") + b"}",
    "bad UTF-8 in a key": WHOLE + b', "\xff": 1}',
    "bad UTF-8 in a field that nobody reads": WHOLE + b', "x": ["\xc3\x28"]}',
    "overlong UTF-8": WHOLE.replace(b"Hello", b"\xc0\xaf") + b"}",
    "a surrogate in UTF-8": WHOLE.replace(b"Hello", b"\xed\xa0\x80") + b"}",
    "a lone surrogate": WHOLE.replace(b"Hello", b"\\ud800") + b"}",
    "a lone surrogate in a key": WHOLE + b', "\\udc00": 1}',
    "a bad escape": WHOLE.replace(b"Hello", b"\\x41") + b"}",
    "a raw line break in a string": WHOLE.replace(b"Hello", b"a\nb") + b"}",
    "NaN": WHOLE + b', "temperature": NaN}',
    "Infinity": WHOLE + b', "temperature": -Infinity}',
    "a hexadecimal number": WHOLE + b', "seed": 0x10}',
    "a leading zero": WHOLE + b', "seed": 010}',
    "True": WHOLE + b', "logprobs": True}',
    "5,000 lists": WHOLE + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "5,000 objects": WHOLE + b', "chat_template_kwargs": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "5,000 lists that do not end": b"[" * 5000,
    "10 MB of brackets": b"[" * (10 * MEGABYTE),
    "10 MB of noise": random.Random(1).randbytes(10 * MEGABYTE),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_what_cannot_be_parsed_is_refused_as_such(client: httpx.AsyncClient, name: str, stream: bytes) -> None:
    response = await client.post(CHAT, content=BAD[name].replace(b"%b", stream))
    assert failure(response) == (400, UNPARSABLE, {})


async def test_every_door_refuses_what_cannot_be_parsed(live: Live, client: httpx.AsyncClient) -> None:
    moves = tuple(f"/v1/runs/nothing/{move}" for move in ("cancel", "pause", "resume"))
    bodyless = (*moves, "/api/knowledge/nothing/reindex", "/api/auth/logout")
    doors = [
        door for door in doors_of(live.server) if door.method in ("POST", "PATCH", "PUT") and door.path not in bodyless
    ]
    assert len(doors) >= 8
    for name, body in BAD.items():
        requests = (client.request(door.method, door.path, content=body.replace(b"%b", b"false")) for door in doors)
        for door, response in zip(doors, await asyncio.gather(*requests), strict=True):
            if len(body) > MEGABYTE and door.path.startswith(("/api/auth/", "/api/users")):
                expected: Any = (413, envelope("The request is larger than 65536 bytes.", "request_too_large"), {})
            else:
                expected = (400, response.json(), {})
            assert failure(response) == expected, (name, door)


LONG = "x" * (10 * MEGABYTE)
DEEP = '{"not":' * 300 + "{}" + "}" * 300


def wrong(field: str, code: str, message: str) -> Any:
    """The refusal of one field."""
    return 400, envelope(message, code, param=field), {}


ODD: dict[str, tuple[str, Any]] = {
    "a number where a text belongs, five levels down": (
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}, '
        '{"type": "function", "function": {"name": 5}}]',
        wrong(
            "tools[1].function.name",
            "invalid_type",
            "Invalid value for 'tools[1].function.name': expected `str`, got `int`.",
        ),
    ),
    "a huge integer": (
        f'"seed": {"9" * 400}',
        wrong(
            "seed",
            "integer_above_max_value",
            f"Invalid 'seed': integer above max value. Expected a value <= 18446744073709551615, but got {'9' * 24}.",
        ),
    ),
    "an integer of 5,000 digits": (
        f'"seed": {"9" * 5000}',
        wrong("seed", "invalid_value", "Invalid value for 'seed': integer value out of range."),
    ),
    "a huge integer for a decimal": (
        f'"temperature": 1{"0" * 400}',
        wrong("temperature", "invalid_value", "Invalid value for 'temperature': number out of range."),
    ),
    "a decimal without end": (
        '"seed": 1e999',
        wrong("seed", "invalid_value", "Invalid value for 'seed': number out of range."),
    ),
    "an integer that is a decimal": (
        '"max_tokens": 1e300',
        wrong(
            "max_tokens",
            "integer_above_max_value",
            "Invalid 'max_tokens': integer above max value. Expected a value <= 2147483647, but got 1e+300.",
        ),
    ),
    "a truth where a number belongs": (
        '"n": true',
        wrong("n", "invalid_type", "Invalid value for 'n': expected `int | float | null`, got `bool`."),
    ),
    "an object where a list belongs": (
        '"stop": {"0": "a"}',
        wrong("stop", "invalid_type", "Invalid value for 'stop': expected `str | array | null`, got `object`."),
    ),
    "a schema 300 levels deep": (
        f'"response_format": {{"type": "json_schema", "json_schema": {{"schema": {DEEP}}}}}',
        wrong("response_format", "invalid_value", "Invalid schema: it is nested too deeply."),
    ),
    "a model's name of 10 MB": (
        f'"model": "{LONG}"',
        (404, envelope("The model `" + "x" * 1989, "model_not_found", param="model"), {}),
    ),
    "a role of 10 MB": (
        f'"messages": [{{"role": "{LONG}", "content": "Hi"}}]',
        wrong(
            "messages[0].role",
            "invalid_value",
            f"Invalid value: '{'x' * 40}'. Supported values are: 'system', 'developer', 'user', 'assistant', 'tool' "
            "and 'function'.",
        ),
    ),
    "a tool's name of 10 MB": (
        f'"tools": [{{"type": "function", "function": {{"name": "{LONG}"}}}}]',
        wrong(
            "tools[0].function.name",
            "invalid_value",
            "Invalid value for 'tools[0].function.name': must be 1 to 64 letters, digits, underscores and hyphens.",
        ),
    ),
    "a picture of 10 MB that is none": (
        '"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
        f'"data:image/png;base64,{LONG}!"}}]}}]',
        wrong(
            "messages[0].content[0].image_url",
            "invalid_value",
            "Invalid value for 'messages[0].content[0].image_url': the picture is not valid base64.",
        ),
    ),
    "an agent of 10 MB": (
        f'"agent_type": "{LONG}"',
        wrong(
            "agent_type",
            "unknown_agent_type",
            f"There is no agent '{'x' * 40}'. Agents are: simple, react, plan, debate, auto.",
        ),
    ),
    "an unknown option": (
        '"x_agent": {"\\u0000": 1}',
        (400, None, {}),
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_what_can_be_parsed_but_makes_no_sense_is_refused_by_name(
    client: httpx.AsyncClient, name: str, stream: str
) -> None:
    field, expected = ODD[name]
    body = WHOLE.decode().replace("%b", stream) + f", {field}}}"
    status, error, headers = failure(await client.post(CHAT, content=body))
    assert (status, error, headers) == (expected[0], expected[1] or error, expected[2])


FINE: dict[str, str] = {
    "a text of 10 MB": f'"messages": [{{"role": "user", "content": "{LONG}"}}]',
    "an unknown field of 10 MB": f'"{LONG[: 5 * MEGABYTE]}": "{LONG[: 5 * MEGABYTE]}"',
    "ten thousand messages": '"messages": [' + '{"role": "user", "content": "Hi"},' * 9999 + '{"role": "user"}]',
    "ten thousand parts": '"messages": [{"role": "user", "content": ['
    + '{"type": "text", "text": "Hi"},' * 9999
    + '{"type": "text", "text": ""}]}]',
    "the same key again, of which the last counts": '"model": "nope", "model": "scripted"',
    "escaped null bytes and colours": '"messages": [{"role": "user", "content": "\\u0000\\u001b[31m\\ud83d\\ude00"}]',
    "900 levels of nothing": '"x": ' + "[" * 900 + "]" * 900,
    "whole numbers with a decimal point": '"max_tokens": 1000.0, "seed": 1e3, "n": 1.0',
}


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_what_is_only_odd_is_answered(client: httpx.AsyncClient, name: str, stream: str) -> None:
    body = WHOLE.decode().replace("%b", stream) + f", {FINE[name]}}}"
    response = await client.post(CHAT, content=body)
    assert response.status_code == 200, response.text[:500]
    assert (
        (frames(response.text)[-1] == "[DONE]")
        if stream == "true"
        else (response.json()["object"] == "chat.completion")
    )


# Whatever comes to mind

SEED = 20260
ROUNDS = 2000
AT_ONCE = 25

BODIES: list[dict[str, Any]] = [
    HELLO,
    HELLO | {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "temperature": 0.5, "stop": ["a", "b"]},
    {
        "model": "simple/scripted",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {
                "url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}]},
            {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "logit_bias": {"1": 5},
        "logprobs": True,
        "top_logprobs": 2,
    },
    HELLO | {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {
            "type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}},
            "required": ["a"], "additionalProperties": False}}},
        "max_completion_tokens": 100, "max_tokens": 50, "seed": 1, "reasoning_effort": "low", "think": True,
        "keep_alive": "5m", "options": {"top_k": 5, "num_ctx": 100}, "chat_template_kwargs": {"a": 1},
        "functions": [{"name": "f"}], "function_call": {"name": "f"}, "agent_type": "simple", "x_agent": {},
        "modalities": ["text"], "user": "ada", "metadata": {"a": "b"},
    },
]  # fmt: skip

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        128,
        129,
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**40,
        0.0,
        -0.0,
        0.5,
        1.0,
        1e300,
        -1e-300,
    ),
    *(
        "",
        " ",
        "a",
        "none",
        "auto",
        "required",
        "function",
        "text",
        "image_url",
        "json_object",
        "user",
        "tool",
        "system",
    ),
    *(
        "\0",
        "\u2028",
        "😀",
        "../../etc/passwd",
        "${jndi:ldap://x}",
        "'; DROP TABLE runs; --",
        "%s%n",
        "a" * 5000,
        "call_1",
    ),
    *(
        "data:image/png;base64,",
        "data:image/gif;base64,AAAA",
        "https://example.org/a.png",
        "simple/",
        "/",
        "5m",
        "$",
        "#/a",
    ),
    *([], {}, [[]], [{}], {"": ""}, {"type": "function"}, {"type": "text", "text": "x"}, {"$ref": "#"}, [1, "a", None]),
    {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}}},
    {"type": "json_schema", "json_schema": {"schema": {"pattern": "(a+)+$", "enum": [], "type": ["string", "null"]}}},
]

Place = tuple[Any, Any]
"""A container, and a key or index in it."""


def places(value: Any) -> Iterator[Place]:
    """Every place in a body where something stands."""
    containers = [value]
    while containers:
        container = containers.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list):
                containers.append(container[key])


def replace(body: Any, dice: random.Random) -> None:
    """Something else stands somewhere."""
    container, key = dice.choice(list(places(body)))
    container[key] = json.loads(json.dumps(dice.choice(VALUES)))


def drop(body: Any, dice: random.Random) -> None:
    """Something is missing."""
    container, key = dice.choice(list(places(body)))
    del container[key]


def swap(body: Any, dice: random.Random) -> None:
    """Something stands where something else belongs."""
    (container, key), (other, where) = dice.choices(list(places(body)), k=2)
    container[key] = json.loads(json.dumps(other[where]))


def wrap(body: Any, dice: random.Random) -> None:
    """Something is wrapped, once or often."""
    container, key = dice.choice(list(places(body)))
    for _ in range(dice.choice((1, 1, 2, 50, 150))):
        container[key] = [container[key]] if dice.random() < 0.5 else {"type": container[key]}


def add(body: Any, dice: random.Random) -> None:
    """A field of another body is there too."""
    fields = dice.choice(BODIES)
    field = dice.choice(list(fields))
    body[field] = json.loads(json.dumps(fields[field]))


def multiply(body: Any, dice: random.Random) -> None:
    """An item of a list is there often."""
    lists = [container[key] for container, key in places(body) if isinstance(container[key], list) and container[key]]
    if lists:
        chosen = dice.choice(lists)
        chosen.extend([chosen[0]] * dice.choice((1, 3, 100)))


def spoil(body: bytes, dice: random.Random) -> bytes:
    """Some bytes are lost, changed or new."""
    start = dice.randrange(len(body))
    end = start + dice.choice((0, 1, 1, 2, 10))
    return (
        body[:start]
        + dice.choice((b"", b'"', b"}", b"\xff", b"\\", b"\0", b",", b"1e9", dice.randbytes(3)))
        + body[end:]
    )


CHANGES: list[Callable[[Any, random.Random], None]] = [replace, replace, replace, drop, swap, wrap, add, multiply]


def bodies(dice: random.Random) -> Iterator[bytes]:
    """Good bodies gone wrong, without end."""
    while True:
        body = json.loads(json.dumps(dice.choice(BODIES)))
        for _ in range(dice.choice((1, 1, 2, 3, 6))):
            if body:
                dice.choice(CHANGES)(body, dice)
        encoded = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode()
        yield spoil(encoded, dice) if dice.random() < 0.1 else encoded


def check_any(response: httpx.Response) -> None:
    """Either an answer from end to end, or a refusal from first to last key."""
    check_headers(response)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500
        failure(response)
    elif response.headers["content-type"].startswith("text/event-stream"):
        *chunks, last = frames(response.text)
        assert last == "[DONE]"
        for chunk in chunks:
            if "error" in chunk:
                check_envelope(chunk)
            else:
                assert chunk["object"] == "chat.completion.chunk"
    else:
        assert response.json()["object"] == "chat.completion"


@pytest.mark.fuzz
async def test_thousands_of_bodies_gone_wrong(client: httpx.AsyncClient) -> None:
    source = bodies(random.Random(SEED))
    seen: dict[int, int] = {}
    for _ in range(ROUNDS // AT_ONCE):
        batch = [next(source) for _ in range(AT_ONCE)]
        async with asyncio.timeout(20):
            responses = await asyncio.gather(*(client.post(CHAT, content=body) for body in batch))
        for body, response in zip(batch, responses, strict=True):
            try:
                check_any(response)
            except AssertionError as error:
                raise AssertionError(f"{response.status_code} for {body[:2000]!r}: {response.text[:500]}") from error
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
    assert set(seen) == {200, 400, 404}
    assert seen[200] > ROUNDS / 10
