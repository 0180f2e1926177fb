"""A file system, a network and an IPC space of its own: the worker's root has libraries, its folder, nothing else."""

import os
from collections.abc import Sequence
from pathlib import Path

from tools.python import kernel

WORK = "/mnt/data"
"""Where the worker's folder is in its own file system. It is the path that models know from elsewhere."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_LOCKED = kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC


def enter(root: str, folder: str, libraries: Sequence[str]) -> None:
    """Moves this process into namespaces of its own. Afterwards `folder` is the current folder, as /mnt/data.

    Args:
        root: an empty folder.
        folder: the only one that can be written to.
        libraries: what else there is, each at its own path.

    Raises:
        OSError: it does not work here. Half of it may have happened: the process must end.
    """
    _unshare()
    kernel.mount("", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES, "mode=755,size=1m")
    for path in (*libraries, *DEVICES):
        _bind(root, path, path, kernel.READ_ONLY | kernel.NO_SUID)
    _bind(root, folder, WORK, kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC)
    os.chdir(root)
    kernel.change_root()
    kernel.mount("", "/", flags=kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEVICES)
    os.chdir(WORK)


def _unshare() -> None:
    flags = kernel.NEW_MOUNTS | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        kernel.unshare(flags)
        return
    # Only who is dumpable may write its own maps: proc(5).
    kernel.prctl(kernel.SET_DUMPABLE, 1)
    kernel.unshare(flags | kernel.NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _bind(root: str, source: str, path: str, flags: int) -> None:
    """Makes `source` appear as `path` below `root`; links are made again as links."""
    origin, target = Path(source), Path(root + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_symlink():
        target.symlink_to(origin.readlink())
        return
    if origin.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.mount(source, str(target), flags=kernel.BIND)
    # A user namespace may not take away what the mount that it came from forbids: mount_namespaces(7).
    locked = os.statvfs(target).f_flag & _LOCKED
    kernel.mount("", str(target), flags=kernel.REMOUNT | kernel.BIND | flags | locked)
