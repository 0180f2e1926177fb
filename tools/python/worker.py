"""A worker: the process of one session. It confines itself, says hello, and runs what the server sends, cell by cell.

All of this is in reach of the code that it runs, should that break out of the language layer. So nothing here guards
anything: the kernel does, and the server believes nothing that comes from here.
"""

import fcntl
import importlib
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from tools.documents import Unreadable
from tools.python import audit, protocol
from tools.python.confine import confine
from tools.python.interpreter import Interpreter, told
from tools.python.plan import Confined, Plan, Refused

_FIRST = 3
"""The first descriptor that is not one of the standard streams: the socket; the next one is a file, if there is one."""
_OUT_OF_THE_WAY = 64
_KNOWN = frozenset(("LANG", "TZ", "PATH", "MPLBACKEND", "MPLCONFIGDIR"))
"""Variables that stay."""
_UNSEEN = ("sqlite3", "_sqlite3", "lxml", "lxml.etree", "lxml.html")
"""Modules that open files in C, where no audit hook sees it: where nothing else holds they are not there."""
_AGAIN = 0.5
"""Seconds after which a cell that has caught its interruption is interrupted again."""
_FULL = 16 * 1024
_FRESH = 0.02
"""Characters that are held back at most, and seconds since the last time that some were sent."""

_decode = msgspec.msgpack.Decoder(protocol.FromServer).decode


def main(plan: Plan, parent: int, descriptors: list[int]) -> NoReturn:
    """All of a worker's life, in a child of the zygote."""
    try:
        _keep_only(descriptors)
        channel = Channel(_FIRST)
        file = os.fdopen(_FIRST + 1, "rb") if len(descriptors) > 1 else None
        try:
            confined = confine(plan, parent)
            worker = Worker(channel, file, plan)
        except Refused as refused:
            channel.send(protocol.Unfit(refused.layer, refused.reason))
        except Exception as error:  # whatever it is, somebody must hear of it
            channel.send(protocol.Unfit("start", "".join(traceback.format_exception(error))))
        else:
            worker.serve(confined)
    finally:
        os._exit(0)


def _keep_only(descriptors: list[int]) -> None:
    """Closes all but the standard streams, which lead nowhere, and these, which get the numbers from 3 on."""
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _OUT_OF_THE_WAY) for descriptor in descriptors]
    for number in (1, 2):
        os.dup2(0, number)
    for number, descriptor in enumerate(moved, _FIRST):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(_FIRST + len(moved), os.sysconf("SC_OPEN_MAX"))


def _tidy() -> None:
    """Makes the process's surroundings plain, and different from those of its siblings."""
    here = str(Path.cwd())
    known = {name: value for name, value in os.environ.items() if name in _KNOWN}
    os.environ.clear()
    os.environ.update(known | {"HOME": here, "TMPDIR": here})
    tempfile.tempdir = None
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


class TimeUp(BaseException):
    """A cell has had its time."""

    __module__ = "builtins"  # as its name is to be shown


class Channel:
    """The worker's end of the socket: read and written like a file, for the calls made for sockets are not allowed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.busy = False
        """Whether a frame is on its way, which nothing may cut in two."""

    def send(self, message: protocol.FromWorker) -> None:
        """Sends a message."""
        left = memoryview(protocol.frame(message))
        self.busy = True
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        finally:
            self.busy = False

    def receive(self) -> protocol.FromServer | None:
        """The next message; None when the server has hung up."""
        if len(head := self._exactly(protocol.HEAD)) < protocol.HEAD:
            return None
        message: protocol.FromServer = _decode(self._exactly(protocol.length(head)))
        return message

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := os.read(self._descriptor, size - len(data))):
            data += piece
        return data


class Timer:
    """Interrupts a cell that has had its time, as far as its code can be interrupted."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._text = ""
        signal.signal(signal.SIGALRM, self._ring)

    def start(self, seconds: float) -> None:
        """From now on TimeUp may rise anywhere."""
        self._text = f"stopped after {seconds:g} seconds"
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)

    def stop(self) -> None:
        """From now on it does not."""
        self._text = ""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._text and not self._channel.busy:
            raise TimeUp(self._text)


