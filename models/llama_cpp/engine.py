"""The engine process: loads one model and answers requests over a socket, many at a time.

Started by worker.py as `python -m models.llama_cpp.engine FD PARENT`. It ends when the other side closes the socket.

Three threads: one reads the socket, so that a cancellation arrives while the model computes; one prepares requests
(template, tokens, grammar), so that this stalls no stream; the main one computes batch after batch.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import llama_cpp

from models.backend import InvalidRequest
from models.llama_cpp import protocol
from models.llama_cpp.chatting import Chats
from models.llama_cpp.context import Context, StopFlag, Unloadable
from models.llama_cpp.embedding import Embeddings, Texts
from models.llama_cpp.generation import Generation, PromptTooLong

_PR_SET_PDEATHSIG = 1
_ERROR = 4
"""llama.cpp's number for the level."""
_REPORTS = 1.0
"""Seconds between two reports."""
_SWITCH = 0.0005
"""Seconds that one of our threads may keep another one waiting for the interpreter."""

Request = protocol.Chat | protocol.Embed
Prepared = Generation | Texts
Arrival = Prepared | protocol.Cancel | protocol.Reply


class Connection:
    """The socket to the server. What is sent within a step goes out at its end, in one piece."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._unsent: list[bytes] = []

    def read(self) -> protocol.ToEngine | None:
        """The next message; None when the server is gone."""
        return protocol.read(self._file)

    def send(self, message: protocol.FromEngine) -> None:
        """Keeps a message for the next `flush`."""
        self._unsent.append(protocol.frame(message))

    def flush(self) -> None:
        """Sends what was kept."""
        if self._unsent:
            self._socket.sendall(b"".join(self._unsent))
            self._unsent.clear()


class Inbox:
    """What the server sends, read and prepared in threads beside the one that computes."""

    def __init__(self, connection: Connection, work: Chats | Embeddings, stop: StopFlag) -> None:
        self._connection = connection
        self._work = work
        self._stop = stop
        self._unprepared: SimpleQueue[Request] = SimpleQueue()
        self._arrived: SimpleQueue[Arrival] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()
        Thread(target=self._prepare, daemon=True).start()

    def arrivals(self, *, wait: bool) -> Iterator[Arrival]:
        """What has come since the last time; with `wait`, at least one thing."""
        try:
            while True:
                yield self._arrived.get(block=wait)
                wait = False
        except Empty:
            return

    def _read(self) -> None:
        try:
            while message := self._connection.read():
                match message:
                    case protocol.Cancel(number):
                        self._arrived.put(message)  # First: whoever is stopped by it looks here.
                        self._stop.cancel(number)
                    case protocol.Chat() | protocol.Embed():
                        self._unprepared.put(message)
        except Exception:
            traceback.print_exc()
        os._exit(0)  # Nobody is on the other side: whatever is being done is in vain.

    def _prepare(self) -> None:
        while True:
            request = self._unprepared.get()
            self._arrived.put(self._prepared(request))

    def _prepared(self, request: Request) -> Arrival:
        prepare: Any = self._work.prepare
        try:
            return prepare(request)  # type: ignore[no-any-return]
        except PromptTooLong as error:
            return protocol.TooLong(request.id, error.limit, error.tokens)
        except InvalidRequest as error:
            return protocol.Refused(request.id, error.message, error.param, error.code)
        except Exception as error:
            traceback.print_exc()
            return protocol.Broke(request.id, f"{type(error).__name__}: {error}")


class Engine:
    """A loaded model at work."""

    def __init__(self, connection: Connection, context: Context, load: protocol.Load, stop: StopFlag) -> None:
        self._connection = connection
        self._context = context
        self._work: Chats | Embeddings = (
            Embeddings(context, stop, connection.send) if load.embed else Chats(context, load, stop, connection.send)
        )
        self._inbox = Inbox(connection, self._work, stop)
        self._last = 0
        """The number of the last request that was prepared: they come in order."""
        self._overhead = 0.0
        self._cancelled: set[int] = set()
        """Requests that were cancelled before they were prepared."""

    def serve(self) -> None:
        """Works for as long as the process lives."""
        self._connection.send(protocol.Ready(self._context.limit))
        while True:
            self._report()
            self._take_in(wait=True)
            self._work_on()

    def _work_on(self) -> None:
        """Computes batches for as long as there is something to do."""
        start, computing = perf_counter(), self._work.computing
        while self._work.busy:
            self._work.step()
            self._take_in(wait=False)
            now = perf_counter()
            if now - start > _REPORTS or not self._work.busy:
                self._overhead += now - start - (self._work.computing - computing)
                start, computing = now, self._work.computing
                self._report()
            self._connection.flush()

    def _report(self) -> None:
        self._connection.send(self._work.report(self._overhead))
        self._connection.flush()

    def _take_in(self, *, wait: bool) -> None:
        for arrival in self._inbox.arrivals(wait=wait):
            if isinstance(arrival, protocol.Cancel):
                self._cancel(arrival.id)
            else:
                self._begin(arrival)

    def _cancel(self, number: int) -> None:
        if number > self._last:
            self._cancelled.add(number)
        else:
            self._work.cancel(number)

    def _begin(self, arrival: Prepared | protocol.Reply) -> None:
        self._last = arrival.id if isinstance(arrival, protocol.Reply) else arrival.number
        cancelled = self._last in self._cancelled
        self._cancelled.discard(self._last)
        if isinstance(arrival, protocol.Reply):
            self._connection.send(arrival)
            self._connection.flush()
            return
        work: Any = self._work
        work.add(arrival)
        if cancelled:
            work.cancel(self._last)


class Log:
    """Takes what llama.cpp has to say: all of it goes to stderr, which the server reads."""

    def __init__(self) -> None:
        self.reason = ""
        """The last error but those that only repeat that there was one."""
        self._callback = llama_cpp.llama_log_callback(self._write)
        llama_cpp.llama_log_set(self._callback, None)

    def _write(self, level: int, text: bytes, _: object) -> None:
        sys.stderr.buffer.write(text)
        sys.stderr.flush()
        if level == _ERROR and b"failed to load model" not in text:
            self.reason = text.decode("utf-8", "replace").strip()


def main() -> None:
    """Runs the engine on the socket whose number is the first argument."""
    _die_with(parent=int(sys.argv[2]))
    sys.setswitchinterval(_SWITCH)
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    load = connection.read()
    if not isinstance(load, protocol.Load):
        sys.exit("the first message must be `load`")
    log = Log()
    stop = StopFlag()
    try:
        context = Context(load, stop)
    except Unloadable as error:
        connection.send(protocol.Unloadable(f"{error}: {log.reason}"))
        connection.flush()
        return
    Engine(connection, context, load, stop).serve()


def _die_with(parent: int) -> None:
    """The kernel ends this process when the server's ends, however that came. A crash here leaves no core file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:
        sys.exit("the server is gone")


if __name__ == "__main__":
    main()
