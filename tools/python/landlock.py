"""Landlock: which files the process may touch from now on, and that it may not connect, nor signal anybody outside.

Numbers and structures: <linux/landlock.h>, https://docs.kernel.org/userspace-api/landlock.html. What a version of
Landlock does not cover (chmod, stat, UDP, …) seccomp must.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

from tools.python import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14

_FIRST_RIGHTS = (1 << 13) - 1
_ADDED_RIGHTS = {2: _REFER, 3: _TRUNCATE, 5: 1 << 15}
"""By the version that brought them; the last is ioctl on devices."""
_TCP_SINCE, _TCP = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Abstract UNIX sockets and signals."""

READ = _READ_FILE | _READ_DIR
DEVICE = _READ_FILE | _WRITE_FILE
WORK = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
"""All that ordinary work in a folder needs; not: to execute, to make links, pipes, sockets and devices."""
_OF_FILES = _EXECUTE | DEVICE | _TRUNCATE


def version() -> int:
    """The kernel's version of Landlock. Raises OSError where it has none, or where it is switched off."""
    return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION)


def restrict(allowed: Iterable[tuple[str | int, int]], newest: int) -> int:
    """Takes all rights from this process but those in `allowed`, for ever. no_new_privs must be set.

    Args:
        allowed: paths (or descriptors of them) with what may be done there; a path that does not exist is left out.
        newest: the version of Landlock to use where the kernel has a newer one.

    Returns:
        The version used.

    Raises:
        OSError: it does not work here; nothing was restricted.
    """
    used = min(version(), newest)
    if used < 1:
        raise OSError("Landlock is not to be used")
    rights = _FIRST_RIGHTS | sum(right for since, right in _ADDED_RIGHTS.items() if since <= used)
    attributes = [rights, *([_TCP] if used >= _TCP_SINCE else []), *([_SCOPES] if used >= _SCOPES_SINCE else [])]
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = kernel.syscall(_CREATE_RULESET, ctypes.create_string_buffer(packed, len(packed)), len(packed), 0)
    try:
        for path, wanted in allowed:
            with suppress(FileNotFoundError):
                _allow(ruleset, path, wanted & rights)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return used


def _allow(ruleset: int, path: str | int, rights: int) -> None:
    descriptor = path if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        if descriptor != path:
            os.close(descriptor)
