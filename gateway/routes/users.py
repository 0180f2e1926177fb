"""/api/users: admins see users, add them, change their roles and passwords, and disable them."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get, patch, post
from litestar.params import FromPath, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from auth.guards import admin
from auth.passwords import MAX_LENGTH
from auth.users import Principal, Role, User
from gateway.access import Access
from gateway.errors import decode

Name = Annotated[str, Meta(min_length=1, max_length=400)]
Password = Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH)]

MAX_BODY = 64 * 1024
"""Bytes. Nobody has more to say about an account."""


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/users."""

    username: Name
    password: Password | None = None
    """None: the user can only come with an API key."""
    role: Role = "user"


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of PATCH /api/users/{id}: what is left out stays."""

    role: Role | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    password: Password | UnsetType = UNSET


class UserOut(Struct, frozen=True):
    """A user."""

    id: str
    username: str
    role: Role
    disabled: bool
    created_at: float
    object: Literal["user"] = "user"


class UserList(Struct, frozen=True):
    """Some of the users, oldest first."""

    data: list[UserOut]
    has_more: bool
    object: Literal["list"] = "list"


_new_user = msgspec.json.Decoder(NewUser)
_change = msgspec.json.Decoder(UserChange)


@get("/api/users", opt={"scope": "admin"}, guards=[admin], operation_id="listUsers")
async def list_users(
    request: Request[Principal, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    offset: Annotated[int, QueryParameter(ge=0, le=10**9)] = 0,
) -> UserList:
    """Lists users."""
    users = await access_of(request).users.page(limit + 1, offset)
    return UserList([user_out(user) for user in users[:limit]], len(users) > limit)


@post("/api/users", opt={"scope": "admin"}, guards=[admin], request_max_body_size=MAX_BODY, operation_id="addUser")
async def add_user(request: Request[Principal, Any, Any]) -> UserOut:
    """Adds a user, whether registration is open or not."""
    body = decode(_new_user, await request.body())
    return user_out(await access_of(request).users.add(body.username, body.password, body.role))


@patch(
    "/api/users/{user_id:str}",
    opt={"scope": "admin"},
    guards=[admin],
    request_max_body_size=MAX_BODY,
    operation_id="changeUser",
)
async def change_user(request: Request[Principal, Any, Any], user_id: FromPath[str]) -> UserOut:
    """Changes a user's role or password, or disables or enables them. It holds from the next request on."""
    body = decode(_change, await request.body())
    users = access_of(request).users
    return user_out(await users.update(user_id, role=body.role, disabled=body.disabled, password=body.password))


def access_of(request: Request[Any, Any, Any]) -> Access:
    """Users, logins and keys of the server that a request reached."""
    access: Access = request.app.state.auth
    return access


def user_out(user: User) -> UserOut:
    """The user as the world sees them."""
    return UserOut(user.id, user.name, user.role, user.disabled, user.created_at)


HANDLERS = (list_users, add_user, change_user)
