"""Serving: from settings to a listening server, and to its clean end."""

import asyncio
import os
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from gateway.access import Access
from gateway.app import Server, create_app
from gateway.logs import configure
from gateway.parts import Parts
from gateway.secret import write_private
from gateway.settings import Settings, SettingsError
from gateway.store.database import Database, migrate

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the pools of clients keep theirs (aiohttp: 15), or they send into a closed one."""


def serve(settings: Settings, secret: str) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        StoreError: the database cannot be used.
        SettingsError: the port cannot be had.
    """
    migrate(settings.database)
    listener = bind(settings)
    admin_key = asyncio.run(first_key(settings, secret))
    configure(settings.log_level, settings.log_format)
    server = create_app(settings, secret)
    config = uvicorn.Config(
        server,  # type: ignore[arg-type]
        loop="auto",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=10,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    _Uvicorn(config, server, Greeting(settings, listener, admin_key)).run(sockets=[listener])


async def first_key(settings: Settings, secret: str) -> str | None:
    """On an empty database: an admin and their API key, kept in `admin.key` of the data folder too. None on any other."""
    database = Database(settings.database)
    access = Access(settings, secret, database)
    try:
        key = await access.first_admin_key()
    finally:
        await database.close()
    if key is not None:
        write_private(admin_key_file(settings), key + "\n")
    return key


def admin_key_file(settings: Settings) -> Path:
    """Where the first start keeps the admin's API key."""
    return settings.data_directory / "admin.key"


def bind(settings: Settings) -> socket.socket:
    """The socket to listen on.

    Raises:
        SettingsError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.server_host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.server_host, settings.server_port))
    except OSError as error:
        listener.close()
        where = f"{settings.server_host}:{settings.server_port}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(f"SERVER_PORT: cannot listen on {where}: {reason}") from error
    return listener


class Greeting:
    """What a start prints for people, on standard output; the log goes to standard error."""

    def __init__(self, settings: Settings, listener: socket.socket, admin_key: str | None) -> None:
        self._settings = settings
        self._port = listener.getsockname()[1]
        self._admin_key = admin_key

    async def print(self, parts: Parts) -> None:
        """Prints the address, the models and where they are, and on the first start the admin's API key."""
        host = self._settings.server_host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        print(f"Drover serves http://{shown}:{self._port}/v1  (docs: http://{shown}:{self._port}/docs)")
        models = await parts.catalog.models()
        health = await parts.probe.health()
        for name, state in health.items():
            ids = [info.id for info in models if info.backend == name]
            listed = ", ".join(ids[:12]) + (f", and {len(ids) - 12} more" if len(ids) > 12 else "")
            print(f"  {name}: {listed or 'no models'}" if state.ok else f"  {name}: not available: {state.detail}")
        if (default := await parts.default_model()) is not None:
            print(f"Default model: {default.id}")
        if self._admin_key is not None:
            print(f"Admin's API key, shown only now and kept in {admin_key_file(self._settings)}:\n{self._admin_key}")
        sys.stdout.flush()


class _Uvicorn(uvicorn.Server):
    """uvicorn that greets, and at a signal drains before it stops to listen, so that readiness is seen to fail first."""

    def __init__(self, config: uvicorn.Config, server: Server, greeting: Greeting) -> None:
        super().__init__(config)
        self._server = server
        self._greeting = greeting
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            self._start(self._greeting.print(self._server.parts))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._draining = True
        self._loop.call_soon_threadsafe(lambda: self._start(self._drain()))

    async def _drain(self) -> None:
        await self._server.drain()
        self.should_exit = True

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
