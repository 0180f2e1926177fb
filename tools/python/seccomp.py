"""seccomp: the system calls that the process may make from now on. All others fail with EPERM, as if by permissions.

Numbers: <asm/unistd_64.h> for x86_64, <asm-generic/unistd.h> for aarch64. The program is classic BPF, <linux/filter.h>,
over `struct seccomp_data` of <linux/seccomp.h>. What is allowed lets a program compute and work on files that Landlock
lets it reach; what Landlock does not watch (modes and times of files, other processes, sockets) is not.
"""

import ctypes
import errno
import os
import struct
from typing import NamedTuple

from tools.python import kernel

_FILES = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "fstat": (5, 80), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "getdents": (78, None), "getdents64": (217, 61), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32), "umask": (95, 166),
    "copy_file_range": (326, 285), "sendfile": (40, 71), "fadvise64": (221, 223),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
}  # fmt: skip
_MEMORY = {
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "mincore": (27, 232), "msync": (26, 227), "brk": (12, 214),
}  # fmt: skip
_ITSELF = {
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "pause": (34, None), "exit": (60, 93), "exit_group": (231, 94),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "getrandom": (318, 278),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163),
}  # fmt: skip
_FOR_ITSELF_ONLY = {"tgkill": (234, 131)}
_NOT_THERE = {
    "clone3": (435, 435),
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "futex_waitv": (449, 449),
    "fchmodat2": (452, 452),
}
"""Newer calls, whose older form glibc then takes (and which cannot be looked into by a filter)."""
_NOT_SUPPORTED = {
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10),
    "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13),
}  # fmt: skip
"""What those who copy files do without, if told that the file system cannot."""


_ALL = 0xFFFFFFFF


class Test(NamedTuple):
    """A test of one half of an argument; all but pointers have one half only."""

    argument: int
    mask: int
    values: tuple[int, ...]
    """What may be left under the mask."""
    wanted: bool = True
    """False: what must not be left."""
    upper: bool = False
    """Whether it is the upper half."""


def _honest_open(flags: int) -> tuple[Test, ...]:
    """Flags that truncate a file must say that they write.

    Before its version 3 Landlock does not see truncation by reading (O_RDONLY|O_TRUNC), nor any access by the mode 3,
    which is neither of reading, writing and both: open(2), "a flag value of 3".
    """
    return (
        Test(flags, os.O_ACCMODE, (os.O_ACCMODE,), wanted=False),
        Test(flags, os.O_TRUNC | os.O_ACCMODE, (os.O_TRUNC,), wanted=False),
    )


_TESTED = {
    "open": ((2, None), _honest_open(1)),
    "openat": ((257, 56), _honest_open(2)),
    # Other modes go round RLIMIT_FSIZE.
    "fallocate": ((285, 47), (Test(1, _ALL, (0,)),)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_OFD_*LK*, F_DUPFD_CLOEXEC,
    # F_GETPIPE_SZ; not F_SETOWN, which can signal others.
    "fcntl": ((72, 25), (Test(1, _ALL, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": ((16, 29), (Test(1, _ALL, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),)),
    # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_SET_VMA.
    "prctl": ((157, 167), (Test(0, _ALL, (3, 15, 16, 21, 39, 0x53564D41)),)),
    # The limits of this process, to read: pid and the pointer to new limits are null.
    "prlimit64": ((302, 261), (Test(0, _ALL, (0,)), Test(2, _ALL, (0,)), Test(2, _ALL, (0,), upper=True))),
}

_PRETENDED = {"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53)}
"""Said to be done and not done: those who copy files and write archives fail if they cannot set modes."""
_SET_TIMES = 280, 88
"""utimensat: pretended as well where there are times. Without, as by touch, it is refused: the file is then made."""

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_X32 = 0x40000000

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1


def restrict() -> None:
    """Leaves this process and its threads the system calls above, for ever. no_new_privs must be set.

    Raises:
        OSError: it does not work here; nothing was restricted.
    """
    if kernel.MACHINE not in _COLUMN:
        raise OSError(f"no system calls are known for {kernel.MACHINE or 'this system'}")
    code = _HEADER + _only_itself(os.getpid()) + _REST
    filter_ = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(filter_))
    kernel.syscall(_SECCOMP[kernel.MACHINE], _SET_MODE_FILTER, 0, ctypes.create_string_buffer(program, len(program)))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _answer(what: int) -> bytes:
    return _instruction(_RETURN, what)


_DENY = _answer(_ERRNO | errno.EPERM)


def _block(numbers: tuple[int | None, int | None], answer: int = _ALLOW, tests: tuple[Test, ...] = ()) -> bytes:
    """What happens to one system call; any other goes on behind the block."""
    number = numbers[_COLUMN[kernel.MACHINE]]
    if number is None:
        return b""
    body = b"".join(map(_test, tests)) + _answer(answer)
    return _instruction(_JUMP_EQUAL, number, 0, len(body) // 8) + body


def _test(test: Test) -> bytes:
    """Denies, or goes on behind itself."""
    load = _instruction(_LOAD, _ARGUMENTS + 8 * test.argument + 4 * test.upper) + _instruction(_AND, test.mask)
    if test.wanted:
        left = range(len(test.values), 0, -1)
        return load + b"".join(map(_skip_if, test.values, left)) + _DENY
    return load + b"".join(_instruction(_JUMP_EQUAL, value, 0, 1) + _DENY for value in test.values)


def _skip_if(value: int, instructions: int) -> bytes:
    return _instruction(_JUMP_EQUAL, value, instructions, 0)


def _header() -> bytes:
    """Another architecture's numbers mean other calls: whoever uses them is killed. Then the number is loaded."""
    known = _instruction(_LOAD, _ARCHITECTURE) + _instruction(_JUMP_EQUAL, _AUDIT_ARCH[kernel.MACHINE], 1, 0)
    load = _answer(_KILL) + _instruction(_LOAD, _NUMBER)
    x32 = _instruction(_JUMP_AT_LEAST, _X32, 0, 1) + _answer(_KILL) if kernel.MACHINE == "x86_64" else b""
    return known + load + x32


def _only_itself(pid: int) -> bytes:
    return b"".join(_block(numbers, _ALLOW, (Test(0, _ALL, (pid,)),)) for numbers in _FOR_ITSELF_ONLY.values())


def _rest() -> bytes:
    allowed = [_block(numbers) for table in (_FILES, _ITSELF, _MEMORY) for numbers in table.values()]
    tested = [_block(numbers, _ALLOW, tests) for numbers, tests in _TESTED.values()]
    absent = [_block(numbers, _ERRNO | errno.ENOSYS) for numbers in _NOT_THERE.values()]
    pretended = [_block(numbers, _ERRNO) for numbers in _PRETENDED.values()]
    pretended.append(_block(_SET_TIMES, _ERRNO, (Test(2, _ALL, (0,), wanted=False),)))
    unsupported = [_block(numbers, _ERRNO | errno.ENOTSUP) for numbers in _NOT_SUPPORTED.values()]
    return b"".join((*allowed, *tested, *absent, *pretended, *unsupported, _DENY))


_HEADER, _REST = (_header(), _rest()) if kernel.MACHINE in _COLUMN else (b"", b"")
