"""A live server for tests: the real application on a real socket and a temporary database."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI

from gateway.access import Access
from gateway.app import Server, create_app
from gateway.protocol import Protocol
from gateway.settings import Settings, load
from gateway.store.database import Database
from models.backend import Backend
from tools.python import Sandbox

SECRET = "b1946ac92492d2347c6235b4d2611184d0f8a7a9"

PATIENCE = 20.0
"""Seconds after which what did not happen counts as never."""

Serve = Callable[..., Awaitable["Live"]]


async def until(come_true: Callable[[], bool]) -> None:
    """Waits for what another process does, of which there is no event here. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not come_true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Live:
    """A server that is up."""

    def __init__(self, server: Server, settings: Settings, address: str, key: str) -> None:
        self.server = server
        self.settings = settings
        self.url = address
        self.key = key
        """The admin's API key."""
        self.clients = AsyncExitStack()

    async def http(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        """A client that sends `token`; an empty one sends none."""
        token = self.key if token is None else token
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.AsyncClient(base_url=self.url, headers=bearer | headers, timeout=30)
        return await self.clients.enter_async_context(client)

    async def openai(self, **options: Any) -> AsyncOpenAI:
        """OpenAI's own client. It does not retry, unless told to."""
        options.setdefault("api_key", self.key)
        options.setdefault("max_retries", 0)
        return await self.clients.enter_async_context(AsyncOpenAI(base_url=f"{self.url}/v1", **options))


@asynccontextmanager
async def serving(
    folder: Path,
    database: Path,
    backends: Sequence[Backend] | None,
    protocol: type[Protocol] = Protocol,
    sandbox: Sandbox | None = None,
    **values: Any,
) -> AsyncIterator[Live]:
    """A server on a copy of `database`, with an admin.

    Without a sandbox code cannot be run, nor documents be read: each would take seconds to start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "drover.db").exists():
        shutil.copy(database, folder / "drover.db")
    settings = load(data_directory=folder, _env_file=None, **({"ollama_host": "http://127.0.0.1:1"} | values))
    key = await _admin_key(settings)
    server = create_app(settings, SECRET, backends, sandbox or Sandbox())
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(server, http=protocol, ws="none", log_config=None, access_log=False, timeout_keep_alive=75)
    process = uvicorn.Server(config)
    task = asyncio.create_task(process.serve(sockets=[listener]))
    while not process.started:
        if task.done():
            task.result()
        await asyncio.sleep(0)
    live = Live(server, settings, f"http://127.0.0.1:{listener.getsockname()[1]}", key)
    try:
        yield live
    finally:
        await live.clients.aclose()
        process.should_exit = True
        await task


async def _admin_key(settings: Settings) -> str:
    database = Database(settings.database)
    access = Access(settings, SECRET, database)
    try:
        if (key := await access.first_admin_key()) is None:
            _, key = await access.keys.create((await access.users.by_name("admin")).id, "again")
    finally:
        await database.close()
    return key
