"""Who may call, and what becomes of those who may not."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from auth.users import User
from gateway.access import Access
from gateway.store.database import Database
from tests.doors import BAD_KEY, EXPIRED, NO_KEY, PASSWORD, SECRET, Doors, access_token, doors, envelope

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Doors]:
    async with doors(tmp_path) as server:
        yield server


@pytest.fixture
async def admin(server: Doors) -> User:
    user = await server.access.users.add_first_admin()
    assert user is not None
    return user


@pytest.fixture
async def ada(server: Doors, admin: User) -> User:
    return await server.access.users.add("Ada", PASSWORD)


def unsigned(token: str, algorithm: str = "none") -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).decode().rstrip("=")
    return f"{head}.{token.split('.')[1]}."


# Credentials


async def test_a_key_or_a_token_opens(server: Doors, ada: User) -> None:
    key, token = await server.key(ada.id), (await server.login("ada"))["access_token"]
    answers = [
        await server.call("GET", "/api/auth/me", key),
        await server.call("GET", "/api/auth/me", headers={"authorization": f"bEaReR   {token} "}),
        await server.call("GET", "/api/auth/me", headers={"x-api-key": key}),
    ]
    me = {"id": ada.id, "username": "Ada", "role": "user", "scopes": [], "object": "user"}
    assert [{**me, **answer.json()} == answer.json() for answer in answers] == [True] * 3
    assert answers[0].json() == {**me, "key_id": answers[0].json()["key_id"], "expires_at": None}
    assert answers[1].json()["key_id"] is None


@pytest.mark.parametrize("header", [None, "", "Basic YWRhOnB3", "Bearer", "Bearer   ", "sk-without-scheme"])
async def test_no_credential_says_what_to_send(server: Doors, header: str | None) -> None:
    answer = await server.call("GET", "/api/auth/me", headers={"authorization": header} if header is not None else {})
    assert (answer.status_code, answer.json(), answer.headers["www-authenticate"]) == (401, NO_KEY, "Bearer")
    assert answer.headers["content-type"] == "application/json"


WRONG: dict[str, Any] = {
    "garbage": lambda user: "garbage",
    "not ascii": lambda user: "Ωmega".encode().decode("latin-1"),
    "a key that never was": lambda user: "sk-" + "x" * 43,
    "nested too deep": lambda user: base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.x",
    "too long": lambda user: access_token(user, more="x" * 20_000),
    "another secret": lambda user: access_token(user, key="another-secret-0123456789-abcdefghij"),
    "another issuer": lambda user: access_token(user, iss="elsewhere"),
    "another audience": lambda user: access_token(user, aud="elsewhere"),
    "no audience": lambda user: access_token(user, aud=None),
    "no expiry": lambda user: access_token(user, exp=None),
    "no issue time": lambda user: access_token(user, iat=None),
    "no jti": lambda user: access_token(user, jti=None),
    "a jti that is a number": lambda user: jwt.api_jws.encode(
        json.dumps(jwt.decode(access_token(user), options={"verify_signature": False}) | {"jti": 5}).encode(), SECRET
    ),
    "expires never": lambda user: access_token(user, exp=float("inf")),
    "issued tomorrow": lambda user: access_token(user, iat=time.time() + 86400, exp=time.time() + 90000),
    "valid tomorrow": lambda user: access_token(user, nbf=time.time() + 86400, exp=time.time() + 90000),
    "alg none": lambda user: unsigned(access_token(user)),
    "alg None": lambda user: unsigned(access_token(user), "None"),
    "another algorithm": lambda user: access_token(user, algorithm="HS512", key=SECRET * 2),
    "nobody": lambda user: access_token("usr_nobody"),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_credential_is_refused_and_never_repeated(server: Doors, ada: User, kind: str) -> None:
    token = WRONG[kind](ada.id)
    answer = await server.call("GET", "/api/auth/me", headers={"authorization": f"Bearer {token}".encode("latin-1")})
    assert (answer.status_code, answer.json()) == (401, BAD_KEY)
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert token not in answer.text


async def test_an_expired_token_or_key_says_so(server: Doors, ada: User) -> None:
    key, _ = await server.access.keys.create(ada.id, "short", expires_in=60)
    secret = (await server.access.keys.create(ada.id, "short", expires_in=60))[1]
    assert await server.knock(secret) == 200
    server.clock.ahead = 61
    for expired in (secret, access_token(ada.id)):
        answer = await server.call("GET", "/api/auth/me", expired)
        assert (answer.status_code, answer.json()) == (401, EXPIRED)
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert key.expires_at is not None


async def test_public_doors_need_nothing(server: Doors) -> None:
    assert [await server.knock(path="/public"), await server.knock("garbage", "/public")] == [200, 200]


async def test_a_revoked_key_is_out_at_once(server: Doors, ada: User) -> None:
    secret, token = await server.key(ada.id), (await server.login("ada"))["access_token"]
    key = (await server.call("GET", "/api/auth/keys", secret)).json()["data"][0]
    assert (await server.call("DELETE", f"/api/auth/keys/{key['id']}", token)).status_code == 204
    answer = await server.call("GET", "/api/auth/me", secret)
    assert (answer.status_code, answer.json()) == (401, BAD_KEY)


async def test_a_disabled_user_is_out_at_once(server: Doors, admin: User, ada: User) -> None:
    secret, tokens, admin_key = await server.key(ada.id), await server.login("ada"), await server.key(admin.id)
    assert [await server.knock(secret), await server.knock(tokens["access_token"])] == [200, 200]
    changed = await server.call("PATCH", f"/api/users/{ada.id}", admin_key, json={"disabled": True})
    assert (changed.status_code, changed.json()["disabled"]) == (200, True)
    for token in (secret, tokens["access_token"]):
        assert (await server.call("GET", "/api/auth/me", token)).json() == BAD_KEY
    refused = await server.post("/api/auth/refresh", {"refresh_token": tokens["refresh_token"]})
    assert (refused.status_code, refused.json()) == (401, BAD_KEY)
    assert (await server.post("/api/auth/login", {"username": "Ada", "password": PASSWORD})).status_code == 401


async def test_what_another_process_disables_is_out_within_a_second(server: Doors, ada: User) -> None:
    secret = await server.key(ada.id)
    assert await server.knock(secret) == 200
    database = Database(server.settings.database)
    await Access(server.settings, SECRET, database).users.update(ada.id, disabled=True)
    await database.close()
    server.clock.ahead = 1.0
    assert await server.knock(secret) == 401


async def test_a_change_of_role_holds_for_tokens_that_are_out(server: Doors, admin: User, ada: User) -> None:
    token = (await server.login("ada"))["access_token"]
    refused = await server.call("GET", "/api/users", token)
    assert refused.json() == envelope("Only an admin may do this.", "not_permitted", "permission_error")
    await server.access.users.update(ada.id, role="admin")
    assert await server.knock(token, "/api/users") == 200


# Registration


async def test_the_first_to_register_is_admin_and_then_it_is_closed(server: Doors) -> None:
    first = await server.post("/api/auth/register", {"username": " Ada ", "password": PASSWORD})
    assert first.status_code == 201
    created = first.json()
    assert created == {
        "id": created["id"],
        "username": "Ada",
        "role": "admin",
        "disabled": False,
        "created_at": created["created_at"],
        "object": "user",
    }
    second = await server.post("/api/auth/register", {"username": "Bob", "password": PASSWORD})
    assert (second.status_code, second.json()) == (
        403,
        envelope("Registration is closed. Ask an admin for an account.", "registration_closed", "permission_error"),
    )


async def test_of_many_who_register_at_once_one_is_admin(tmp_path: Path) -> None:
    async with doors(tmp_path, registration="open") as server:
        bodies = [{"username": f"user {number}", "password": PASSWORD} for number in range(6)]
        answers = await asyncio.gather(*(server.post("/api/auth/register", body) for body in bodies))
        assert sorted(answer.json()["role"] for answer in answers) == ["admin"] + ["user"] * 5


async def test_of_two_who_register_at_once_where_it_is_closed_one_gets_in(server: Doors) -> None:
    bodies = [{"username": name, "password": PASSWORD} for name in ("ada", "bob")]
    answers = await asyncio.gather(*(server.post("/api/auth/register", body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201, 403]


async def test_names_that_differ_in_case_or_accents_alone_are_one(tmp_path: Path) -> None:
    async with doors(tmp_path, registration="open") as server:
        names = ["Zoe\u0308", "ZOË", " zoë", "STRASSE", "straße"]
        bodies = [{"username": name, "password": PASSWORD} for name in names]
        answers = [await server.post("/api/auth/register", body) for body in bodies]
        assert [answer.status_code for answer in answers] == [201, 400, 400, 201, 400]
        assert answers[1].json() == envelope("That user name is taken.", "username_taken", param="username")
        assert (await server.login("zOË"))["token_type"] == "bearer"


BODIES: dict[str, tuple[bytes, str | None, str | None]] = {
    "no body": (b"", None, None),
    "no JSON": (b"name=ada", None, None),
    "bad UTF-8": (b'{"username": "\xff", "password": "12345678"}', None, None),
    "half a character": (b'{"username": "\\ud800", "password": "12345678"}', None, None),
    "no object": (b"[1]", None, None),
    "nested too deep": (b'{"username": ' + b"[" * 5000, "invalid_type", "username"),
    "no password": (b'{"username": "ada"}', "missing_required_parameter", "password"),
    "a number for a name": (b'{"username": 5, "password": "12345678"}', "invalid_type", "username"),
    "something unknown": (b'{"username": "a", "password": "12345678", "role": "admin"}', "unknown_parameter", "role"),
    "empty name": (b'{"username": "  ", "password": "12345678"}', "invalid_value", "username"),
    "a control character": (b'{"username": "a\\u0000b", "password": "12345678"}', "invalid_value", "username"),
    "invisible": (b'{"username": "a\\u202eb", "password": "12345678"}', "invalid_value", "username"),
    "a colon": (b'{"username": "owui:ada", "password": "12345678"}', "invalid_value", "username"),
    "65 characters": (b'{"username": "%s", "password": "12345678"}' % (b"a" * 65), "invalid_value", "username"),
    "7 characters": (b'{"username": "ada", "password": "1234567"}', "invalid_value", "password"),
    "a long password": (b'{"username": "ada", "password": "%s"}' % (b"a" * 1025), "invalid_value", "password"),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_bad_registration_says_what_is_wrong(server: Doors, kind: str) -> None:
    content, code, param = BODIES[kind]
    answer = await server.call("POST", "/api/auth/register", content=content)
    assert (answer.status_code, answer.json()) == (400, envelope(answer.json()["error"]["message"], code, param=param))


async def test_a_huge_body_is_refused(server: Doors) -> None:
    answer = await server.call("POST", "/api/auth/login", content=b'{"username": "%s"}' % (b"a" * 100_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


# Logging in and out


async def test_a_login_answers_tokens(server: Doors, ada: User) -> None:
    answer = await server.post("/api/auth/login", {"username": "ADA", "password": PASSWORD})
    tokens = answer.json()
    assert (answer.status_code, tokens) == (
        200,
        {
            "access_token": tokens["access_token"],
            "token_type": "bearer",
            "expires_in": 3600,
            "refresh_token": tokens["refresh_token"],
        },
    )
    assert await server.knock(tokens["refresh_token"]) == 401


@pytest.mark.parametrize("name", ["ada", "nobody", "admin", "idp:ada"])
async def test_a_wrong_login_does_not_say_what_was_wrong(server: Doors, ada: User, name: str) -> None:
    answer = await server.post("/api/auth/login", {"username": name, "password": "incorrect horse"})
    assert (answer.status_code, answer.json()) == (401, envelope("Wrong user name or password.", "invalid_login"))


async def test_logins_are_limited_by_name_and_address(server: Doors, ada: User) -> None:
    body = {"username": "ada", "password": "incorrect horse"}
    answers = await asyncio.gather(*(server.post("/api/auth/login", body) for _ in range(11)))
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429]
    limited = await server.post("/api/auth/login", {"username": " ADA", "password": PASSWORD})
    assert (limited.status_code, limited.json()) == (
        429,
        envelope("Too many attempts. Try again later.", "rate_limit_exceeded", "rate_limit_error"),
    )
    assert 0 < int(limited.headers["retry-after"]) <= 300
    elsewhere = await server.post("/api/auth/login", {**body, "password": PASSWORD}, address="10.0.0.1")
    assert elsewhere.status_code == 200


async def test_a_right_login_clears_the_count(server: Doors, ada: User) -> None:
    for _ in range(2):
        for _ in range(6):
            await server.post("/api/auth/login", {"username": "ada", "password": "incorrect horse"})
        await server.login("ada")


async def test_one_address_has_only_so_many_attempts_whatever_the_names(server: Doors, ada: User) -> None:
    addresses = ["2001:db8::1", "2001:db8::2"]
    statuses = [
        (
            await server.post(
                "/api/auth/register", {"username": f"u{number}", "password": PASSWORD}, address=addresses[number % 2]
            )
        ).status_code
        for number in range(51)
    ]
    assert statuses == [403] * 50 + [429]


async def test_a_refresh_token_counts_once_and_a_thief_ends_it_for_both(server: Doors, ada: User) -> None:
    first = await server.login("ada")
    renewed = await server.post("/api/auth/refresh", {"refresh_token": first["refresh_token"]})
    second = renewed.json()
    assert (renewed.status_code, second["token_type"], second["expires_in"]) == (200, "bearer", 3600)
    assert await server.knock(second["access_token"]) == 200
    stolen = await server.post("/api/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert (stolen.status_code, stolen.json()) == (401, BAD_KEY)
    assert (await server.post("/api/auth/refresh", {"refresh_token": second["refresh_token"]})).status_code == 401
    assert [await server.knock(each["access_token"]) for each in (first, second)] == [401, 401]
    assert await server.knock((await server.login("ada"))["access_token"]) == 200


async def test_of_two_refreshes_at_once_one_succeeds(server: Doors, ada: User) -> None:
    body = {"refresh_token": (await server.login("ada"))["refresh_token"]}
    answers = await asyncio.gather(*(server.post("/api/auth/refresh", body) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_an_old_refresh_token_has_expired(server: Doors, ada: User) -> None:
    body = {"refresh_token": (await server.login("ada"))["refresh_token"]}
    server.clock.ahead = 30 * 86400 + 1
    assert (await server.post("/api/auth/refresh", body)).json() == EXPIRED
    await server.access.purge()
    assert (await server.post("/api/auth/refresh", body)).json() == BAD_KEY


async def test_a_logout_ends_the_login_and_no_other(server: Doors, ada: User) -> None:
    here, there = await server.login("ada"), await server.login("ada")
    answer = await server.call("POST", "/api/auth/logout", here["access_token"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await server.call("GET", "/api/auth/me", here["access_token"])).json() == BAD_KEY
    assert (await server.post("/api/auth/refresh", {"refresh_token": here["refresh_token"]})).json() == BAD_KEY
    await server.access.purge()
    assert [await server.knock(each["access_token"]) for each in (here, there)] == [401, 200]


async def test_a_key_is_revoked_rather_than_logged_out(server: Doors, ada: User) -> None:
    answer = await server.call("POST", "/api/auth/logout", await server.key(ada.id))
    assert (answer.status_code, answer.json()) == (
        400,
        envelope("An API key is not logged out; revoke it.", "not_logged_in"),
    )


async def test_a_new_password_ends_refresh_tokens(server: Doors, admin: User, ada: User) -> None:
    tokens, key = await server.login("ada"), await server.key(admin.id)
    await server.call("PATCH", f"/api/users/{ada.id}", key, json={"password": "battery staple"})
    refused = await server.post("/api/auth/refresh", {"refresh_token": tokens["refresh_token"]})
    assert (refused.status_code, refused.json()) == (401, BAD_KEY)
    await server.login("ada", "battery staple")


# API keys


async def test_a_key_is_shown_once(server: Doors, ada: User) -> None:
    token = (await server.login("ada"))["access_token"]
    body = {"name": "laptop", "scopes": ["models", "chat"], "expires_in": 3600}
    answer = await server.post("/api/auth/keys", body, token)
    created = answer.json()
    key = {
        "id": created["id"],
        "user_id": ada.id,
        "name": "laptop",
        "prefix": created["key"][:9],
        "scopes": ["chat", "models"],
        "created_at": created["created_at"],
        "expires_at": created["created_at"] + 3600,
        "revoked_at": None,
        "last_used_at": None,
        "object": "api_key",
    }
    assert (answer.status_code, created) == (201, {**key, "key": created["key"]})
    assert (created["key"][:3], len(created["key"])) == ("sk-", 46)
    assert (await server.call("GET", "/api/auth/keys", token)).json() == {"data": [key], "object": "list"}
    files = b"".join(file.read_bytes() for file in server.settings.data_directory.iterdir())
    assert created["key"][3:].encode() not in files


async def test_when_a_key_was_used_last_is_known_after_the_upkeep(server: Doors, ada: User) -> None:
    secret = await server.key(ada.id)
    await server.knock(secret)
    await server.access.identity.save_uses()
    listed = (await server.call("GET", "/api/auth/keys", secret)).json()["data"][0]
    assert listed["last_used_at"] == pytest.approx(time.time(), abs=30)


async def test_a_limited_key_opens_only_its_own_doors(server: Doors, admin: User) -> None:
    keys = [await server.key(admin.id, *scopes) for scopes in ((), ("chat",), ("models", "keys"), ("admin",))]
    paths = ("/api/auth/me", "/chat", "/api/auth/keys", "/api/users", "/unnamed")
    assert [[await server.knock(key, path) for path in paths] for key in keys] == [
        [200, 200, 200, 200, 200],
        [200, 200, 403, 403, 403],
        [200, 403, 200, 403, 403],
        [200, 403, 403, 200, 403],
    ]
    refused = await server.call("GET", "/chat", keys[2])
    message = "This needs the scope `chat`; your API key has keys, models."
    assert refused.json() == envelope(message, "insufficient_scope", "permission_error")
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


async def test_a_limited_key_makes_no_greater_one(server: Doors, admin: User) -> None:
    key = await server.key(admin.id, "keys", "chat")
    scopes: list[list[str]] = [[], ["admin"], ["chat", "models"], ["chat"]]
    answers = [await server.post("/api/auth/keys", {"name": "more", "scopes": each}, key) for each in scopes]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 201]


async def test_only_an_admin_makes_keys_that_act_for_others(server: Doors, admin: User, ada: User) -> None:
    body = {"name": "webui", "scopes": ["service", "chat"]}
    refused = await server.post("/api/auth/keys", body, await server.key(ada.id))
    message = "Only an admin can make a key with the scope `service`."
    assert (refused.status_code, refused.json()) == (403, envelope(message, "not_permitted", "permission_error"))
    assert (await server.post("/api/auth/keys", body, await server.key(admin.id))).status_code == 201


async def test_anothers_key_is_not_there(server: Doors, admin: User, ada: User) -> None:
    hers, key = await server.key(ada.id), await server.key(admin.id)
    bob = await server.access.users.add("bob")
    key_id = (await server.call("GET", "/api/auth/keys", hers)).json()["data"][0]["id"]
    answers = [
        await server.call("DELETE", f"/api/auth/keys/{each}", await server.key(bob.id)) for each in (key_id, "key_no")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert [answer.json() for answer in answers] == [envelope("There is no such API key.", "not_found")] * 2
    assert await server.knock(hers) == 200
    assert (await server.call("DELETE", f"/api/auth/keys/{key_id}", key)).status_code == 204
    assert await server.knock(hers) == 401


async def test_an_admin_manages_the_keys_of_others(server: Doors, admin: User, ada: User) -> None:
    key, hers = await server.key(admin.id), await server.key(ada.id)
    made = await server.post("/api/auth/keys", {"name": "for ada", "user_id": ada.id}, key)
    assert (made.status_code, made.json()["user_id"]) == (201, ada.id)
    listed = (await server.call("GET", f"/api/auth/keys?user_id={ada.id}", key)).json()["data"]
    assert {each["name"] for each in listed} == {"for ada", "test"}
    assert (await server.post("/api/auth/keys", {"name": "x", "user_id": "usr_no"}, key)).status_code == 404
    for answer in (
        await server.post("/api/auth/keys", {"name": "x", "user_id": admin.id}, hers),
        await server.call("GET", f"/api/auth/keys?user_id={admin.id}", hers),
        await server.call("GET", f"/api/auth/keys?user_id={ada.id}", await server.key(admin.id, "keys")),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_permitted")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "name"),
        ({"name": " "}, "invalid_value", "name"),
        ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": "a", "scopes": "chat"}, "invalid_type", "scopes"),
        ({"name": "a", "scopes": ["everything"]}, "invalid_value", "scopes"),
        ({"name": "a", "expires_in": "60"}, "invalid_type", "expires_in"),
        ({"name": "a", "expires_in": 0}, "invalid_value", "expires_in"),
        ({"name": "a", "expires_in": 10**30}, "invalid_value", "expires_in"),
        ({"name": "a", "expires_at": 1}, "invalid_value", "expires_at"),
        ({"name": "a", "expires_at": 2e9, "expires_in": 5}, "invalid_value", "expires_at"),
    ],
)
async def test_a_bad_key_request_says_what_is_wrong(server: Doors, ada: User, body: Any, code: str, param: str) -> None:
    answer = await server.post("/api/auth/keys", body, await server.key(ada.id))
    assert (answer.status_code, answer.json()) == (400, envelope(answer.json()["error"]["message"], code, param=param))


# Users


async def test_admins_list_and_add_users(server: Doors, admin: User, ada: User) -> None:
    key = await server.key(admin.id)
    added = await server.post("/api/users", {"username": "bob", "role": "admin"}, key)
    assert (added.status_code, added.json()["role"]) == (201, "admin")
    page = (await server.call("GET", "/api/users?limit=2", key)).json()
    assert ([user["username"] for user in page["data"]], page["has_more"]) == (["admin", "Ada"], True)
    page = (await server.call("GET", "/api/users?limit=2&offset=2", key)).json()
    assert ([user["username"] for user in page["data"]], page["has_more"]) == (["bob"], False)


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "user"}])
async def test_the_last_admin_stays(server: Doors, admin: User, change: Any) -> None:
    key = await server.key(admin.id)
    answer = await server.call("PATCH", f"/api/users/{admin.id}", key, json=change)
    message = "This is the last admin: make another one first."
    assert (answer.status_code, answer.json()) == (400, envelope(message, "last_admin"))
    assert await server.knock(key, "/api/users") == 200


async def test_a_change_of_nobody_is_a_404(server: Doors, admin: User) -> None:
    answer = await server.call("PATCH", "/api/users/usr_no", await server.key(admin.id), json={"disabled": True})
    assert (answer.status_code, answer.json()) == (404, envelope("There is no such user.", "not_found"))


async def test_the_first_start_makes_an_admin_and_a_key_once(server: Doors) -> None:
    key = await server.access.first_admin_key()
    assert key is not None
    assert (await server.call("GET", "/api/auth/me", key)).json()["role"] == "admin"
    assert await server.access.first_admin_key() is None
    late = await server.post("/api/auth/register", {"username": "late", "password": PASSWORD})
    assert late.status_code == 403
