"""Tokens of an identity provider, and the end users that Open WebUI names."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth.users import User
from tests.doors import BAD_KEY, EXPIRED, SECRET, Doors, access_token, doors, envelope

pytestmark = pytest.mark.anyio

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
ISSUER = "https://id.example.org"
OWUI_SECRET = "open-webui-signs-with-this-9876543210"


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public half of a key as a JSON Web Key."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    entry: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    entry.pop("key_ops", None)
    return entry | ({"kid": kid} if kid else {}) | more


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def signed(key: Any, kid: str | None = None, **changes: Any) -> str:
    """A token of the provider."""
    claims = {
        "iss": ISSUER,
        "aud": "drover-clients",
        "key": key,
        "algorithm": "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256",
        "headers": {"kid": kid} if kid else None,
    }
    return access_token("ada-at-idp", **(claims | changes))


def provided(tmp_path: Path, jwks: str, **values: Any) -> Any:
    return doors(tmp_path, jwks=jwks, jwks_issuer=ISSUER, jwks_audience="drover-clients", **values)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Doors]:
    """Takes tokens of a provider whose keys are in a file; one of them is a shared secret, which is no public key."""
    file = tmp_path / "jwks.json"
    secret = {"kty": "oct", "kid": "shared", "k": "c2hhcmVkLXNlY3JldC1zaGFyZWQtc2VjcmV0LXNoYXJlZC0xMjM"}
    file.write_bytes(key_set(public(RSA, "r", alg="RS256", use="sig"), public(EC, "e"), secret))
    async with provided(tmp_path, str(file)) as server:
        yield server


class KeyServer:
    """The provider's own HTTP server."""

    def __init__(self) -> None:
        self.document: bytes | None = None
        self.asked = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        status, body = ("200 OK", self.document) if self.document is not None else ("500 Broken", b"")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize(("key", "kid"), [(RSA, "r"), (EC, "e")], ids=["RS256", "ES256"])
async def test_a_token_of_the_provider_opens_and_its_user_is_made_at_first_sight(
    server: Doors, key: Any, kid: str
) -> None:
    await server.access.users.add_first_admin()
    answers = [await server.call("GET", "/api/auth/me", signed(key, kid)) for _ in range(2)]
    me = answers[0].json()
    assert (me["username"], me["role"], me["scopes"]) == ("idp:ada-at-idp", "user", [])
    assert answers[1].json()["id"] == me["id"]
    assert len(await server.access.users.page()) == 2


async def test_subjects_that_differ_in_case_are_two_users(server: Doors) -> None:
    tokens = [signed(RSA, "r", sub=sub) for sub in ("abc", "ABC")]
    first, second = [(await server.call("GET", "/api/auth/me", token)).json()["id"] for token in tokens]
    assert first != second


async def test_a_first_sight_by_many_at_once_makes_one_user(server: Doors) -> None:
    tokens = [signed(RSA, "r") for _ in range(8)]
    answers = await asyncio.gather(*(server.call("GET", "/api/auth/me", token) for token in tokens))
    assert len({answer.json()["id"] for answer in answers}) == 1


