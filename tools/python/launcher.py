"""The server's hold on the zygote: starts it, and again if it is gone, asks it for workers, and hears how they end."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import deque
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import msgspec

from tools.python import protocol
from tools.python.plan import Plan
from tools.python.process import Process

_ROOT = Path(__file__).parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from tools.python import zygote; zygote.main(*sys.argv[1:])"
_PATIENCE = 120.0
"""Seconds that the zygote may take to load; an idle machine needs two or three."""
_KNOWN = ("LD_LIBRARY_PATH", "TZ")
"""What a zygote may know of the server's environment."""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    # A fork copies only the thread that forks.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}

log = logging.getLogger(__name__)

_decode = msgspec.msgpack.Decoder(protocol.FromZygote).decode


class NotStarted(Exception):
    """There is no worker to be had."""


class Launcher:
    """Starts workers.

    Args:
        packages: what the zygote loads besides what it needs.
        cache: a folder for what matplotlib finds out about fonts. The folder above it is the sandbox's, and goes with
            the server, even if the server is killed.
    """

    def __init__(self, packages: Sequence[str], cache: Path) -> None:
        self._packages = packages
        self._cache = cache
        self._zygote: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[protocol.Ready] | None = None
        self._starting = asyncio.Lock()
        self._ids = count(1)
        self._asked: dict[int, asyncio.Future[int]] = {}
        """Workers that were asked for: the descriptor of each, when it comes."""
        self._workers: dict[int, Process] = {}
        self._exits: dict[int, protocol.Exited] = {}
        """Of workers that ended before anybody knew them."""
        self._closed = False
        self._last_words: deque[str] = deque(maxlen=5)
        self._listening: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The zygote's; None where there is none."""
        return self._zygote.pid if self._zygote is not None and self._control is not None else None

    async def start(self) -> protocol.Ready:
        """Has a zygote that is ready. Raises NotStarted."""
        async with self._starting:
            if self._closed:
                raise NotStarted("the server is ending")
            if self._control is None or self._ready is None:
                await self._end()
                self._ready = asyncio.get_running_loop().create_future()
                await self._execute()
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await asyncio.shield(self._ready)
            except TimeoutError:
                await self._end()
                raise NotStarted(f"its parent did not load within {_PATIENCE:g} seconds") from None
            except NotStarted:
                await self._end()
                raise NotStarted(f"its parent ended: {' | '.join(self._last_words) or 'it said nothing'}") from None

    async def spawn(self, plan: Plan, file: int | None = None) -> Process:
        """A new worker.

        Args:
            plan: how it confines itself.
            file: a descriptor that it gets.

        Raises:
            NotStarted: there is none to be had.
        """
        await self.start()
        assert self._control is not None
        id = next(self._ids)
        answer = self._asked[id] = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                descriptors = [theirs.fileno(), *([] if file is None else [file])]
                socket.send_fds(self._control, [protocol.encode(protocol.Spawn(id, plan))], descriptors)
            handle = await answer
        except OSError as error:
            ours.close()
            raise NotStarted(str(error)) from error
        except BaseException:
            ours.close()
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                os.close(answer.result())
            raise
        finally:
            self._asked.pop(id, None)
        process = Process(handle, plan.cpu)
        self._workers[id] = process
        if (exited := self._exits.pop(id, None)) is not None:
            self._tell(exited)
        ours.setblocking(False)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: process, sock=ours)
        except BaseException:
            ours.close()
            process.kill("nobody wants it")
            process.close()
            raise
        return process

    async def close(self) -> None:
        """Ends the zygote, and with it all workers."""
        self._closed = True
        async with self._starting:
            await self._end()

    async def _execute(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = ("-I", "-B", "-c", _START, str(_ROOT), str(theirs.fileno()), *self._packages)
        known = {name: os.environ[name] for name in _KNOWN if name in os.environ}
        places = {"HOME": str(self._cache), "MPLCONFIGDIR": str(self._cache)}
        with theirs:
            try:
                self._zygote = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *arguments,
                    cwd="/",
                    env=_ENVIRONMENT | known | places,
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise NotStarted(str(error)) from error
                raise
        ours.setblocking(False)
        self._control = ours
        self._listening = asyncio.create_task(self._listen(self._zygote))
        asyncio.get_running_loop().add_reader(ours, self._hear)

    def _hear(self) -> None:
        """Takes what the zygote says."""
        assert self._control is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, protocol.LONGEST, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._lose()
            return
        match _decode(data):
            case protocol.Ready() as ready if self._ready is not None and not self._ready.done():
                self._ready.set_result(ready)
            case protocol.Spawned(id):
                self._hand_out(id, descriptors)
            case protocol.NotSpawned(id, reason):
                if (asked := self._asked.get(id)) is not None and not asked.done():
                    asked.set_exception(NotStarted(reason))
            case protocol.Exited() as exited:
                self._tell(exited)
            case _:
                log.error("the parent of the Python workers said something unexpected")

    def _hand_out(self, id: int, descriptors: list[int]) -> None:
        asked = self._asked.get(id)
        if asked is not None and not asked.done():
            if descriptors:
                asked.set_result(descriptors[0])
            else:
                asked.set_exception(NotStarted("this process has too many files open"))
            return
        # Nobody waits for it any more. It ends by itself: its socket is closed.
        for descriptor in descriptors:
            os.close(descriptor)

    def _tell(self, exited: protocol.Exited) -> None:
        if (worker := self._workers.pop(exited.id, None)) is not None:
            worker.has_exited(exited)
        elif exited.id in self._asked:
            self._exits[exited.id] = exited

    def _lose(self) -> None:
        """The zygote is gone; the kernel ends its workers."""
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._control = None
        failure = NotStarted("its parent ended")
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(failure)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(failure)
        for worker in self._workers.values():
            worker.has_exited(None)
        self._workers.clear()
        self._exits.clear()

    async def _end(self) -> None:
        if self._zygote is not None:
            # Before the socket is closed: a zygote that sees its end takes the server for dead, and cleans up after it.
            with contextlib.suppress(ProcessLookupError):
                self._zygote.kill()
            self._lose()
            await self._zygote.wait()
            self._zygote = None
        if self._listening is not None:
            await self._listening
            self._listening = None

    async def _listen(self, zygote: asyncio.subprocess.Process) -> None:
        assert zygote.stderr is not None
        while line := await zygote.stderr.readline():
            text = line.decode("utf-8", "replace").rstrip()
            log.debug("parent of the Python workers: %s", text)
            self._last_words.append(text)
