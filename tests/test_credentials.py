"""Every route of the real server, with every kind of credential that must not open it."""

import time
from typing import Any

import jwt
import pytest

from tests.doors import BAD_KEY, EXPIRED, NO_KEY, envelope
from tests.live import SECRET, Live

pytestmark = pytest.mark.anyio

PUBLIC = {
    ("POST", "/api/auth/login"),
    ("POST", "/api/auth/refresh"),
    ("POST", "/api/auth/register"),
}
"""Routes that are open although they are not about health."""


def routes(live: Live) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and `opt` of each handler."""
    return [
        (method, route.path_format.replace("{", "").replace("}", ""), handler.opt)
        for route in live.server._app.routes
        for handler in getattr(route, "route_handlers", [])
        for method in handler.http_methods - {"OPTIONS"}
        if handler.name != "options_handler"
    ]


def token(**changes: Any) -> str:
    now = int(time.time())
    claims = {"iss": "drover", "aud": "drover", "sub": "usr_x", "jti": "x", "iat": now, "exp": now + 60}
    return jwt.encode(claims | changes, SECRET, algorithm="HS256")


async def revoked(live: Live) -> str:
    admin = await live.http()
    key = (await admin.post("/api/auth/keys", json={"name": "short-lived"})).json()
    assert (await admin.delete(f"/api/auth/keys/{key['id']}")).status_code == 204
    return str(key["key"])


async def test_no_route_opens_without_a_credential_that_counts(live: Live) -> None:
    bad = {
        "": NO_KEY,
        "sk-wrong": BAD_KEY,
        "garbage": BAD_KEY,
        token(exp=1): EXPIRED,
        token(iss="elsewhere"): BAD_KEY,
        token(aud="elsewhere"): BAD_KEY,
        await revoked(live): BAD_KEY,
    }
    closed = [(method, path) for method, path, opt in routes(live) if not opt.get("public")]
    assert ("POST", "/v1/chat/completions") in closed
    for credential, body in bad.items():
        client = await live.http(credential)
        for method, path in closed:
            answer = await client.request(method, path, content=b"{")
            assert (method, path, answer.status_code, answer.json()) == (method, path, 401, body)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/json"


async def test_only_health_and_logging_in_are_public(live: Live) -> None:
    public = {(method, path) for method, path, opt in routes(live) if opt.get("public")}
    told = {each for each in public if not each[1].startswith(("/health", "/docs/assets/"))}
    assert told - PUBLIC <= {
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
    }
    assert public >= PUBLIC


async def test_every_closed_route_says_which_scope_opens_it(live: Live) -> None:
    assert [path for _, path, opt in routes(live) if not opt.get("public") and not opt.get("scope")] == []


async def test_a_key_with_other_scopes_is_told_which_it_needs(live: Live) -> None:
    admin = await live.http()
    key = (await admin.post("/api/auth/keys", json={"name": "lister", "scopes": ["models"]})).json()["key"]
    answer = await (await live.http(key)).post("/v1/chat/completions", json={})
    message = "This needs the scope `chat`; your API key has models."
    assert (answer.status_code, answer.json()) == (403, envelope(message, "insufficient_scope", "permission_error"))


async def test_anothers_run_is_not_there(live: Live) -> None:
    admin = await live.http()
    answer = await admin.post(
        "/v1/chat/completions", json={"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}
    )
    run = answer.headers["x-run-id"]
    assert (await admin.get(f"/v1/runs/{run}")).status_code == 200
    bob = (await admin.post("/api/users", json={"username": "bob"})).json()["id"]
    key = (await admin.post("/api/auth/keys", json={"name": "bob", "user_id": bob})).json()["key"]
    other = await live.http(key)
    paths = [("GET", f"/v1/runs/{run}"), ("GET", f"/v1/runs/{run}/events"), ("POST", f"/v1/runs/{run}/cancel")]
    assert [(await other.request(*path)).status_code for path in paths] == [404, 404, 404]
    assert (await other.get("/v1/runs")).json()["data"] == []
