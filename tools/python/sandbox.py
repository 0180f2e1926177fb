"""The Python sandbox as the server sees it: sessions, each with a process of its own that the kernel confines.

sandbox = Sandbox()
await sandbox.start()
execution = await sandbox.run("a conversation", folder, "print(1 + 1)")
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
from msgspec import Struct

from tools.documents import Unreadable
from tools.folder import remove_tree
from tools.python import protocol
from tools.python.examination import Level
from tools.python.launcher import NotStarted
from tools.python.plan import ALL, Layers
from tools.python.process import Ended, Outcome, Process
from tools.python.quota import DISK_FULL, Quota
from tools.python.survey import Survey
from tools.python.workers import Unusable, Worker, Workers

LONGEST_CODE = 200_000
LONGEST_VALUE = 17_000
LONGEST_ERROR = 5_000
"""Characters; of values and errors a little more than an honest worker sends."""
LONGEST_RESULT = 64 * 1024**2
"""Bytes of what is extracted from a file."""
_REMEMBERED = 10_000
"""Sessions of which it is known that they once had a process."""
_FIX = "It needs Linux with Landlock (kernel 5.13, `landlock` among the LSMs) or with user namespaces, and seccomp."

_SHOWN = 8
"""Characters of a session's key that are shown."""
_LOST = "All variables are lost, the files are kept; the next call starts with a fresh interpreter."

log = logging.getLogger(__name__)


class Limits(Struct, frozen=True):
    """What code may use."""

    seconds: float = 30.0
    """Of a call; then it is interrupted."""
    grace: float = 5.0
    """Seconds after which a call that could not be interrupted is killed."""
    memory: int = 1024**3
    """Bytes of a session."""
    cpu: int = 600
    """Seconds of CPU of a session's process."""
    file_bytes: int = 50 * 1024**2
    """Largest file that code may write."""
    folder_bytes: int = 200 * 1024**2
    """What a session's folder may hold; one that holds more already may not grow."""
    files: int = 500
    """Files and folders in a session's folder."""
    output: int = 64_000
    """Characters of a call's output."""
    sessions: int = 16
    """Processes that live at once; for one more, the least recently used one goes."""
    idle: float = 900.0
    """Seconds without a call after which a session's process goes."""
    at_once: int = 0
    """Calls that run at once, the others wait; 0: one for each core."""
    free_bytes: int = 1024**3
    """Below so much free space on the disk nothing is run."""


LIMITS = Limits()
"""Where nobody says otherwise."""


class Execution(Struct, frozen=True):
    """What came of a call."""

    output: str = ""
    """What was printed."""
    value: str = ""
    """The last expression's value, as Python shows it."""
    error: str | None = None
    """What went wrong, in words for a model."""
    files: tuple[str, ...] = ()
    """Files in the folder that are new or changed, by name."""
    ended: Literal["ok", "error", "timeout", "killed"] = "ok"
    """`error`: the code raised something; `timeout`: it was interrupted, or killed for its time; `killed`: the process
    is gone for another reason, which `error` tells."""
    fresh: bool = False
    """Whether there were earlier calls whose variables this one did not find."""
    alive: bool = True
    """Whether the next call will find this one's variables."""
    notes: tuple[str, ...] = ()
    """What a model should know besides."""
    seconds: float = 0.0


class ExtractionFailed(Unreadable):
    """A file could not be read by the confined process. The text says why."""


