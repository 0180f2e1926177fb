"""What holds at every door: who is let in, which methods there are, CORS, HEAD, and sockets that talk nonsense."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from auth.keys import SCOPES
from gateway.access import Access
from gateway.edge import Edge
from gateway.metrics import Metrics
from gateway.protocol import Protocol
from gateway.store.database import Database
from models.backend import ModelInfo, ModelRequest
from models.scripted import Script, Scripted, echo
from tests.doors import BAD_KEY, EXPIRED, NO_KEY, access_token, envelope
from tests.live import SECRET, Live, Serve, serving
from tests.wire import CHAT, HELLO, Door, Wire, check_headers, doors_of, failure, frames, head, wire

pytestmark = pytest.mark.anyio

HOME, AWAY = "https://chat.example.org", "https://evil.example.org"
LIMIT = 256 * 1024


def answer(request: ModelRequest) -> Script:
    """Echoes, unless it is told to have a bug."""
    if request.messages[-1].text == "bug":
        raise ZeroDivisionError
    return echo(request)


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, empty_database: Any) -> AsyncIterator[Live]:
    """A server whose pages at HOME may call."""
    backend = Scripted([answer], [ModelInfo("scripted", "scripted")])
    folder = tmp_path_factory.mktemp("edge")
    async with serving(folder, empty_database, [backend], max_body_bytes=LIMIT, cors_origins=HOME) as server:
        yield server


@pytest.fixture(scope="module")
async def client(live: Live) -> httpx.AsyncClient:
    """The admin."""
    return await live.http()


@pytest.fixture(scope="module")
async def anonymous(live: Live) -> httpx.AsyncClient:
    """Somebody without credentials."""
    return await live.http("")


# Who is let in


async def test_no_door_but_the_public_ones_opens_without_a_credential_that_counts(live: Live) -> None:
    database = Database(live.settings.database)
    past = Access(live.settings, SECRET, database, clock=lambda: time.time() - 86400)
    access = Access(live.settings, SECRET, database)
    try:
        admin = await access.users.by_name("admin")
        foreign = await Access(live.settings, SECRET[::-1], database).keys.create(admin.id, "another server's")
        expired = await past.keys.create(admin.id, "expired", expires_in=60)
        key, revoked = await access.keys.create(admin.id, "revoked")
        await access.keys.revoke(key.id)
        gone = await access.users.add("gone")
        _, disabled = await access.keys.create(gone.id, "of a disabled user")
        await access.users.update(gone.id, disabled=True)
    finally:
        await database.close()
    refused = {"www-authenticate": 'Bearer error="invalid_token"'}
    wrong = {
        "": (401, NO_KEY, {"www-authenticate": "Bearer"}),
        "sk-wrong": (401, BAD_KEY, refused),
        foreign[1]: (401, BAD_KEY, refused),
        access_token(admin.id, key=SECRET[::-1]): (401, BAD_KEY, refused),
        access_token(gone.id, key=SECRET): (401, BAD_KEY, refused),
        revoked: (401, BAD_KEY, refused),
        disabled: (401, BAD_KEY, refused),
        expired[1]: (401, EXPIRED, refused),
        access_token(admin.id, key=SECRET, exp=time.time() - 10): (401, EXPIRED, refused),
    }
    closed = [door for door in doors_of(live.server) if not door.public]
    assert len(closed) >= 15
    for credential, expected in wrong.items():
        answers = await knock(await live.http(credential), closed)
        assert {door: failure(response) for door, response in answers.items()} == dict.fromkeys(closed, expected)


async def knock(client: httpx.AsyncClient, doors: list[Door]) -> dict[Door, httpx.Response]:
    """What each door answers to a request without a body, all asked at once."""
    answers = await asyncio.gather(*(client.request(door.method, door.path) for door in doors))
    return dict(zip(doors, answers, strict=True))


async def test_public_doors_ask_for_nothing_and_mind_nothing(live: Live) -> None:
    public = [door for door in doors_of(live.server) if door.public]
    for credential in ("", "sk-wrong"):
        for door, response in (await knock(await live.http(credential), public)).items():
            check_headers(response)
            assert response.status_code == (200 if door.method == "GET" else 400), door


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_limited_key_opens_the_doors_of_its_scope_only(
    live: Live, client: httpx.AsyncClient, scope: str
) -> None:
    created = await client.post("/api/auth/keys", json={"name": scope, "scopes": [scope]})
    limited = await live.http(created.json()["key"])
    doors = doors_of(live.server)
    closed = {door for door in doors if not door.public and door.scope not in (scope, "any")}
    refused = set()
    for door, response in (await knock(limited, doors)).items():
        assert response.status_code < 500
        if response.status_code == 403:
            needed = f"the scope `{door.scope}`" if door.scope else "a key without scopes"
            assert failure(response) == (
                403,
                envelope(
                    f"This needs {needed}; your API key has {scope}.", "insufficient_scope", type="permission_error"
                ),
                {"www-authenticate": 'Bearer error="insufficient_scope"'},
            )
            refused.add(door)
    assert refused == closed


async def test_what_is_not_there_is_not_there_for_anybody(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    for path in ("/nope", "/v1", "/v1/nope", "/v1/runs/x/nope", "/.env", "/v1/%2e%2e/etc/passwd", "/api", "/index.php"):
        for caller in (client, anonymous):
            status, body, headers = failure(await caller.get(path, headers={"Accept": "text/html"}))
            assert (status, body["error"]["code"], headers) == (404, "unknown_url", {}), path


# Methods


async def test_every_door_says_which_methods_it_has(live: Live, client: httpx.AsyncClient) -> None:
    methods: dict[str, set[str]] = {}
    for door in doors_of(live.server):
        also = {"HEAD"} if door.method == "GET" else set()
        methods.setdefault(door.path, {"OPTIONS"}).update({door.method}, also)
    wrong = [
        Door(method, path, public=False, scope=None)
        for path, known in methods.items()
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - known
    ]
    for door, response in (await knock(client, wrong)).items():
        status, body, headers = failure(response)
        message = f"Not allowed to {door.method} on {door.path}."
        assert (status, body) == (405, envelope(message, "method_not_supported"))
        assert set(headers.pop("allow").split(", ")) == methods[door.path]
        assert headers == {}


async def test_head_is_answered_wherever_get_is(live: Live, client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=HELLO)
    run = (await client.get("/v1/runs")).json()["data"][0]["id"]
    paths = [door.path for door in doors_of(live.server) if door.method == "GET"]
    for path in [*paths, "/v1/models/scripted", f"/v1/runs/{run}", f"/v1/runs/{run}/events", "/nope"]:
        whole, head_only = await client.get(path), await client.head(path)
        check_headers(head_only)
        assert (head_only.status_code, head_only.content) == (whole.status_code, b"")
        assert {**named(head_only), "content-length": ""} == {**named(whole), "content-length": ""}, path


def named(response: httpx.Response) -> dict[str, str]:
    """The headers that do not change from one response to the next."""
    changing = ("date", "x-request-id", "transfer-encoding")
    return {name: value for name, value in response.headers.items() if name not in changing}


async def test_head_leaves_the_connection_as_it_was(live: Live) -> None:
    async with wire(live) as connection:
        for _ in range(3):
            await connection.send(head("HEAD /health/live HTTP/1.1") + head("GET /health/live HTTP/1.1"))
            first, second = await connection.answer("HEAD"), await connection.answer()
            assert first.headers["content-length"] == second.headers["content-length"] == str(len(second.body))


async def test_head_of_a_stream_does_not_wait_for_its_end(live: Live, client: httpx.AsyncClient) -> None:
    backend = live.server.parts.catalog.backends[0]
    assert isinstance(backend, Scripted)
    backend.script, script = [Script(text="slow", delay=30)], backend.script
    try:
        backend.started.clear()
        chat = asyncio.create_task(client.post(CHAT, json=HELLO))
        await backend.started.wait()
        run = (await client.get("/v1/runs?limit=1")).json()["data"][0]
        assert run["status"] == "running"
        async with asyncio.timeout(5):
            response = await client.head(f"/v1/runs/{run['id']}/events")
        assert response.status_code == 200
        assert (await client.post(f"/v1/runs/{run['id']}/cancel")).json()["status"] == "cancelled"
        await chat
    finally:
        backend.script = script


# CORS

CORS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
    "access-control-expose-headers",
    "vary",
)
EXPOSED = "x-request-id, retry-after, retry-after-ms, x-should-retry, x-run-id, x-ratelimit-remaining-requests"
GRANTED = {"access-control-allow-origin": HOME, "access-control-expose-headers": EXPOSED, "vary": "Origin"}


def cors(response: httpx.Response) -> dict[str, str]:
    """What a browser is told."""
    check_headers(response)
    return {name: response.headers[name] for name in CORS if name in response.headers}


async def responses_of_all_kinds(live: Live, **headers: str) -> dict[str, httpx.Response]:
    """One response of each kind."""
    client, anonymous = await live.http(**headers), await live.http("", **headers)
    found = {
        "success": await client.get("/v1/models"),
        "answer": await client.post(CHAT, json=HELLO),
        "stream": await client.post(CHAT, json=HELLO | {"stream": True}),
        "no key": await anonymous.get("/v1/models"),
        "malformed": await client.post(CHAT, content=b"{"),
        "unknown route": await anonymous.get("/nope"),
        "unknown model": await client.get("/v1/models/nope"),
        "wrong method": await client.put("/v1/models"),
        "too big": await client.post(CHAT, content=b" " * (LIMIT + 1)),
        "bug": await client.post(CHAT, json=HELLO | {"messages": [{"role": "user", "content": "bug"}]}),
    }
    assert [response.status_code for response in found.values()] == [200, 200, 200, 401, 400, 404, 404, 405, 413, 500]
    return found


async def test_pages_at_an_allowed_origin_may_read_every_kind_of_response(live: Live) -> None:
    found = await responses_of_all_kinds(live, Origin=HOME)
    assert {kind: cors(response) for kind, response in found.items()} == dict.fromkeys(found, GRANTED)
    assert frames(found["stream"].text)[-1] == "[DONE]"


async def test_pages_elsewhere_may_read_none(live: Live) -> None:
    for headers in ({"Origin": AWAY}, {"Origin": "null"}, {"Origin": HOME + ".evil.org"}, {}):
        found = await responses_of_all_kinds(live, **headers)
        assert {kind: cors(response) for kind, response in found.items()} == {kind: {} for kind in found}


async def test_by_default_no_page_may_call(tmp_path: Any, empty_database: Any) -> None:
    async with serving(tmp_path, empty_database, [Scripted()]) as closed:
        client = await closed.http(Origin=HOME)
        assert cors(await client.get("/v1/models")) == {}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        response = await client.options(CHAT, headers=asked)
        assert (response.status_code, cors(response)) == (204, {})


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/health", "/nope", "/api/auth/login"])
async def test_preflights_need_no_key_and_get_back_the_headers_they_ask_for(
    anonymous: httpx.AsyncClient, path: str
) -> None:
    wanted = "authorization, content-type, x-stainless-retry-count, openai-beta"
    asked = {"Origin": HOME, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    response = await anonymous.options(path, headers=asked)
    assert (response.status_code, response.content, cors(response)) == (
        204,
        b"",
        GRANTED
        | {
            "access-control-allow-methods": "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
            "access-control-allow-headers": wanted,
            "access-control-max-age": "600",
        },
    )
    foreign = await anonymous.options(path, headers=asked | {"Origin": AWAY})
    assert (foreign.status_code, foreign.content, cors(foreign)) == (204, b"", {})


async def test_a_bare_options_request_is_answered_too(anonymous: httpx.AsyncClient) -> None:
    for path in (CHAT, "/v1/models", "/nope"):
        response = await anonymous.options(path)
        assert (response.status_code, response.content, cors(response)) == (204, b"", {})
        assert response.headers["allow"] == "GET, HEAD, POST, PATCH, DELETE, OPTIONS"


async def test_any_origin_may_be_let_in_and_cookies_only_where_origins_are_named(
    tmp_path: Any, empty_database: Any
) -> None:
    async with serving(tmp_path / "a", empty_database, [Scripted()], cors_origins="*") as server:
        response = await (await server.http(Origin=AWAY)).get("/v1/models")
        assert cors(response) == GRANTED | {"access-control-allow-origin": AWAY}
    async with serving(
        tmp_path / "b", empty_database, [Scripted()], cors_origins=HOME, cors_credentials=True
    ) as server:
        response = await (await server.http(Origin=HOME)).get("/v1/models")
        assert cors(response) == GRANTED | {"access-control-allow-credentials": "true"}


# Sockets

POST = f"POST {CHAT} HTTP/1.1"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",  # TLS
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: a\0b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        head(POST, "Content-Length: many"),
        head(POST, "Content-Length: -5"),
        head(POST, "Content-Length: 99999999999999999999999999"),
        head(POST, "Content-Length: 2", "Content-Length: 3") + b"{}",
        head(POST, "Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(
    live: Live, anonymous: httpx.AsyncClient, nonsense: bytes
) -> None:
    async with wire(live) as connection:
        await connection.send(nonsense)
        refusal = await connection.answer()
        assert (refusal.status, refusal.headers["content-type"]) == (400, "application/json")
        assert refusal.headers["x-request-id"].startswith("req_")
        message = "The request is not valid HTTP: Invalid HTTP request received."
        assert json.loads(refusal.body) == {
            "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        }
        assert await connection.closed()
    assert (await anonymous.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"]
)
async def test_a_request_that_never_begins_loses_its_connection(serve: Serve, beginning: bytes) -> None:
    class Hasty(Protocol):
        patience = 0.2

    live = await serve([Scripted()], protocol=Hasty)
    async with wire(live) as connection:
        if beginning:
            await connection.send(beginning)
        assert await connection.closed()


async def test_requests_that_are_only_odd_are_answered(live: Live) -> None:
    key = f"Authorization: Bearer {live.key}"
    odd = {
        head("GET http://elsewhere/health/live HTTP/1.1"): 200,
        head("GET //health//live/ HTTP/1.1"): 200,
        head("GET /health/live?%ff=%00&&&== HTTP/1.1"): 200,
        head("GET /%ff%fe%00 HTTP/1.1"): 404,
        head("GET /v1/models/%ff%fe%00 HTTP/1.1", key): 404,
        head("GET /v1/runs/%ff%00?limit=%ff HTTP/1.1", key): 404,
        head("GET /v1/runs?after=%ff%00 HTTP/1.1", key): 404,
        head("GET /v1/models HTTP/1.1", "Authorization: Bearer \xff\xfe"): 401,
        head("GET /v1/models HTTP/1.1", "Authorization: Bearer  "): 401,
        head("GET /v1/models HTTP/1.1", f"authorization:   bEaReR   {live.key}  "): 200,
        head("GET /v1/models HTTP/1.1", f"X-Api-Key: {live.key}"): 200,
        head("GET /v1/models HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"): 401,
        head("OPTIONS * HTTP/1.1"): 204,
        head("GET /health/live HTTP/1.1", "X: " + "a" * 60_000): 200,
        head("GET /health/live HTTP/1.1", *["X: a"] * 2000): 200,
        head(POST, key, "Content-Length: 2", "Expect: nothing") + b"{}": 400,
        head(POST, key, "X-Agent-Type: \xff", f"Content-Length: {len(json.dumps(HELLO))}")
        + json.dumps(HELLO).encode(): 400,
        head(POST, key, "Content-Length: 99999999999"): 413,
        head(POST, key, "Transfer-Encoding: chunked") + b"0\r\n\r\n": 400,
    }
    for request, status in odd.items():
        async with wire(live) as connection:
            await connection.send(request)
            response = await connection.answer()
            assert response.status == status, request[:100]
            assert response.headers.get("content-type") == (None if status == 204 else "application/json")
            assert response.headers["x-request-id"].startswith("req_")


async def test_a_request_may_come_byte_by_byte_while_others_are_served(
    live: Live, anonymous: httpx.AsyncClient
) -> None:
    request = head("GET /health/live HTTP/1.1")
    async with wire(live) as slow:
        for byte in request[:20]:
            await slow.send(bytes([byte]))
            assert (await anonymous.get("/health/live")).status_code == 200
        await slow.send(request[20:])
        assert (await slow.answer()).status == 200


async def test_requests_in_one_breath_are_answered_in_turn(live: Live) -> None:
    paths = ["/health/live", "/nope", "/v1/models", "/health/live"]
    async with wire(live) as connection:
        await connection.send(b"".join(head(f"GET {path} HTTP/1.1") for path in paths))
        assert [(await connection.answer()).status for _ in paths] == [200, 404, 401, 200]


async def test_a_body_is_asked_for_only_when_it_is_wanted(live: Live) -> None:
    key, body = f"Authorization: Bearer {live.key}", json.dumps(HELLO).encode()
    expecting = [f"Content-Length: {len(body)}", "Expect: 100-continue"]
    async with wire(live) as connection:
        await connection.send(head(POST, key, *expecting))
        assert (await connection.answer()).status == 100
        await connection.send(body)
        assert (await connection.answer()).status == 200
    async with wire(live) as connection:
        await connection.send(head(POST, *expecting))
        assert (await connection.answer()).status == 401


async def test_who_leaves_in_the_middle_of_a_body_disturbs_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    live = await serve([Scripted()])
    beginnings = [
        head(POST, f"Authorization: Bearer {live.key}", field) + body
        for field, body in (
            ("Content-Length: 500", b'{"model":'),
            ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
            ("Transfer-Encoding: chunked", b""),
        )
    ]
    for beginning in beginnings:
        async with wire(live) as connection:
            await connection.send(beginning)
    client = await live.http()
    async with asyncio.timeout(10):
        while (counted := await chats_counted(client)) != {"499": 3.0}:
            assert counted in ({}, {"499": 1.0}, {"499": 2.0})
    assert caplog.records == []


async def chats_counted(client: httpx.AsyncClient) -> dict[str, float]:
    """How many chats ended with each status."""
    lines = (await client.get("/metrics")).text.splitlines()
    chats = [line for line in lines if line.startswith("drover_requests_total{") and CHAT in line]
    return {line.split('status="')[1][:3]: float(line.split()[-1]) for line in chats}


async def test_a_body_that_stops_coming_is_given_up(live: Live) -> None:
    impatient = Edge(live.server, Metrics(dict), origins=(), credentials=False, patience=0.05)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(impatient, lifespan="off", log_config=None, http="httptools")
    server = uvicorn.Server(config)
    serving_ = asyncio.create_task(server.serve(sockets=[listener]))
    expected = envelope("The request's body stopped coming for 0.05 seconds.", "body_timeout")
    key = f"Authorization: Bearer {live.key}"
    try:
        for field, body in (("Content-Length: 500", b"{"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n")):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            connection = Wire(reader, writer)
            await connection.send(head(POST, key, field) + body)
            response = await connection.answer()
            assert (response.status, json.loads(response.body)) == (400, expected)
            assert await connection.closed()
            writer.close()
    finally:
        server.should_exit = True
        await serving_


async def test_a_client_that_sends_too_much_all_the_same_can_read_why(live: Live) -> None:
    async with wire(live) as connection:
        await connection.send(head(POST, f"Authorization: Bearer {live.key}", f"Content-Length: {4 * LIMIT}"))
        assert (await connection.answer()).status == 413
        await connection.send(b" " * (4 * LIMIT))
        await connection.send(head("GET /health/live HTTP/1.1"))
        assert (await connection.answer()).status == 200
