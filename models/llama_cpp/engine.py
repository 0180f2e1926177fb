"""The engine process: loads one model and answers requests over a socket, one at a time, in the order they came.

Started by worker.py as `python -m models.llama_cpp.engine FD PARENT`. It ends when the other side closes the socket.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import closing
from queue import SimpleQueue
from threading import Lock, Thread

import llama_cpp

from models.backend import InvalidRequest
from models.llama_cpp import protocol
from models.llama_cpp.context import Context, StopFlag, Stopped, Unloadable, normalized
from models.llama_cpp.generation import Generator, PromptTooLong
from models.messages import Usage

_PR_SET_PDEATHSIG = 1
_ERROR = 4
"""llama.cpp's number for the level."""

Request = protocol.Chat | protocol.Embed


class Inbox:
    """Reads the socket in a thread of its own, so that a cancellation arrives while the model computes."""

    def __init__(self, connection: socket.socket, stop: StopFlag) -> None:
        self._file = connection.makefile("rb")
        self._waiting: SimpleQueue[Request] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._current: int | None = None
        self._stop = stop
        self._lock = Lock()

    def load(self) -> protocol.Load:
        """The first message."""
        message = protocol.read(self._file)
        if not isinstance(message, protocol.Load):
            sys.exit("the first message must be `load`")
        return message

    def listen(self) -> None:
        """Begins to read requests. The process ends when nobody is on the other side, whatever it is doing."""
        Thread(target=self._read, daemon=True).start()

    def next(self) -> Request:
        """The next request that somebody still waits for."""
        while True:
            request = self._waiting.get()
            with self._lock:
                self._current = request.id
                self._stop.clear()
                # Numbers rise: what came before needs no cancelling any more.
                self._cancelled = {number for number in self._cancelled if number >= request.id}
                if not self._cancelled_now:
                    return request

    def check(self) -> None:
        """Raises `Stopped` when nobody waits for the current request any more."""
        if self._cancelled_now:
            raise Stopped

    @property
    def _cancelled_now(self) -> bool:
        return self._current in self._cancelled

    def _read(self) -> None:
        try:
            while message := protocol.read(self._file):
                match message:
                    case protocol.Cancel(number):
                        self._cancel(number)
                    case protocol.Chat() | protocol.Embed():
                        self._waiting.put(message)
        except Exception:
            traceback.print_exc()
        os._exit(0)

    def _cancel(self, number: int) -> None:
        with self._lock:
            self._cancelled.add(number)
            if number == self._current:
                self._stop.set()


class Engine:
    """A loaded model at work."""

    def __init__(self, connection: socket.socket, inbox: Inbox, context: Context) -> None:
        self._connection = connection
        self._inbox = inbox
        self._context = context
        self._generator = Generator(context)

    def serve(self) -> None:
        """Works for as long as the process lives."""
        self.send(protocol.Ready(self._context.limit))
        while True:
            self._handle(self._inbox.next())

    def send(self, message: protocol.FromEngine) -> None:
        """Tells the server something."""
        self._connection.sendall(protocol.frame(message))

    def _handle(self, request: Request) -> None:
        self.send(protocol.Started(request.id))
        try:
            self._work(request)
        except Stopped:
            pass  # Whoever cancelled waits for no reply.
        except PromptTooLong as error:
            self.send(protocol.TooLong(request.id, error.limit, error.tokens))
        except InvalidRequest as error:
            self.send(protocol.Refused(request.id, error.message, error.param, error.code))
        except Exception as error:
            traceback.print_exc()
            self._context.forget()
            self.send(protocol.Broke(request.id, f"{type(error).__name__}: {error}"))

    def _work(self, request: Request) -> None:
        if isinstance(request, protocol.Embed):
            self._embed(request)
        else:
            self._chat(request)
        self.send(protocol.Done(request.id))

    def _chat(self, request: protocol.Chat) -> None:
        with closing(self._generator.answer(request.request)) as deltas:
            for delta in deltas:
                self._inbox.check()
                self.send(protocol.Piece(request.id, delta))

    def _embed(self, request: protocol.Embed) -> None:
        prompts = [self._context.vocabulary.input(text) for text in request.inputs]
        for tokens in prompts:
            if len(tokens) > self._context.limit:
                raise PromptTooLong(self._context.limit, len(tokens))
        vectors = [self._vector(tokens, request.dimensions) for tokens in prompts]
        self.send(protocol.Vectors(request.id, vectors, Usage(sum(map(len, prompts)))))

    def _vector(self, tokens: list[int], dimensions: int | None) -> list[float]:
        self._inbox.check()
        vector = self._context.embed(tokens)
        if dimensions is not None and dimensions > len(vector):
            raise InvalidRequest(f"This model's vectors have {len(vector)} dimensions.", "dimensions")
        cut = vector if dimensions is None else normalized(vector[:dimensions])
        return [float(number) for number in cut]


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
    connection = socket.socket(fileno=int(sys.argv[1]))
    stop = StopFlag()
    inbox = Inbox(connection, stop)
    load = inbox.load()
    inbox.listen()
    log = Log()
    try:
        context = Context(load, stop)
    except Unloadable as error:
        connection.sendall(protocol.frame(protocol.Unloadable(f"{error}: {log.reason}")))
        return
    Engine(connection, inbox, context).serve()


def _die_with(parent: int) -> None:
    """The kernel ends this process when the server's ends, however that came. A crash here leaves no core file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:
        sys.exit("the server is gone")


if __name__ == "__main__":
    main()
