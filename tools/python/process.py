"""A worker as the server sees it: a socket, and a handle by which it is stopped, continued and killed."""

import asyncio
import os
import signal
from typing import cast

from msgspec import Struct

from tools.python import protocol

MALFORMED = "The process broke the rules of its conversation with the server, and was killed."
_MARGIN = 256 * 1024
"""Bytes that a worker may send besides what was asked for."""
_BYTES_PER_CHARACTER = 4


class Ended(Exception):
    """A worker has ended in the middle of its work. The text says why, in words for a model."""


class Outcome(Struct, frozen=True):
    """What came of a cell."""

    output: str
    ran: protocol.Ran


class Process(asyncio.Protocol):
    """A worker that has been forked.

    Args:
        handle: descriptor of the process, pidfd_open(2): what it means is never another process.
        cpu: seconds of CPU after which the kernel ends it.
    """

    def __init__(self, handle: int, cpu: int) -> None:
        self.printed: list[str] = []
        """Output of the current call until now, in pieces."""
        self._handle = handle
        self._cpu = cpu
        self._reason = ""
        self._received = bytearray()
        self._messages: asyncio.Queue[protocol.FromWorker | None] = asyncio.Queue()
        self._allowed = _MARGIN
        """Bytes that may still come; nothing may come between calls."""
        self._gone = asyncio.Event()
        self._exited: asyncio.Future[protocol.Exited | None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        asyncio.get_running_loop().add_reader(handle, self._has_gone)

    @property
    def alive(self) -> bool:
        """Whether it is there and has said nothing unasked, as far as is known."""
        return not self._gone.is_set() and not self._reason and self._messages.empty()

    async def hello(self) -> protocol.Hello | protocol.Unfit:
        """How it could be confined. Raises Ended."""
        message = await self._receive()
        if not isinstance(message, protocol.Hello | protocol.Unfit):
            raise self._break_off()
        self._allowed = 0
        return message

    async def run(self, run: protocol.Run) -> Outcome:
        """Runs a cell. Raises Ended; `printed` has then what came until the end."""
        self.printed = []
        self._ask(run, run.output * _BYTES_PER_CHARACTER)
        left = run.output
        while True:
            match await self._receive():
                case protocol.Printed(number, text) if number == run.number and left > 0:
                    self.printed.append(text[:left])
                    left -= len(text)
                case protocol.Ran(number) as ran if number == run.number:
                    self._allowed = 0
                    self.stop()
                    return Outcome("".join(self.printed), ran)
                case _:
                    raise self._break_off()

    async def call(self, call: protocol.Call, longest: int) -> tuple[bytes, str | None]:
        """Calls a function of ours: its result as JSON of at most `longest` bytes, or why it failed. Raises Ended."""
        self._ask(call, longest)
        pieces: list[bytes] = []
        while True:
            match await self._receive():
                case protocol.Piece(data):
                    pieces.append(data)
                case protocol.Called(error):
                    return b"".join(pieces), error
                case _:
                    raise self._break_off()

    def stop(self) -> None:
        """Lets it do nothing at all until the next call."""
        self._signal(signal.SIGSTOP)

    def kill(self, reason: str) -> None:
        """Ends it; whoever waits for it gets `reason`."""
        self._reason = self._reason or reason
        self._signal(signal.SIGKILL)

    async def end(self, reason: str) -> None:
        """Kills it, and returns when it has ended; nothing else may be called afterwards."""
        self.kill(reason)
        try:
            await self._gone.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Frees what belongs to it here; nothing else may be called afterwards."""
        asyncio.get_running_loop().remove_reader(self._handle)
        if self._transport is not None:
            self._transport.close()
        os.close(self._handle)
        self._handle = -1

    def has_exited(self, exited: protocol.Exited | None) -> None:
        """The zygote tells how it ended; None: there is no zygote any more to tell it."""
        if not self._exited.done():
            self._exited.set_result(exited)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For asyncio."""
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """For asyncio."""
        self._allowed -= len(data)
        self._received += data
        try:
            if self._allowed < 0:
                raise protocol.Forged("more than was asked for")
            while (message := protocol.take(self._received)) is not None:
                self._messages.put_nowait(message)
        except protocol.Forged:
            self._received.clear()
            self.kill(MALFORMED)

    def connection_lost(self, exception: Exception | None) -> None:
        """For asyncio."""
        # Without the socket it is of no use, even if it lives.
        self._signal(signal.SIGKILL)
        self._messages.put_nowait(None)

    def _ask(self, message: protocol.FromServer, expected: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._allowed = expected + _MARGIN
        self._signal(signal.SIGCONT)
        self._transport.write(protocol.frame(message))

    async def _receive(self) -> protocol.FromWorker:
        message = await self._messages.get()
        if message is None or self._reason:
            self._messages.put_nowait(None)
            raise Ended(self._reason or await self._cause())
        return message

    def _break_off(self) -> Ended:
        self.kill(MALFORMED)
        return Ended(MALFORMED)

    async def _cause(self) -> str:
        """Why it ended by itself."""
        await self._gone.wait()
        exited = await self._exited
        if exited is None:
            return "The process ended, since the one that all come from did."
        if exited.cpu >= self._cpu - 1:
            return f"The session has used up its {self._cpu} seconds of CPU, and was ended."
        if not os.WIFSIGNALED(exited.status):
            return "The code ended the process."
        number = os.WTERMSIG(exited.status)
        if number == signal.SIGKILL:
            return "The process was killed; the machine may have run out of memory."
        return f"The process crashed: {signal.strsignal(number)} (signal {number})."

    def _signal(self, number: signal.Signals) -> None:
        if self._handle >= 0:
            try:
                signal.pidfd_send_signal(self._handle, number)
            except ProcessLookupError:
                return

    def _has_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        self._gone.set()