WRONG: dict[str, Any] = {
    "another's key": lambda: signed(OTHER_RSA, "r"),
    "an unknown key": lambda: signed(RSA, "unknown"),
    "no key id among many keys": lambda: signed(RSA),
    "the other kind of key": lambda: signed(EC, "r"),
    "another issuer": lambda: signed(RSA, "r", iss="https://id.example.com"),
    "our own issuer": lambda: signed(RSA, "r", iss="drover", aud="drover"),
    "another audience": lambda: signed(RSA, "r", aud="drover"),
    "no jti": lambda: signed(RSA, "r", jti=None),
    "no subject": lambda: signed(RSA, "r", sub=None),
    "another algorithm": lambda: signed(RSA, "r", algorithm="RS512"),
    "our own secret": lambda: signed(SECRET, "r", algorithm="HS256"),
    "the shared secret of the key set": lambda: signed(
        "shared-secret-shared-secret-shared-123", "shared", algorithm="HS256"
    ),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_token_of_the_provider_is_refused(server: Doors, kind: str) -> None:
    answer = await server.call("GET", "/api/auth/me", WRONG[kind]())
    assert (answer.status_code, answer.json()) == (401, BAD_KEY)
    assert await server.access.users.page() == []


async def test_a_public_key_used_as_a_secret_is_refused(server: Doors) -> None:
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(signed(RSA, "r"), options={"verify_signature": False})
    head = {"alg": "HS256", "typ": "JWT", "kid": "r"}
    # PyJWT refuses to make such a token, so it is made by hand.
    parts = [jwt.utils.base64url_encode(json.dumps(part).encode()) for part in (head, claims)]
    message = b".".join(parts)
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(message, pem)
    forged = b".".join([message, jwt.utils.base64url_encode(mac)]).decode()
    assert (await server.call("GET", "/api/auth/me", forged)).json() == BAD_KEY


async def test_an_expired_token_of_the_provider_says_so(server: Doors) -> None:
    past = int(time.time()) - 10
    assert (await server.call("GET", "/api/auth/me", signed(RSA, "r", exp=past))).json() == EXPIRED


async def test_a_user_of_the_provider_can_log_out_and_be_disabled(server: Doors) -> None:
    first, second = signed(RSA, "r"), signed(RSA, "r")
    assert (await server.call("POST", "/api/auth/logout", first)).status_code == 204
    assert [await server.knock(first), await server.knock(second)] == [401, 200]
    user = await server.access.users.by_name("idp:ada-at-idp")
    await server.access.users.update(user.id, disabled=True)
    assert await server.knock(second) == 401


async def test_people_still_log_in_with_a_password(server: Doors) -> None:
    await server.access.users.add("ada", "correct horse")
    assert await server.knock((await server.login("ada"))["access_token"]) == 200


async def test_keys_behind_a_url_are_read_once_again_for_a_new_one_and_kept_when_it_is_down(tmp_path: Path) -> None:
    keys = KeyServer()
    async with keys.running() as url, provided(tmp_path, url) as server:
        down = await server.call("GET", "/api/auth/me", signed(RSA, "r"))
        message = "The identity provider's keys are not available, so its tokens cannot be checked now."
        assert (down.status_code, down.json()) == (503, envelope(message, "upstream_unavailable", "server_error"))
        assert down.headers["retry-after"] == "5"

        keys.document = key_set(public(RSA, "r"))
        server.clock.ahead += 6
        assert [await server.knock(signed(RSA, "r")) for _ in range(3)] == [200] * 3
        assert keys.asked == 2

        keys.document = key_set(public(EC, "e"))
        assert [await server.knock(signed(EC, "e")) for _ in range(3)] == [401] * 3
        assert keys.asked == 2
        server.clock.ahead += 50
        assert await server.knock(signed(RSA, "r")) == 200
        server.clock.ahead += 11
        longer = {"exp": time.time() + 9000}
        assert [await server.knock(signed(EC, "e", **longer)), await server.knock(signed(RSA, "r", **longer))] == [
            200,
            401,
        ]
        assert keys.asked == 3

        keys.document = None
        server.clock.ahead += 3700
        assert [await server.knock(signed(EC, "e", **longer)) for _ in range(2)] == [200] * 2
        assert keys.asked == 4


@pytest.mark.parametrize("document", [b"", b"<html>", b"[]", b'{"keys": 5}', b'{"keys": [5, {"kty": "RSA"}]}'])
async def test_a_document_that_is_no_key_set_is_as_good_as_none(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "jwks.json").write_bytes(document)
    async with provided(tmp_path, str(tmp_path / "jwks.json")) as server:
        assert await server.knock(signed(RSA, "r")) == 503


async def test_a_single_key_needs_no_id(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(key_set(public(RSA)))
    async with provided(tmp_path, str(tmp_path / "jwks.json")) as server:
        assert await server.knock(signed(RSA)) == 200


# Open WebUI


def webui(**changes: Any) -> dict[str, str]:
    """The header that Open WebUI signs."""
    claims = {"iss": "open-webui", "aud": None, "jti": None, "key": OWUI_SECRET, "role": "admin", "name": "Ada"}
    return {"x-openwebui-user-jwt": access_token("7f3", **(claims | changes))}


@pytest.fixture
async def trusting(tmp_path: Path) -> AsyncIterator[Doors]:
    async with doors(tmp_path, openwebui_jwt_secret=OWUI_SECRET) as server:
        yield server


async def someone(server: Doors) -> User:
    user = await server.access.users.add_first_admin()
    assert user is not None
    return user


async def test_a_service_key_acts_for_the_person_whom_the_header_names(trusting: Doors) -> None:
    admin = await someone(trusting)
    key = await trusting.key(admin.id, "service", "chat")
    me = (await trusting.call("GET", "/api/auth/me", key, headers=webui())).json()
    assert (me["username"], me["role"], me["scopes"]) == ("owui:7f3", "user", ["chat", "service"])
    assert (await trusting.call("GET", "/api/auth/me", key)).json()["username"] == "admin"
    assert (await trusting.call("GET", "/chat", key, headers=webui())).text == "owui:7f3"
    assert await trusting.knock(key, "/api/users", headers=webui()) == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "someone"},
        {"exp": None},
        {"iat": None},
        {"sub": ""},
        {"key": "another-secret-0123456789-abcdefghij"},
        {"algorithm": "HS512", "key": OWUI_SECRET * 2},
    ],
    ids=str,
)
async def test_a_service_key_with_a_bad_header_is_refused(trusting: Doors, changes: dict[str, Any]) -> None:
    key = await trusting.key((await someone(trusting)).id, "service")
    answer = await trusting.call("GET", "/api/auth/me", key, headers=webui(**changes))
    assert (answer.status_code, answer.json()) == (401, BAD_KEY)


async def test_the_header_counts_with_no_other_key_and_plain_headers_never(trusting: Doors) -> None:
    admin = await someone(trusting)
    plain = {"x-openwebui-user-id": "7f3", "x-openwebui-user-name": "Ada", "x-openwebui-user-role": "user"}
    for key, headers in (
        (await trusting.key(admin.id), webui()),
        (await trusting.key(admin.id, "chat"), webui()),
        (await trusting.key(admin.id, "service"), plain),
    ):
        assert (await trusting.call("GET", "/api/auth/me", key, headers=headers)).json()["username"] == "admin"


async def test_a_disabled_end_user_is_out(trusting: Doors) -> None:
    key, header = await trusting.key((await someone(trusting)).id, "service"), webui()
    assert await trusting.knock(key, headers=header) == 200
    user = await trusting.access.users.by_name("owui:7f3")
    await trusting.access.users.update(user.id, disabled=True)
    assert await trusting.knock(key, headers=header) == 401
