"""Serving: from settings to a listening server, and to its clean end."""

import asyncio
import errno
import gc
import logging
import os
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from gateway.access import Access
from gateway.app import Server, create_app
from gateway.logs import configure
from gateway.parts import VERSION, Parts
from gateway.protocol import Protocol
from gateway.secret import write_private
from gateway.settings import Settings, SettingsError
from gateway.store.database import Database, migrate

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the pools of clients keep theirs, or requests are lost."""

BACKLOG = 2048
"""Connections that may wait to be accepted."""

LAST_WORDS = 5
"""Seconds that responses get to go out after the runs have ended: a client that does not read must not hold us."""

logger = logging.getLogger("drover")


class StartError(Exception):
    """The server cannot start as things are. Its text tells a person why, in one line."""


def serve(settings: Settings, secret: str) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        SettingsError: there is no such address to listen on.
        StartError: someone else listens there.
        StoreError: the database cannot be used.
    """
    listener = bind(settings)
    migrate(settings.database)
    admin_key = asyncio.run(first_key(settings, secret))
    configure(settings.log_level, settings.log_format)
    server = create_app(settings, secret)
    config = uvicorn.Config(
        server,
        loop="auto",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=2 * LAST_WORDS,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    _Uvicorn(config, server, Greeting(settings, listener, admin_key)).run(sockets=[listener])


def bind(settings: Settings) -> socket.socket:
    """The socket, which listens: who comes before the server is up waits for it.

    Raises:
        SettingsError: there is no such address here.
        StartError: someone else listens there, or the system forbids it.
    """
    host, port = settings.server_host, settings.server_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio's own loop sets it only on sockets that name TCP as their protocol; without it small answers wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(f"SERVER_HOST: cannot listen on {host}: {error.strerror}") from error
        hint = "stop what has it, or set SERVER_PORT" if error.errno == errno.EADDRINUSE else "set SERVER_PORT"
        raise StartError(f"Cannot listen on {host}:{port}: {error.strerror}; {hint}.") from error
    return listener


async def first_key(settings: Settings, secret: str) -> str | None:
    """On an empty database: the API key of a new admin, kept in the data folder too. None on any other."""
    database = Database(settings.database)
    access = Access(settings, secret, database)
    try:
        key = await access.first_admin_key()
    finally:
        await database.close()
    if key is not None:
        # Where there is no room for the file, there is still the line on standard output.
        with suppress(OSError):
            write_private(admin_key_file(settings), key + "\n")
    return key


def admin_key_file(settings: Settings) -> Path:
    """Where the first start keeps the admin's API key."""
    return settings.data_directory / "admin.key"


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
        print(f"Drover serves http://{shown}:{self._port}/v1  (docs: http://{shown}:{self._port}/docs)", flush=True)
        print("\n".join(await self._lines(parts)), flush=True)

    async def _lines(self, parts: Parts) -> list[str]:
        models = await parts.catalog.models()
        lines = []
        for name, state in (await parts.probe.health()).items():
            ids = [info.id for info in models if info.backend == name]
            listed = ", ".join(ids[:12]) + (f", and {len(ids) - 12} more" if len(ids) > 12 else "")
            lines.append(
                f"  {name}: {listed or 'no models'}" if state.ok else f"  {name}: not available: {state.detail}"
            )
        if (default := await parts.default_model()) is not None:
            lines.append(f"Default model: {default.id}")
        if self._admin_key is not None:
            file = admin_key_file(self._settings)
            kept = f"kept in {file}" if file.exists() else f"not kept: {file} could not be written"
            lines += [f"Admin's API key, shown only now and {kept}:", self._admin_key]
        return lines


class _Uvicorn(uvicorn.Server):
    """uvicorn that greets, and at a signal drains before it stops to listen: readiness is seen to fail first.

    A second signal ends the grace of what is still under way; a third one ends the process.
    """

    def __init__(self, config: uvicorn.Config, server: Server, greeting: Greeting) -> None:
        super().__init__(config)
        self._server = server
        self._greeting = greeting
        self._tasks: set[asyncio.Task[None]] = set()
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            self._start(self._greet())
            # What is there now stays: the garbage collector need not look through it again and again.
            gc.freeze()
            gc.set_threshold(10_000, 20, 50)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop.call_later(LAST_WORDS, self._hang_up)
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if not self.started:
            self.should_exit = True
        elif self._signals == 1:
            self._loop.call_soon_threadsafe(lambda: self._start(self._drain()))
        elif self._signals == 2:
            self._loop.call_soon_threadsafe(lambda: self._start(self._hurry()))
        else:
            os._exit(1)

    async def _greet(self) -> None:
        logger.info("started", extra={"pid": os.getpid(), "version": VERSION})
        with suppress(OSError):  # nobody reads standard output any more
            await self._greeting.print(self._server.parts)

    async def _drain(self) -> None:
        logger.info("shutting down", extra={"runs": len(self._server.parts.runs)})
        try:
            await self._server.drain()
        finally:
            self.should_exit = True

    async def _hurry(self) -> None:
        try:
            await self._server.parts.runs.drain(0)
        finally:
            self.should_exit = self.force_exit = True

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
