"""Starts workers and ends them: each has a folder, and where the server is root a user id, of its own meanwhile."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct

from tools.folder import remove_tree
from tools.python import protocol
from tools.python.examination import Verdict, examine
from tools.python.launcher import Launcher, NotStarted
from tools.python.plan import Layers, Plan
from tools.python.process import Ended, Process
from tools.python.survey import Survey, survey
from tools.python.users import Users, first_user

_PATIENCE = 20.0
"""Seconds that a worker may take to confine itself."""
_ROOT, _CACHE = "root", "cache"
"""Folders in the scratch folder: where workers put their file systems, and what matplotlib has found out."""
_CLOSING = "The server is ending."
_INNER = frozenset(("audit", "language"))
"""Layers that a worker puts on after it has said hello."""

log = logging.getLogger(__name__)


class Unusable(Exception):
    """Nothing can be run, now or at all. The text says why."""


class Worker(Struct, frozen=True, eq=False):
    """A worker that is confined and waits."""

    process: Process
    folder: str
    uid: int | None


class Workers:
    """Those that there are.

    Args:
        preload: packages that they find loaded.
        layers: what is tried to confine them.
        most: entries of a folder beyond which no worker is started in it.
        threads: how many folders are looked through at once.
    """

    def __init__(self, preload: Sequence[str], layers: Layers, most: int, threads: int) -> None:
        self.verdict = Verdict("none", layers)
        self.executor = ThreadPoolExecutor(threads, "python-tool")
        self._most = most
        self._users = Users(first_user())
        self._libraries: tuple[str, ...] = ()
        self._scratch = Path(tempfile.gettempdir(), f"drover-python-{os.urandom(8).hex()}")
        self._launcher = Launcher(preload, self._scratch / _CACHE)
        self._closed = False
        self._working: set[Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Finds out how they are confined here. Raises NotStarted."""
        self._scratch.mkdir(0o711)
        for name in (_ROOT, _CACHE):
            (self._scratch / name).mkdir()
        ready = await self._launcher.start()
        for absent in ready.absent:
            log.warning("the Python tool starts without %s", absent)
        self._libraries = ready.libraries
        layers = self.verdict.tried
        self.verdict = await examine(
            self._launcher, layers, self._libraries, self._scratch, self._users.first if layers.uid else None
        )
        if "uid" not in self.verdict.held:
            self._users = Users(None)

    async def hire(self, folder: str, memory: int, file_bytes: int, cpu: int, file: int | None = None) -> Worker:
        """A worker in `folder`, which belongs to it until it is dismissed.

        Args:
            folder: where it works.
            memory: bytes.
            file_bytes: largest file that it may write.
            cpu: seconds.
            file: a descriptor that it gets.

        Raises:
            Unusable: there is none to be had.
        """
        uid = self._users.take()
        try:
            if (await self.survey(folder, uid)).endless:
                raise Unusable(f"The working folder holds too many files (more than {self._most}).")
            require = tuple(layer for layer in self.verdict.held if layer not in _INNER)
            root = str(self._scratch / _ROOT)
            plan = Plan(folder, self._libraries, root, memory, file_bytes, cpu, uid, self.verdict.tried, require)
            process = await self._launcher.spawn(plan, file)
        except BaseException as error:
            self._finish(self._take_back(folder, uid))
            if isinstance(error, NotStarted):
                raise Unusable(str(error)) from error
            raise
        worker = Worker(process, folder, uid)
        self._working.add(worker)
        if self._closed:
            process.kill(_CLOSING)
        try:
            async with asyncio.timeout(_PATIENCE):
                hello = await process.hello()
        except BaseException as error:
            self.dismiss(worker, "it did not start")
            if isinstance(error, Ended | TimeoutError):
                raise Unusable(f"No process could be started: {error}") from error
            raise
        if isinstance(hello, protocol.Unfit):
            self.dismiss(worker, "it is not confined")
            raise Unusable(f"No process could be confined: {hello.layer}: {hello.reason}")
        return worker

    def dismiss(self, worker: Worker, reason: str) -> asyncio.Task[None]:
        """Kills a worker at once. The task ends when it is gone, and its folder the server's again."""
        worker.process.kill(reason)
        self._working.discard(worker)
        return self._finish(self._bury(worker, reason))

    async def survey(self, folder: str, owner: int | None) -> Survey:
        """What lies in a folder, all of which is given to `owner` where there is one."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, survey, folder, self._most, owner)

    def scratch(self) -> Path:
        """A new folder, for a worker that has none."""
        return Path(tempfile.mkdtemp(dir=self._scratch))

    def end_all(self) -> None:
        """Kills all that work, and starts no other."""
        self._closed = True
        for worker in self._working:
            worker.process.kill(_CLOSING)

    async def close(self) -> None:
        """Frees everything, when all are dismissed."""
        await asyncio.gather(*self._ending)
        await self._launcher.close()
        self.executor.shutdown()
        remove_tree(self._scratch)

    def _finish(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Has something done even if nobody waits for it."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _bury(self, worker: Worker, reason: str) -> None:
        await worker.process.end(reason)
        await self._take_back(worker.folder, worker.uid)

    async def _take_back(self, folder: str, uid: int | None) -> None:
        """Makes a folder the server's again, and its user id nobody's."""
        if uid is None:
            return
        try:
            await self.survey(folder, os.geteuid())
        except OSError as error:
            log.debug("a folder could not be taken back: %s", error)  # it was deleted meanwhile
        finally:
            self._users.give_back(uid)
