"""What a worker tries in order to find out whether it is confined: harm, for real, and what it must be able to do.

Versions of kernels and their settings promise; only an attempt tells. It runs in a worker of its own, outside of the
language layer and before the audit hook matters, against targets that the server has laid out for it.
"""

import ctypes
import errno
import importlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tools.python import kernel

_FIRST_CLOSED = 4
"""Descriptors below: the standard streams and the socket."""
_PTRACE_SEIZE = 0x4206
"""Unlike PTRACE_ATTACH it does not stop the one that is traced."""
_NUMBERS = {
    "x86_64": {"ptrace": 101, "memfd_create": 319, "keyctl": 250, "io_uring_setup": 425, "bpf": 321},
    "aarch64": {"ptrace": 117, "memfd_create": 279, "keyctl": 219, "io_uring_setup": 425, "bpf": 280},
}
_VSOCK_HOST = 2


class Targets(Struct, frozen=True):
    """What the attempts are made on."""

    folder: str
    """A folder outside of the worker's, in which everybody may do everything, with the file `canary` in it."""
    tcp: int
    udp: int
    """Ports of the server on 127.0.0.1."""
    abstract: str
    """Name of an abstract UNIX socket of the server."""
    server: int
    """The server's process id."""
    memory: int
    """Bytes that the worker may use."""
    file_bytes: int
    """Largest file that it may write."""
    environment: tuple[str, ...]
    """Variables that it may have."""


class Findings(Struct, frozen=True):
    """What came of it."""

    harmed: tuple[str, ...]
    """What it could do and must not."""
    broken: tuple[str, ...]
    """What it must be able to do and could not."""


def attempt(targets: dict[str, Any]) -> Findings:
    """Tries everything, in the worker's folder. Takes `Targets` as an object."""
    harms = _harms(msgspec.convert(targets, Targets))
    harmed = [name for name, act in harms.items() if _works(act)]
    broken = [name for name, act in _NEEDS.items() if not _works(act)]
    return Findings(tuple(harmed), tuple(broken))


def _works(act: Callable[[], object]) -> bool:
    """Whether it could be done. A false answer counts as: it could not."""
    try:
        return act() is not False
    except (OSError, MemoryError, RuntimeError, ImportError, ValueError):
        return False


def _harms(targets: Targets) -> dict[str, Callable[[], object]]:
    outside = Path(targets.folder)
    canary = outside / "canary"
    return {
        "read a file outside": canary.read_bytes,
        "list a folder outside": lambda: list(outside.iterdir()),
        "change a file outside": lambda: canary.open("r+b").close(),
        "truncate a file outside": lambda: os.truncate(canary, 0),
        "truncate a file outside by opening it": lambda: os.close(os.open(canary, os.O_RDONLY | os.O_TRUNC)),
        "truncate a file outside by opening it for nothing": lambda: os.close(os.open(canary, 3 | os.O_TRUNC)),
        "make a file outside": lambda: (outside / "made").touch(),
        "delete a file outside": lambda: (outside / "spare").unlink(),
        "change the mode of a file outside": lambda: _change_mode(canary),
        "read the server's environment": lambda: bool(Path(f"/proc/{targets.server}/environ").read_bytes()),
        "have variables that it should not": lambda: bool(set(os.environ) - set(targets.environment)),
        "have descriptors that it should not": lambda: any(map(_is_open, range(_FIRST_CLOSED, 256))),
        "connect by TCP": lambda: _connect(targets.tcp),
        "send by UDP": lambda: _send(targets.udp),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "connect to an abstract UNIX socket": lambda: _connect_abstract(targets.abstract),
        "use vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((_VSOCK_HOST, 1)),
        "make a vsock socket": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
        "start a process": _fork,
        "start a thread": lambda: threading.Thread(target=int).start(),
        "execute a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signal the server": lambda: os.kill(targets.server, 0),
        "signal its parent": lambda: os.kill(os.getppid(), 0),
        "trace the server": lambda: _call("ptrace", _PTRACE_SEIZE, targets.server, 0, 0),
        "see the server's limits": lambda: resource.prlimit(targets.server, resource.RLIMIT_NOFILE),
        "change its own limits": lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1)),
        "make a link": lambda: Path("link").symlink_to(canary),
        "make a second name": lambda: os.link(canary, "name"),
        "make a pipe": lambda: os.mkfifo("pipe"),
        "make anonymous files": lambda: _call("memfd_create", ctypes.create_string_buffer(b"x"), 0),
        "use the keyring": lambda: _call("keyctl", 0, -3 & 0xFFFFFFFF, 0),
        "use io_uring": lambda: _call("io_uring_setup", 1, ctypes.create_string_buffer(120)),
        "load a BPF program": lambda: _call("bpf", 0, ctypes.create_string_buffer(72), 72),
        "make namespaces": lambda: kernel.unshare(kernel.NEW_USER),
        "use more memory": lambda: len(bytearray(3 * targets.memory)),
        "write a larger file": lambda: _write_large(targets.file_bytes),
        "reserve a larger file": lambda: _reserve_large(targets.file_bytes),
    }


def _change_mode(file: Path) -> bool:
    """A call that says that it worked does not mean that it did."""
    before = file.stat().st_mode
    file.chmod(0o600)
    return file.stat().st_mode != before


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _connect(port: int) -> None:
    with socket.socket() as stream:
        stream.settimeout(1)
        stream.connect(("127.0.0.1", port))


def _send(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.sendto(b"x", ("127.0.0.1", port))


def _connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect("\0" + name)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _call(name: str, *arguments: int | ctypes.Array[ctypes.c_char]) -> None:
    kernel.syscall(_NUMBERS[kernel.MACHINE][name], *arguments)


def _write_large(limit: int) -> None:
    with Path("large").open("wb") as file:
        file.seek(limit)
        file.write(b"x")


def _reserve_large(limit: int) -> None:
    keep_size = 1
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("reserved", os.O_RDWR | os.O_CREAT)
    if libc.fallocate(descriptor, keep_size, ctypes.c_long(0), ctypes.c_long(limit * 4)):
        raise OSError(ctypes.get_errno(), "fallocate")


def _write_and_read() -> bool:
    folder = Path("folder")
    folder.mkdir()
    (folder / "file").write_text("text")
    renamed = (folder / "file").rename(folder / "other")
    text = renamed.read_text()
    renamed.unlink()
    folder.rmdir()
    return text == "text"


_NEEDS: dict[str, Callable[[], object]] = {
    "work on files in its folder": _write_and_read,
    "load a module of the standard library": lambda: importlib.reload(importlib.import_module("colorsys")),
    "be interrupted by a timer": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
}
