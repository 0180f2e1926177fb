"""/api/auth: registering, logging in and out, and API keys."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Meta, Struct

from auth.errors import NotPermitted
from auth.guards import ANY
from auth.keys import ApiKey, check_grant, known
from auth.sessions import Grant
from auth.users import Principal, Role
from gateway.errors import decode
from gateway.routes.users import MAX_BODY, Name, Password, UserOut, access_of, user_out


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of /register and /login."""

    username: Name
    password: Password


class Refresh(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of /refresh."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=1024)]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /keys."""

    name: Name
    scopes: Annotated[list[str], Meta(max_length=32)] = []
    """Empty: all that the user may do."""
    expires_in: Annotated[int, Meta(ge=1, le=10 * 366 * 86400)] | None = None
    """Seconds; or `expires_at`, or neither: never."""
    expires_at: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    user_id: Name | None = None
    """Whose key it is to be; only an admin says so."""


class Me(Struct, frozen=True):
    """Who a request acts as."""

    id: str
    username: str
    role: Role
    scopes: list[str]
    """Empty: all that the role may do."""
    key_id: str | None
    expires_at: float | None
    """When the key or token expires."""
    object: Literal["user"] = "user"


class KeyOut(Struct, frozen=True):
    """An API key, without the secret."""

    id: str
    user_id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    object: Literal["api_key"] = "api_key"


class KeyCreated(KeyOut, frozen=True, kw_only=True):
    """A new API key, with the secret that is shown this once."""

    key: str


class KeyList(Struct, frozen=True):
    """All keys of a user, newest first."""

    data: list[KeyOut]
    object: Literal["list"] = "list"


_credentials = msgspec.json.Decoder(Credentials)
_refresh = msgspec.json.Decoder(Refresh)
_new_key = msgspec.json.Decoder(NewKey)


@post("/api/auth/register", opt={"public": True}, request_max_body_size=MAX_BODY, operation_id="register")
async def register(request: Request[Any, Any, Any]) -> UserOut:
    """Registers a user. The first one is admin; after that only where registration is open."""
    access, body = access_of(request), decode(_credentials, await request.body())
    await access.attempts.count(address_of(request))
    return user_out(await access.users.register(body.username, body.password))


@post("/api/auth/login", status_code=200, opt={"public": True}, request_max_body_size=MAX_BODY, operation_id="login")
async def login(request: Request[Any, Any, Any]) -> Grant:
    """Exchanges a user name and a password for tokens."""
    access, body = access_of(request), decode(_credentials, await request.body())
    return await access.sessions.login(body.username, body.password, address_of(request))


@post(
    "/api/auth/refresh", status_code=200, opt={"public": True}, request_max_body_size=MAX_BODY, operation_id="refresh"
)
async def refresh(request: Request[Any, Any, Any]) -> Grant:
    """Exchanges a refresh token for fresh tokens. It counts once: a second time ends the whole login."""
    return await access_of(request).sessions.refresh(decode(_refresh, await request.body()).refresh_token)


@post("/api/auth/logout", status_code=204, opt={"scope": ANY}, operation_id="logout")
async def logout(request: Request[Principal, Any, Any]) -> None:
    """Ends the login that the token descends from, its refresh token included."""
    await access_of(request).sessions.logout(request.user)


@get("/api/auth/me", opt={"scope": ANY}, operation_id="me")
async def me(request: Request[Principal, Any, Any]) -> Me:
    """Says who the caller is."""
    user = request.user
    return Me(user.user_id, user.name, user.role, sorted(user.scopes), user.key_id, user.expires_at)


@post("/api/auth/keys", opt={"scope": "keys"}, request_max_body_size=MAX_BODY, operation_id="createKey")
async def create_key(request: Request[Principal, Any, Any]) -> KeyCreated:
    """Creates an API key. The secret is in this answer and in no other."""
    access, body = access_of(request), decode(_new_key, await request.body())
    owner = await _owner(request, body.user_id)
    check_grant(request.user, known(body.scopes))
    key, secret = await access.keys.create(
        owner, body.name, body.scopes, expires_in=body.expires_in, expires_at=body.expires_at
    )
    return KeyCreated(**msgspec.structs.asdict(key_out(key)), key=secret)


@get("/api/auth/keys", opt={"scope": "keys"}, operation_id="listKeys")
async def list_keys(
    request: Request[Principal, Any, Any], user_id: Annotated[str | None, QueryParameter(max_length=400)] = None
) -> KeyList:
    """Lists the caller's API keys, or those of the user that an admin asks for."""
    keys = await access_of(request).keys.of_user(await _owner(request, user_id))
    return KeyList([key_out(key) for key in keys])


@delete("/api/auth/keys/{key_id:str}", status_code=204, opt={"scope": "keys"}, operation_id="revokeKey")
async def revoke_key(request: Request[Principal, Any, Any], key_id: FromPath[str]) -> None:
    """Revokes an API key of the caller; an admin revokes anybody's."""
    owner = None if administers(request.user) else request.user.user_id
    await access_of(request).keys.revoke(key_id, owner)


async def _owner(request: Request[Principal, Any, Any], user_id: str | None) -> str:
    """Whose keys a request is about."""
    if user_id is None or user_id == request.user.user_id:
        return request.user.user_id
    if not administers(request.user):
        raise NotPermitted("Only an admin manages other users' keys.")
    return (await access_of(request).users.get(user_id)).id


def administers(principal: Principal) -> bool:
    """Whether the request may act for other users: its user is an admin, and its key not limited to less."""
    return principal.role == "admin" and principal.may("admin")


def address_of(request: Request[Any, Any, Any]) -> str:
    """Where a request comes from: the other end of the socket, or what a trusted proxy said."""
    return request.client.host if request.client else "unknown"


def key_out(key: ApiKey) -> KeyOut:
    """The key as its owner sees it."""
    return KeyOut(**{**msgspec.structs.asdict(key), "scopes": sorted(key.scopes)})


HANDLERS = (register, login, refresh, logout, me, create_key, list_keys, revoke_key)
