"""An engine process seen from the server: started when first needed, fed, started again after a crash, stopped."""

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from models.backend import (
    BackendFailed,
    Busy,
    ContextTooLong,
    InvalidRequest,
    ModelError,
    Unavailable,
    Unsupported,
)
from models.llama_cpp import protocol

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
"""What an engine may know of the server's environment: nothing that could be a secret."""
_CRASHES = frozenset({-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS})
_PATIENCE = 3.0
"""Seconds that an engine gets to end by itself."""

State = Literal["stopped", "loading", "ready"]
Question = Callable[[int], protocol.Chat | protocol.Embed]

log = logging.getLogger(__name__)


class Job:
    """A request on its way through an engine."""

    def __init__(self, question: protocol.Chat | protocol.Embed) -> None:
        self.question = question
        self.frame = protocol.frame(question)
        self.replies: asyncio.Queue[protocol.Reply | ModelError] = asyncio.Queue()
        self.state: Literal["waiting", "started", "ended"] = "waiting"

    def reply(self, reply: protocol.Reply | ModelError) -> None:
        """Hands something to the caller; all but a piece is the last."""
        if not isinstance(reply, protocol.Piece | protocol.Vectors):
            self.state = "ended"
        self.replies.put_nowait(reply)


class Worker:
    """The engine of one model. At most one process at a time, and any number of requests in it or before it."""

    def __init__(self, model: str, load: protocol.Load, waiting: int) -> None:
        self.model = model
        self.state: State = "stopped"
        self.context: int | None = None
        self.pid: int | None = None
        self._load = load
        self._waiting = waiting
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._life: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._fruitless = False
        self._last_words: deque[str] = deque(maxlen=5)

    @property
    def repack(self) -> bool:
        """Whether rearranged weights have not been seen to crash."""
        return self._load.repack

    @property
    def queue(self) -> int:
        """Requests that wait for the engine."""
        return len(self._in("waiting"))

    async def ask(self, question: Question) -> AsyncGenerator[protocol.Piece | protocol.Vectors, None]:
        """What the engine gives for one request. Raises what went wrong as a ModelError; closing it cancels."""
        if self.queue + len(self._in("started")) > self._waiting:
            raise Busy(f"The model `{self.model}` has {self._waiting} requests waiting already.")
        self._count += 1
        number = self._count
        job = self._jobs[number] = Job(question(number))
        try:
            self._submit(job)
            while isinstance(reply := await job.replies.get(), protocol.Piece | protocol.Vectors):
                yield reply
            if isinstance(reply, ModelError):
                raise reply
        finally:
            del self._jobs[number]
            if job.state != "ended":
                self._cancel(number)

    async def close(self) -> None:
        """Ends the process."""
        if self._life and not self._life.done():
            self._life.cancel()
            await asyncio.wait([self._life])

    def _submit(self, job: Job) -> None:
        if self._writer:
            self._writer.write(job.frame)
        elif self._life is None or self._life.done():
            self._life = asyncio.create_task(self._live(), name=f"engine of {self.model}")

    def _cancel(self, number: int) -> None:
        if self._writer:
            self._writer.write(protocol.frame(protocol.Cancel(number)))

    async def _live(self) -> None:
        """Runs processes, one after the other, for as long as requests wait that none has begun."""
        try:
            while self.queue:
                await self._run_process()
        finally:
            self._fail(Unavailable(f"The engine of `{self.model}` is not running."))

    async def _run_process(self) -> None:
        self.state = "loading"
        try:
            process, connection = await self._start()
        except OSError as error:
            self.state = "stopped"
            self._fail(Unavailable(f"The engine of `{self.model}` cannot be started: {error}"))
            return
        listening = asyncio.create_task(self._listen(process))
        try:
            await self._converse(connection)
        except (EOFError, ConnectionError, msgspec.MsgspecError) as error:
            log.debug("%s: the conversation ended: %r", self.model, error)
        finally:
            loaded = self._writer is not None
            self.state, self._writer, self.pid = "stopped", None, None
            await _end(process)
            await listening
        self._bury(process, loaded)

    async def _start(self) -> tuple[Process, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = (sys.executable, "-s", "-m", "models.llama_cpp.engine", str(theirs.fileno()), str(os.getpid()))
            try:
                process = await asyncio.create_subprocess_exec(
                    *arguments,
                    cwd=_ROOT,
                    env=_environment(),
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal is for the server alone.
                )
            except BaseException:
                ours.close()
                raise
        self.pid = process.pid
        return process, ours

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            writer.write(protocol.frame(self._load))
            while True:
                self._take(await protocol.receive(reader), writer)
        finally:
            writer.close()

    def _take(self, message: protocol.FromEngine, writer: asyncio.StreamWriter) -> None:
        match message:
            case protocol.Ready(context):
                self.state, self.context, self._writer = "ready", context, writer
                for job in self._in("waiting"):
                    writer.write(job.frame)
            case protocol.Unloadable(text):
                self._fail(Unavailable(f"The model `{self.model}` cannot be loaded: {text}."))
            case _:
                self._deliver(message)

    def _deliver(self, reply: protocol.Reply) -> None:
        job = self._jobs.get(reply.id)
        if job is None:
            return  # Cancelled, and the engine did not know yet.
        match reply:
            case protocol.Started():
                job.state, self._fruitless = "started", False
            case protocol.Piece() | protocol.Vectors() | protocol.Done():
                job.reply(reply)
            case _:
                job.reply(_error(reply, job.question))

    def _bury(self, process: Process, loaded: bool) -> None:
        """Tells those whom the death of a process concerns. Requests that it had not begun go to the next one."""
        cause = _cause(process.returncode)
        if not loaded and process.returncode in _CRASHES and self._load.repack:
            log.warning("%s: the engine crashed (%s); it is tried again without rearranged weights.", self.model, cause)
            self._load = msgspec.structs.replace(self._load, repack=False)
            return
        log.error("%s: the engine ended: %s. Its last words: %s", self.model, cause, " | ".join(self._last_words))
        # Each process must get at least one request further, otherwise this would go on for ever.
        to_next = loaded and (bool(self._in("started")) or not self._fruitless)
        self._fruitless = bool(self.queue) and not self._in("started")
        concerned = self._in("started") if to_next else list(self._jobs.values())
        self._fail(BackendFailed(f"The engine process of `{self.model}` ended: {cause}."), concerned)

    def _fail(self, error: ModelError, jobs: Iterable[Job] | None = None) -> None:
        for job in self._jobs.values() if jobs is None else jobs:
            job.reply(error)

    def _in(self, state: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == state]

    async def _listen(self, process: Process) -> None:
        """What llama.cpp says goes to the log, never to the terminal."""
        assert process.stderr
        while chunk := await process.stderr.read(2**16):
            for line in chunk.decode("utf-8", "replace").splitlines():
                log.debug("%s: %s", self.model, line)
                self._last_words.append(line)


async def _end(process: Process) -> None:
    """The engine ends by itself when its socket is closed. A signal could take the exit code of one that just died."""
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE)
    except TimeoutError:
        process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    # Without the second entry, a failed assertion in llama.cpp would start a debugger.
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"GGML_NO_BACKTRACE": "1"}


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _error(
    reply: protocol.Refused | protocol.TooLong | protocol.Broke, question: protocol.Chat | protocol.Embed
) -> ModelError:
    match reply:
        case protocol.Refused(_, message, param, Unsupported.code):
            return Unsupported(message, param)
        case protocol.Refused(_, message, param, code):
            return InvalidRequest(message, param, code)
        case protocol.TooLong(_, limit, tokens) if isinstance(question, protocol.Embed):
            text = f"This model's maximum context length is {limit} tokens. However, an input has {tokens} tokens."
            return InvalidRequest(text, "input", "context_length_exceeded")
        case protocol.TooLong(_, limit, tokens):
            return ContextTooLong(limit, f"However, your messages resulted in {tokens} tokens.")
        case protocol.Broke(_, message):
            return BackendFailed(f"The engine failed on this request: {message}")