class Session:
    """A conversation that uses Python."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.worker: Worker | None = None
        self.identity = (0, 0)
        """Of the folder in which the worker was started."""
        self.calls = 0
        """Of all its workers."""
        self.used_at = 0.0
        self.busy = False
        self.lost = ""
        """Why variables of earlier calls are gone, until that was told."""
        self.ending: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None


class Sandbox:
    """Runs code of strangers.

    Args:
        limits: what code may use.
        isolation: how well it must be confined: `auto` and `kernel`: by the kernel, as well as the host can; `full`: by
            all layers; `none`: however badly. Where the host cannot do it, nothing is run.
        preload: packages that code finds loaded.
        layers: what is tried; all of them, but for tests.
    """

    def __init__(
        self,
        limits: Limits = LIMITS,
        *,
        isolation: Literal["auto", "full", "kernel", "none"] = "auto",
        preload: Sequence[str] = ("numpy", "pandas", "matplotlib"),
        layers: Layers = ALL,
    ) -> None:
        self.limits = limits
        self._isolation = isolation
        self._reason: str | None = "it has not been started"
        self._sessions: dict[str, Session] = {}
        """The least recently used first."""
        self._at_once = min(limits.at_once or len(os.sched_getaffinity(0)), limits.sessions)
        self._cores = asyncio.Semaphore(self._at_once)
        self._workers = Workers(preload, layers, 4 * limits.files, self._at_once + 1)

    @property
    def level(self) -> Level:
        """How well code is confined on this host."""
        return self._workers.verdict.level

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that hold."""
        return self._workers.verdict.held

    @property
    def missing(self) -> tuple[str, ...]:
        """The layers that do not, each with the reason and what that leaves open."""
        return self._workers.verdict.missing

    async def start(self) -> None:
        """Finds out how well this host confines code; from then on that does not change."""
        try:
            await self._workers.start()
            self._reason = self._too_weak()
        except NotStarted as error:
            self._reason = f"its processes do not start: {error}"
        self._tell()

    def unavailable(self) -> str | None:
        """Why nothing can be run; None where it can."""
        return self._reason

    async def run(self, key: str, folder: Path, code: str) -> Execution:
        """Runs a cell. Calls of one session run one after the other, and share variables.

        Cancelling it kills the session's process.

        Args:
            key: names the session.
            folder: its folder, which exists. Code finds it as its current folder, and can write nowhere else.
            code: Python.

        Raises:
            Unusable: nothing can be run.
        """
        if len(code) > LONGEST_CODE:
            return Execution(error=f"The code is longer than {LONGEST_CODE} characters.", ended="error")
        async with self._turn(key) as session:
            return await self._run(session, str(folder), code)

    async def extract(self, file: Path | BinaryIO, function: str, /, *, returns: Any = Any, **options: Any) -> Any:
        """Has a function of `tools.documents` read a file, in a process of its own that has nothing but this file.

        Args:
            file: an open one, or a path.
            function: its name; it takes the open file first.
            returns: the type of its result.
            options: what else it takes.

        Raises:
            ExtractionFailed: it could not.
            Unusable: nothing can be run.
        """
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
            async with self._cores:
                self._check()
                data = await self._extract(opened.fileno(), protocol.Call("tools.documents", function, options))
        try:
            return msgspec.json.decode(data, type=returns)
        except (msgspec.MsgspecError, RecursionError):
            raise ExtractionFailed("What was read from the file makes no sense.") from None

    async def forget(self, key: str) -> None:
        """Ends a session's process; its variables are gone."""
        if (session := self._sessions.pop(key, None)) is not None:
            self._end(session, "The session was ended.")
            await _over(session)

    def status(self) -> dict[str, Any]:
        """For people who look after the server."""
        live = [(key, session) for key, session in self._sessions.items() if session.worker is not None]
        return {
            "available": self._reason is None,
            "reason": self._reason,
            "level": self.level,
            "layers": list(self.layers),
            "missing": list(self.missing),
            "limits": msgspec.to_builtins(self.limits),
            "sessions": [
                {
                    "key": key if len(key) <= _SHOWN else f"{key[:_SHOWN]}…",
                    "calls": session.calls,
                    "busy": session.busy,
                    "idle_seconds": 0.0 if session.busy else round(time.monotonic() - session.used_at, 1),
                }
                for key, session in live
            ],
        }

    async def close(self) -> None:
        """Ends all processes. Nothing can be run afterwards."""
        self._reason = "it was closed"
        for session in self._sessions.values():
            self._end(session, "The server is ending.")
        self._workers.end_all()
        for _ in range(self._at_once):  # whoever runs something has done so then
            await self._cores.acquire()
        await self._workers.close()
        for _ in range(self._at_once):
            self._cores.release()

    def _too_weak(self) -> str | None:
        wanted = {"full": ("full",), "none": ("full", "kernel", "none")}.get(self._isolation, ("full", "kernel"))
        if self.level in wanted:
            return None
        missing = "; ".join(self.missing) or "nothing"
        return f"this host confines it only at the level {self.level!r}. Missing: {missing}. {_FIX}"

    def _tell(self) -> None:
        if self._reason is not None:
            log.error("the Python tool is not offered: %s", self._reason)
        elif self.level == "none":
            log.error("code that models write runs with your user's rights: %s", "; ".join(self.missing))
        elif self.missing:
            log.warning("the Python tool is confined at the level %r without %s", self.level, "; ".join(self.missing))
        else:
            log.info("the Python tool is confined at the level %r", self.level)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[Session]:
        """The session, when it is its turn and there is a core for it."""
        while True:
            session = self._sessions.setdefault(key, Session())
            async with session.turn, self._cores:
                self._check()
                if self._sessions.get(key) is not session:  # forgotten while it waited
                    continue
                self._begin(key, session)
                try:
                    yield session
                finally:
                    self._rest(key, session)
                return

    def _check(self) -> None:
        if self._reason is not None:
            raise Unusable(self._reason)

    def _begin(self, key: str, session: Session) -> None:
        self._sessions[key] = self._sessions.pop(key)
        session.busy = True
        if session.expiry is not None:
            session.expiry.cancel()
        if len(self._sessions) > _REMEMBERED:
            forgettable = (name for name, each in self._sessions.items() if each.worker is None and not each.busy)
            self._sessions.pop(next(forgettable))

    def _rest(self, key: str, session: Session) -> None:
        session.busy = False
        session.used_at = time.monotonic()
        if self._sessions.get(key) is not session:
            self._end(session, "The session was ended.")
        elif session.worker is not None:
            session.expiry = asyncio.get_running_loop().call_later(
                self.limits.idle, self._end, session, f"They were not used for {self.limits.idle:g} seconds."
            )

    def _end(self, session: Session, reason: str) -> None:
        """Kills a session's process, if it has one."""
        if session.expiry is not None:
            session.expiry.cancel()
        if session.worker is not None:
            session.ending = self._workers.dismiss(session.worker, reason)
            session.worker, session.lost = None, reason

    async def _run(self, session: Session, folder: str, code: str) -> Execution:
        began = time.monotonic()
        self._check_space(folder)
        worker, before = await self._ready(session, folder)
        lost, session.lost = session.lost, ""
        session.calls += 1
        quota = self._quota(folder, before)
        text = code.encode("utf-8", "replace").decode()  # halves of surrogate pairs cannot be sent
        run = protocol.Run(session.calls, text, self.limits.seconds, self.limits.output)
        try:
            execution = _completed(await self._call(worker.process, run, quota))
        except Ended as ended:
            self._end(session, str(ended))
            await _over(session)
            execution = self._killed(worker.process, str(ended))
        except BaseException:
            self._end(session, "The last call was cancelled.")
            raise
        after = await self._workers.survey(folder, None)
        if execution.alive and (too_much := quota.exceeded(after)) is not None:
            self._end(session, too_much)
            execution = msgspec.structs.replace(execution, ended="killed", error=too_much, alive=False)
        return msgspec.structs.replace(
            execution,
            files=after.changed_since(before),
            fresh=bool(lost),
            notes=(*_notes(lost, before, after), *execution.notes),
            seconds=time.monotonic() - began,
        )

    async def _ready(self, session: Session, folder: str) -> tuple[Worker, Survey]:
        """The session's worker, and what is in its folder."""
        await _over(session)
        if (worker := session.worker) is not None:
            before = await self._workers.survey(folder, worker.uid)
            if not worker.process.alive:
                self._end(session, "The process had ended.")
            elif worker.folder != folder or before.identity != session.identity:
                self._end(session, "The working folder is another one.")
            else:
                return worker, before
            await _over(session)
        await self._make_room(session)
        limits = self.limits
        worker = session.worker = await self._workers.hire(folder, limits.memory, limits.file_bytes, limits.cpu)
        before = await self._workers.survey(folder, worker.uid)
        session.identity = before.identity
        return worker, before

    async def _make_room(self, session: Session) -> None:
        """Ends the process that was not used for longest, where there are as many as there may be."""
        others = [each for each in self._sessions.values() if each is not session and (each.worker or each.busy)]
        while len(others) >= self.limits.sessions:
            # There is one: fewer than all are busy, since this session is one of those that are.
            oldest = next(each for each in others if not each.busy)
            others.remove(oldest)
            self._end(oldest, "Other sessions needed the room.")
            await _over(oldest)

    async def _call(self, process: Process, run: protocol.Run, quota: Quota) -> Outcome:
        overdue = self.limits.seconds + self.limits.grace
        timer = asyncio.get_running_loop().call_later(overdue, process.kill, self._overdue)
        quota.watch(process.kill)
        try:
            return await process.run(run)
        finally:
            timer.cancel()
            quota.cancel()

    @property
    def _overdue(self) -> str:
        return f"The code did not end within {self.limits.seconds:g} seconds, and the process was killed."

    def _killed(self, process: Process, reason: str) -> Execution:
        output = "".join(process.printed)
        ended: Literal["timeout", "killed"] = "timeout" if reason == self._overdue else "killed"
        return Execution(output, error=reason, ended=ended, alive=False, notes=(_LOST,))

    def _quota(self, folder: str, before: Survey) -> Quota:
        """A folder that holds too much already may hold that, so that code can delete something."""
        limits = self.limits
        most_bytes, most = max(limits.folder_bytes, before.bytes), max(limits.files, before.entries)
        return Quota(folder, most_bytes, most, limits.free_bytes, self._workers.executor)

    def _check_space(self, folder: str) -> None:
        space = os.statvfs(folder)
        if space.f_bavail * space.f_frsize < self.limits.free_bytes:
            raise Unusable(DISK_FULL)

    async def _extract(self, file: int, call: protocol.Call) -> bytes:
        folder = self._workers.scratch()
        # Opened again, it has a position of its own.
        opened = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            limits = self.limits
            worker = await self._workers.hire(str(folder), limits.memory, limits.file_bytes, limits.cpu, opened)
            try:
                return await self._called(worker.process, call)
            finally:
                await asyncio.shield(self._workers.dismiss(worker, "It has done its work."))
        finally:
            os.close(opened)
            await asyncio.to_thread(remove_tree, folder)

    async def _called(self, process: Process, call: protocol.Call) -> bytes:
        too_long = f"Reading the file took more than {self.limits.seconds:g} seconds."
        timer = asyncio.get_running_loop().call_later(self.limits.seconds, process.kill, too_long)
        try:
            data, error = await process.call(call, LONGEST_RESULT)
        except Ended as ended:
            raise ExtractionFailed(str(ended)) from None
        finally:
            timer.cancel()
        if error is not None:
            raise ExtractionFailed(error[:LONGEST_ERROR])
        return data


async def _over(session: Session) -> None:
    """Returns when the process that was killed last is gone."""
    if session.ending is not None:
        await asyncio.shield(session.ending)


def _completed(outcome: Outcome) -> Execution:
    ran = outcome.ran
    ended: Literal["ok", "error", "timeout"] = "timeout" if ran.interrupted else "ok" if ran.error is None else "error"
    notes = [f"{ran.dropped} more characters of output were left out."] if ran.dropped > 0 else []
    if ran.interrupted:
        notes.append("The code was interrupted. The variables are kept.")
    error = None if ran.error is None else ran.error[:LONGEST_ERROR]
    return Execution(outcome.output, ran.value[:LONGEST_VALUE], error, ended=ended, notes=tuple(notes))


def _notes(lost: str, before: Survey, after: Survey) -> list[str]:
    notes = [f"The variables of earlier calls are gone; the files are kept. {lost}"] if lost else []
    if after.odd > before.odd:
        notes.append("Some of what is in the folder cannot be given out: only plain files with plain names can.")
    return notes
