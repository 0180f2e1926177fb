"""Drover's command as a user types it: a process of its own, with a clean environment and a folder of its own."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from gateway.settings import ROOT

PATIENCE = 60.0
"""Seconds after which a test gives up on a process; an idle machine needs about one."""


class Finished(Struct, frozen=True):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


class Started:
    """A server that is up."""

    def __init__(self, process: Process, folder: Path, log_file: Path, url: str) -> None:
        self.process = process
        self.folder = folder
        self.url = url
        self._log_file = log_file
        self._clients = AsyncExitStack()

    @property
    def key(self) -> str:
        """The admin's API key, from where the first start keeps it."""
        return (self.folder / "data" / "admin.key").read_text().strip()

    @property
    def log(self) -> str:
        """All that was logged until now."""
        return self._log_file.read_text()

    async def http(self, token: str | None = None) -> httpx.AsyncClient:
        """A client that sends `token`, by default the admin's key."""
        headers = {"Authorization": f"Bearer {self.key if token is None else token}"}
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE)
        return await self._clients.enter_async_context(client)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    async def ended(self) -> Finished:
        """How it ended, once it has; what was printed after the address included."""
        await self._clients.aclose()
        async with asyncio.timeout(PATIENCE):
            out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return Finished(self.process.returncode, out.decode(), self.log)

    async def stop(self) -> Finished:
        """Ends it as a service manager does."""
        self.signal(signal.SIGTERM)
        return await self.ended()


def prepare(folder: Path, database: Path) -> Path:
    """A folder with a copy of a migrated database: migrating takes a while, and most tests are about something else."""
    (folder / "data").mkdir(mode=0o700)
    shutil.copy(database, folder / "data" / "drover.db")
    return folder


async def run(
    folder: Path,
    *arguments: str,
    text: str = "",
    stdout: int = PIPE,
    without: Sequence[str] = (),
    **values: Any,
) -> Finished:
    """Runs a command in `folder` until it ends, with `text` on its standard input.

    Its environment is `values` and what makes it depend on nothing else, but for the names in `without`.
    """
    process = await _start(folder, arguments, values, without, stdin=PIPE, stdout=stdout, stderr=PIPE)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(text.encode())
    assert process.returncode is not None
    return Finished(process.returncode, (out or b"").decode(), err.decode())


@asynccontextmanager
async def started(folder: Path, *, log_folder: Path | None = None, **values: Any) -> AsyncIterator[Started]:
    """A server on `folder`/data that is up; killed at the end where the test has not ended it."""
    log_file = (log_folder or folder) / f"log-{os.urandom(4).hex()}"
    with log_file.open("wb") as log:
        process = await _start(folder, (), values, stdin=DEVNULL, stdout=PIPE, stderr=log.fileno())
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Drover serves http://"), log_file.read_text()
        yield Started(process, folder, log_file, line.split()[2].removesuffix("/v1"))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def gone(descriptor: int) -> None:
    """Returns when a process has ended; `descriptor` is what `os.pidfd_open` gave for it while it lived."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def _start(
    folder: Path, arguments: Sequence[str], values: Mapping[str, Any], without: Sequence[str] = (), **streams: Any
) -> Process:
    basic = {"PATH": os.environ["PATH"], "SERVER_PORT": "0", "BACKENDS": "scripted"}
    environment = {name: str(value) for name, value in (basic | dict(values)).items() if name not in without}
    command = (sys.executable, str(ROOT / "server.py"), *arguments)
    return await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, **streams)
