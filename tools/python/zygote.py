"""The warm parent of all workers: a process that loads the libraries once, and then does nothing but fork.

The server starts it with a clean environment and without any descriptor but the one to the server. It never sees a key,
a token or a request. It has one thread: what other threads hold when a process forks is held for ever in the child.
It ends with the server, and its workers end with it.
"""

import gc
import importlib
import io
import os
import select
import signal
import socket
import sys
import sysconfig
import warnings
from pathlib import Path

import msgspec

from tools import documents
from tools.folder import remove_tree
from tools.python import protocol, worker

_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/fonts", "/usr/share/mime",
    "/usr/local/share/fonts", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types",
)  # fmt: skip


def main(root: str, descriptor: str, *packages: str) -> None:
    """Loads, forks and reaps until the server is gone.

    Args:
        root: the folder of our own packages, on `sys.path` only until all is loaded.
        descriptor: of the socket to the server.
        packages: what is loaded besides.
    """
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(descriptor))
    absent = _load(packages)
    sys.path.remove(root)
    sys.argv = [""]
    gc.collect()
    gc.freeze()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a library has started a thread"
    control.send(protocol.encode(protocol.Ready(_libraries(), absent)))
    _serve(control)
    # The server has not ended it, so it has ended without a farewell: nobody else removes its scratch folder.
    remove_tree(Path(os.environ["MPLCONFIGDIR"]).parent)


def _load(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Loads packages, and has each do once what is slow the first time."""
    absent = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        documents.preload()
        for name in packages:
            try:
                importlib.import_module(name)
                _WARM.get(name, _nothing)()
            except ImportError as error:
                absent.append(f"{name}: {error}")
    return tuple(absent)


def _nothing() -> None:
    return None


def _warm_pandas() -> None:
    for name in ("computation.expr", "reshape.pivot"):  # loaded late, and hardened by the policy once they are
        importlib.import_module(f"pandas.core.{name}")
    pandas = importlib.import_module("pandas")
    pandas.set_option("mode.max_threads", 1)  # large CSV files are read with threads otherwise, and there are none
    pandas.set_option("display.width", 160)
    pandas.set_option("display.max_columns", 40)
    frame = pandas.read_csv(io.StringIO("a,b\n1,x\n2,y\n"))
    repr(frame.groupby("b").sum().describe())


def _warm_matplotlib() -> None:
    from matplotlib import pyplot

    pyplot.plot([1, 2])
    pyplot.savefig(io.BytesIO())
    pyplot.close("all")


_WARM = {"pandas": _warm_pandas, "matplotlib": _warm_matplotlib}


def _libraries() -> tuple[str, ...]:
    """What Python and its packages may still load while a worker is at work, and the fonts of its charts."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {str(Path(sys.base_prefix, "lib")), os.environ["MPLCONFIGDIR"], *_SYSTEM}
    paths |= {os.path.realpath(path) for path in paths}
    there = sorted(path for path in paths if os.path.lexists(path))
    folders = [path + "/" for path in there if not Path(path).is_symlink()]
    return tuple(path for path in there if not any(path.startswith(folder) for folder in folders))


def _serve(control: socket.socket) -> None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in children:
                poll.unregister(descriptor)
                _reap(control, descriptor, *children.pop(descriptor))
                continue
            data, descriptors, _, _ = socket.recv_fds(control, protocol.LONGEST, 2)
            if not data:
                return
            spawn = msgspec.msgpack.decode(data, type=protocol.Spawn)
            if (child := _fork(control, spawn, descriptors)) is not None:
                pid, handle = child
                children[handle] = (pid, spawn.id)
                poll.register(handle, select.POLLIN)


def _fork(control: socket.socket, spawn: protocol.Spawn, descriptors: list[int]) -> tuple[int, int] | None:
    """A new worker's pid and the descriptor of its process; None where none could be made."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        control.send(protocol.encode(protocol.NotSpawned(spawn.id, str(error))))
        return None
    else:
        if pid == 0:
            worker.main(spawn.plan, parent, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    handle = os.pidfd_open(pid)
    socket.send_fds(control, [protocol.encode(protocol.Spawned(spawn.id))], [handle])
    return pid, handle


def _reap(control: socket.socket, handle: int, pid: int, id: int) -> None:
    _, status, usage = os.wait4(pid, 0)
    os.close(handle)
    control.send(protocol.encode(protocol.Exited(id, status, usage.ru_utime + usage.ru_stime)))
