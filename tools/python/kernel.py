"""Calls into the kernel for which Python has no function."""

import ctypes
import os
import platform
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# <linux/prctl.h>
SET_PDEATHSIG = 1
SET_DUMPABLE = 4
CAPBSET_DROP = 24
SET_NO_NEW_PRIVS = 38
CAP_AMBIENT = 47
CAP_AMBIENT_CLEAR_ALL = 4
SET_MDWE = 65
MDWE_REFUSE_EXEC_GAIN = 1

# <linux/sched.h>
NEW_MOUNTS = 0x00020000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_NET = 0x40000000

# <sys/mount.h>
READ_ONLY = 1
NO_SUID = 2
NO_DEVICES = 4
NO_EXEC = 8
REMOUNT = 32
BIND = 4096
RECURSIVE = 16384
PRIVATE = 1 << 18
DETACH = 2

MACHINE = platform.machine() if sys.platform == "linux" else ""
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3 = 0x20080522


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Makes a system call. Raises OSError."""
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide))


def prctl(option: int, *arguments: int) -> None:
    """prctl(2). Raises OSError."""
    four = (*arguments, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, four)))


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    texts = [text.encode() or None for text in (source, target, kind, options)]
    if _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def change_root() -> None:
    """Makes the current folder, which is a mount, the root of all; nothing of the old root can be reached any more."""
    here = ctypes.create_string_buffer(b".")
    syscall(_PIVOT_ROOT[MACHINE], here, here)  # both the same: the old root lies over the new one, pivot_root(2)
    _checked(_libc.umount2(b".", DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Gives up all capabilities, also those that a program could bring back. Raises OSError."""
    prctl(CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(_CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4), 8)
    _checked(_libc.capset(header, ctypes.create_string_buffer(24)))


def empty_bounding_set() -> None:
    """Lets no program that is executed get a capability. Nothing happens to who may not do so: it has none."""
    for capability in range(64):
        try:
            prctl(CAPBSET_DROP, capability)
        except OSError:  # EINVAL: that was the last one; EPERM: no right to
            return


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