class Output(io.TextIOBase):
    """The standard output and error of cells: it goes to the server in pieces, up to a limit."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._held: list[str] = []
        self._size = 0
        self._sent_at = 0.0
        self._cell = 0
        self._left = 0
        self.dropped = 0
        """Characters beyond the limit."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def begin(self, cell: int, limit: int) -> None:
        """A new cell."""
        self._cell, self._left, self.dropped, self._sent_at = cell, limit, 0, 0.0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Takes text. What is printed first goes out at once, so that it is known even if the process is killed."""
        kept = text[: self._left]
        self.dropped += len(text) - len(kept)
        if kept:
            self._left -= len(kept)
            self._held.append(kept)
            self._size += len(kept)
            if self._size >= _FULL or time.monotonic() - self._sent_at >= _FRESH:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Sends what is held back."""
        held, self._held, self._size = "".join(self._held), [], 0
        for start in range(0, len(held), _FULL):
            self._channel.send(protocol.Printed(self._cell, _plain(held[start : start + _FULL])))
        self._sent_at = time.monotonic()


class Worker:
    """Does what the server says."""

    def __init__(self, channel: Channel, file: io.BufferedReader | None, plan: Plan) -> None:
        _tidy()
        self._channel = channel
        self._file = file
        self._timer = Timer(channel)
        self._output = Output(channel)
        sys.stdout = sys.stderr = self._output
        warnings.showwarning = self._warn
        self._interpreter = Interpreter(plan.layers.language, self._output.write)
        if not plan.confines_files:
            sys.modules.update(dict.fromkeys(_UNSEEN))  # type: ignore[arg-type]
        if plan.layers.audit:
            audit.install(str(Path.cwd()), plan.libraries)

    def serve(self, confined: Confined) -> None:
        """Until the server hangs up."""
        self._channel.send(protocol.Hello(confined))
        while (message := self._channel.receive()) is not None:
            match message:
                case protocol.Run():
                    self._channel.send(self._run(message))
                case protocol.Call():
                    self._channel.send(self._call(message))

    def _run(self, run: protocol.Run) -> protocol.Ran:
        sys.stdout = sys.stderr = self._output
        self._output.begin(run.number, run.output)
        value, error, interrupted = "", None, False
        try:
            self._timer.start(run.seconds)
            try:
                value = self._interpreter.run(run.number, run.code)
            except BaseException as failure:
                interrupted = isinstance(failure, TimeUp)
                error = told(failure)
            self._output.flush()
        except BaseException as failure:  # while it was told what the first one was, in code that the cell has made
            interrupted = interrupted or isinstance(failure, TimeUp)
            error = f"{type(failure).__name__}, raised while an error was to be shown"
        finally:
            self._timer.stop()
        self._output.flush()
        return protocol.Ran(run.number, _plain(value), error and _plain(error), interrupted, self._output.dropped)

    def _call(self, call: protocol.Call) -> protocol.Called:
        try:
            function = getattr(importlib.import_module(call.module), call.function)
            files = () if self._file is None else (self._file,)
            data = msgspec.json.encode(function(*files, **call.options))
        except Unreadable as error:
            return protocol.Called(str(error))
        except Exception as error:  # whatever it is, the server makes of it that the function has failed
            return protocol.Called(f"{type(error).__name__}: {error}"[:1000])
        for start in range(0, len(data), protocol.PIECE):
            self._channel.send(protocol.Piece(data[start : start + protocol.PIECE]))
        return protocol.Called()

    def _warn(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        self._output.write(f"{category.__name__}: {message}\n")


def _plain(text: str) -> str:
    """Text that can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()
