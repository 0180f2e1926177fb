"""The audit hook (PEP 578): refuses in words, before the kernel does it with a bare error number.

It is the last layer and the weakest: code in C that opens files by itself, such as SQLite, passes it by.
"""

import os
import sys
from collections.abc import Sequence
from posixpath import abspath, realpath
from typing import Any

_WRITES = frozenset(
    (
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
        "os.utime",
        "os.chdir",
        "shutil.rmtree",
        "shutil.move",
        "tempfile.mkstemp",
        "tempfile.mkdtemp",
    )
)
_READS = frozenset(("os.listdir", "os.scandir", "glob.glob"))
_DENIED = {
    "subprocess.Popen": "programs cannot be started",
    "os.system": "programs cannot be started",
    "os.exec": "programs cannot be started",
    "os.posix_spawn": "programs cannot be started",
    "os.spawn": "programs cannot be started",
    "os.startfile": "programs cannot be started",
    "os.fork": "processes cannot be started",
    "os.forkpty": "processes cannot be started",
    "os.kill": "signals cannot be sent",
    "os.killpg": "signals cannot be sent",
    "os.symlink": "links cannot be made",
    "os.link": "links cannot be made",
    "os.chown": "permissions cannot be changed",
    "os.setxattr": "permissions cannot be changed",
    "os.mkfifo": "pipes cannot be made",
    "resource.setrlimit": "limits cannot be changed",
    "resource.prlimit": "limits cannot be changed",
    "sqlite3.enable_load_extension": "extensions cannot be loaded",
    "sqlite3.load_extension": "extensions cannot be loaded",
    "sys.addaudithook": "hooks cannot be set",
    "sys.settrace": "hooks cannot be set",
    "sys.setprofile": "hooks cannot be set",
    "sys._current_frames": "frames cannot be read",
    "gc.get_objects": "the memory of Python cannot be searched",
    "gc.get_referrers": "the memory of Python cannot be searched",
    "gc.get_referents": "the memory of Python cannot be searched",
    "fcntl.ioctl": "devices cannot be used",
    "signal.pthread_kill": "signals cannot be sent",
}
_DENIED_FAMILIES = {
    "socket": "there is no network",
    "urllib": "there is no network",
    "http": "there is no network",
    "ftplib": "there is no network",
    "smtplib": "there is no network",
    "ctypes": "native code cannot be called",
    "pty": "programs cannot be started",
    "webbrowser": "there is no browser",
    "syslog": "there is no system log",
}
# fmt: off
_UNPICKLED = frozenset((
    "numpy", "pandas", "datetime", "decimal", "fractions", "collections", "pathlib", "uuid", "enum", "zoneinfo",
    "dateutil", "__main__",
))
"""Packages whose classes pickles may name."""
_UNPICKLED_BUILTINS = frozenset((
    "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set", "slice",
    "str", "tuple",
))
# fmt: on
_UNPICKLED_NAMES = frozenset({("_codecs", "encode"), ("copyreg", "_reconstructor"), ("functools", "partial")})


def install(folder: str, libraries: Sequence[str]) -> None:
    """Watches this process from now on.

    Args:
        folder: where files may be read and written.
        libraries: where they may be read.
    """
    readable = (*libraries, "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

    def check_path(path: Any, writes: bool) -> None:
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path)
        full = abspath(name)
        if not writes and _within(full, readable):
            return
        if full == "/dev/null" or name == ":memory:" or _within(realpath(full), (folder,)):
            return
        verb = "write to" if writes else "read from"
        raise PermissionError(f"you can {verb} the working folder only, by relative paths: {name!r}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            check_path(path, writes=bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)))
        elif event in _READS:
            check_path(arguments[0], writes=False)
        elif event in _WRITES or event == "sqlite3.connect":
            check_path(arguments[0], writes=True)
            if event in ("os.rename", "shutil.move"):
                check_path(arguments[1], writes=True)
        elif event == "pickle.find_class":
            _check_pickled(*arguments)
        elif (reason := _DENIED.get(event) or _DENIED_FAMILIES.get(event.partition(".")[0])) is not None:
            raise PermissionError(f"{reason} here ({event})")

    sys.addaudithook(hook)


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _check_pickled(module: str, name: str) -> None:
    known = module.partition(".")[0] in _UNPICKLED or (module == "builtins" and name in _UNPICKLED_BUILTINS)
    if "." in name or not (known or (module, name) in _UNPICKLED_NAMES):
        raise PermissionError(f"pickles with {module}.{name} are not loaded here")
