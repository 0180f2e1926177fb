"""An engine process as a child of the server: how it is started, what it may know, how it ends."""

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from pathlib import Path

import msgspec

from models.llama_cpp import protocol

_ROOT = Path(__file__).parents[2]
_KNOWN = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GOMP_SPINCOUNT",
)
"""What an engine may know of the server's environment: nothing that could be a secret."""
_DEFAULTS = {
    # A failed assertion in llama.cpp would start a debugger.
    "GGML_NO_BACKTRACE": "1",
    # How long a thread spins for the others before it sleeps: some 25 us. By GNU's default it spins on, and takes the
    # core from the one that it waits for: beside a busy process a step of 37 ms took 700 ms, with this 120 to 200.
    "GOMP_SPINCOUNT": "5000",
}
_FAULTS = frozenset({-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS})
_PATIENCE = 3.0
"""Seconds that an engine gets to end by itself."""

log = logging.getLogger(__name__)


class EngineProcess:
    """A process, the socket to it, and what it says on stderr."""

    def __init__(
        self, model: str, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self._model = model
        self._process = process
        self._reader = reader
        self._writer = writer
        self._last_words: deque[str] = deque(maxlen=5)
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, model: str) -> "EngineProcess":
        """A new process, which waits for `Load`. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
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
                writer.close()
                raise
        return cls(model, process, reader, writer)

    @property
    def faulted(self) -> bool:
        """Whether it ended because its code did what no code may."""
        return self._process.returncode in _FAULTS

    @property
    def cause(self) -> str:
        """Why it ended, in words."""
        code = self._process.returncode or 0
        if code == -signal.SIGKILL:
            return "killed (out of memory?)"
        return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"

    @property
    def last_words(self) -> str:
        """The last lines that it wrote."""
        return " | ".join(self._last_words)

    def send(self, message: protocol.ToEngine) -> None:
        """Tells the engine something; nothing happens if it is gone."""
        self._writer.write(protocol.frame(message))

    async def receive(self) -> protocol.FromEngine | None:
        """The next message; None when the conversation has ended, by whomever."""
        try:
            return await protocol.receive(self._reader)
        except (EOFError, ConnectionError, msgspec.MsgspecError) as error:
            log.debug("%s: the conversation ended: %r", self._model, error)
            return None

    def hang_up(self) -> None:
        """Ends the conversation; the engine then ends by itself."""
        self._writer.close()

    async def end(self) -> None:
        """Returns when the process has ended. A signal could take the exit code of one that just died: it may wait."""
        self.hang_up()
        try:
            await asyncio.wait_for(self._process.wait(), _PATIENCE)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        """What llama.cpp says goes to the log, never to the terminal."""
        assert self._process.stderr
        while chunk := await self._process.stderr.read(2**16):
            for line in chunk.decode("utf-8", "replace").splitlines():
                log.debug("%s: %s", self._model, line)
                self._last_words.append(line)


def _environment() -> dict[str, str]:
    return _DEFAULTS | {name: os.environ[name] for name in _KNOWN if name in os.environ}
