"""Reads pages in processes that may be killed, since nobody can say how long a hostile page takes."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from tools.tool import ToolError

PATIENCE = 15.0
MOST = 2
"""Pages that are read at once."""
LONGEST = 1_000_000
"""Characters of a page's text."""
_ROOT = Path(__file__).parents[2]
_KNOWN = ("PATH", "LD_LIBRARY_PATH", "LANG")
"""What a reader may know of the server's environment: nothing that could be a secret."""
# A character takes at most 6 bytes in JSON.
_LINE = 8 * LONGEST


Kind = Literal["html", "text"]


class Body(Struct, frozen=True):
    """What follows on the next `size` bytes: a page as it came."""

    kind: Kind
    size: int
    url: str
    """Where it came from, for the links in it."""
    charset: str = ""
    """What the server says of its encoding."""


class Page(Struct, frozen=True):
    """What a page says."""

    text: str
    title: str = ""


class Reader:
    """Turns pages into text. Its processes are started when needed; one is kept for the next page.

    Args:
        patience: seconds until a page must be read, the start of a process included.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._free: Process | None = None
        self._turns = asyncio.Semaphore(MOST)

    async def read(self, body: Body, data: bytes) -> Page:
        """What a page says.

        Raises:
            ToolError: it took too long or too much memory.
        """
        async with self._turns:
            process, self._free = self._free, None
            if process is None or process.returncode is not None:
                process = await _start()
            page: Page | None = None
            try:
                async with asyncio.timeout(self._patience):
                    page = await _exchange(process, body, data)
            except TimeoutError:
                page = None
            finally:
                if page is not None and self._free is None:
                    self._free = process
                else:
                    await _end(process)
        if page is None:
            raise ToolError("The page is too large or too tangled to be read.")
        return page

    async def close(self) -> None:
        """Ends the process that is kept. No page may be under way."""
        process, self._free = self._free, None
        if process is not None:
            await _end(process)


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-s", "-m", "tools.web.page"),
        cwd=_ROOT,
        env={name: os.environ[name] for name in _KNOWN if name in os.environ},
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        limit=_LINE,
        start_new_session=True,  # Ctrl-C in the terminal is for the server alone.
    )


async def _exchange(process: Process, body: Body, data: bytes) -> Page | None:
    """The process's answer; None where it has none: it has ended, most likely by its limits."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(msgspec.json.encode(body) + b"\n" + data)
        await process.stdin.drain()
        return msgspec.json.decode(await process.stdout.readuntil(), type=Page)
    except (EOFError, ConnectionError, asyncio.LimitOverrunError, msgspec.MsgspecError):
        return None


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    assert process.stdin
    process.stdin.close()
