"""A server that is all doors: the routes of users and keys, one behind each kind of lock, and a clock to turn."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import httpx
import jwt
from litestar import Litestar, Request, get
from litestar.datastructures import State

from auth.middleware import authentication
from auth.users import Principal
from gateway.access import Access
from gateway.errors import handler
from gateway.routes import auth as auth_routes
from gateway.routes import users as users_routes
from gateway.settings import Settings, load
from gateway.store.database import Database, migrate

SECRET = "tests-sign-with-this-0123456789-abcdefghij"
PASSWORD = "correct horse"


class Clock:
    """Now, and whatever a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Doors:
    """The server, spoken to over HTTP."""

    def __init__(self, settings: Settings, app: Litestar, access: Access, clock: Clock) -> None:
        self.settings = settings
        self.app = app
        self.access = access
        self.clock = clock

    async def call(self, method: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """One request, by default from 127.0.0.1."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(cast(Any, self.app), client=(options.pop("address", "127.0.0.1"), 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://drover") as client:
            return await client.request(method, path, headers=headers, **options)

    async def post(self, path: str, body: Any, token: str | None = None, **options: Any) -> httpx.Response:
        """A POST of some JSON."""
        return await self.call("POST", path, token, json=body, **options)

    async def knock(self, token: str | None = None, path: str = "/api/auth/me", **options: Any) -> int:
        """The status of a GET."""
        return (await self.call("GET", path, token, **options)).status_code

    async def login(self, name: str, password: str = PASSWORD) -> dict[str, Any]:
        """The tokens of a login that works."""
        response = await self.post("/api/auth/login", {"username": name, "password": password})
        assert response.status_code == 200, response.text
        tokens: dict[str, Any] = response.json()
        return tokens

    async def key(self, user_id: str, *scopes: str) -> str:
        """An API key."""
        return (await self.access.keys.create(user_id, "test", scopes))[1]


@asynccontextmanager
async def doors(folder: Path, **values: Any) -> AsyncIterator[Doors]:
    """Opens the server on the database in a folder."""
    values = {"database_url": f"sqlite+aiosqlite:///{folder}/drover.db"} | values
    settings = load(data_directory=folder, _env_file=None, **values)
    await anyio.to_thread.run_sync(migrate, settings.database)
    database, clock = Database(settings.database), Clock()
    access = Access(settings, SECRET, database, clock)
    app = Litestar(
        [*auth_routes.HANDLERS, *users_routes.HANDLERS, nobody, chat, unnamed],
        middleware=[authentication(access.identity)],
        exception_handlers={Exception: handler(settings.max_body_bytes)},
        state=State({"auth": access}),
        logging_config=None,
        openapi_config=None,
    )
    try:
        yield Doors(settings, app, access, clock)
    finally:
        await database.close()


@get("/public", opt={"public": True})
async def nobody() -> str:
    """Open to all."""
    return "come in"


@get("/chat", opt={"scope": "chat"})
async def chat(request: Request[Principal, Any, Any]) -> str:
    """Open to who may chat."""
    return request.user.name


@get("/unnamed")
async def unnamed() -> str:
    """Its author forgot to say for whom."""
    return "come in"


def access_token(user_id: str, **changes: Any) -> str:
    """A token as Drover issues it, but for what the test changes; None leaves a claim out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "drover",
        "aud": "drover",
        "sub": user_id,
        "iat": now,
        "exp": now + 60,
        "jti": secrets.token_urlsafe(),
    } | changes
    key, algorithm = claims.pop("key", SECRET), claims.pop("algorithm", "HS256")
    headers = claims.pop("headers", None)
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None}, key, algorithm=algorithm, headers=headers
    )


def envelope(message: str, code: str | None, type: str = "invalid_request_error", param: str | None = None) -> Any:
    """The body of an error."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


NO_KEY = envelope(
    "You didn't provide an API key. Send it in an Authorization header using Bearer auth: "
    "Authorization: Bearer YOUR_KEY.",
    None,
)
BAD_KEY = envelope("Incorrect API key or token provided.", "invalid_api_key")
EXPIRED = envelope("The API key or token has expired.", "token_expired")
