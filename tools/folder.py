"""Opens, makes, lists and deletes files inside a folder that code of strangers may fill: no way leads out of it."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from tools.tool import ToolError

DEEPEST = 8
"""Folders within folders that are looked into."""
MOST_FILES = 500
LONGEST_NAME = 200
"""Bytes of a file's name, as UTF-8."""

_WALK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO waits for whoever writes into it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NoSuchFile(ToolError):
    """A name stands for no file of the folder that may be read."""


def open_in(folder: Path, name: str, *, shared: bool = False) -> BinaryIO:
    """Opens a regular file for reading.

    The path is walked one component at a time, and no link is followed: whatever is put in its place meanwhile, what
    is opened lies in the folder.

    Args:
        folder: an existing folder. It is trusted, what is in it is not.
        name: the file's path in the folder, with `/`.
        shared: also a file that has further names (hard links), which may lie outside of the folder.

    Raises:
        NoSuchFile: there is none of this name, or it is a link, a folder or a device.
    """
    try:
        with _directory(folder, name) as (directory, last):
            file = os.fdopen(os.open(last, _READ, dir_fd=directory), "rb")
    except OSError as error:
        raise NoSuchFile(_reason(name, error)) from None
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or (about.st_nlink != 1 and not shared):
        file.close()
        raise NoSuchFile(f"{name[:200]!r} is not a plain file.")
    return file


def write_new(folder: Path, name: str, data: bytes) -> str:
    """Makes a file directly in the folder, under a name that is still free: `name`, or with a number.

    Returns:
        The name that it got.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = 1
        while True:
            # O_EXCL does not follow a link either, even one that leads nowhere.
            with suppress(FileExistsError):
                descriptor = os.open(name, _MAKE, 0o644, dir_fd=directory)
                break
            number += 1
            name = f"{stem}-{number}{suffix}"
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return name


class Entry(Struct, frozen=True):
    """A file that lies in a folder."""

    name: str
    """Its path in the folder, with `/`."""
    size: int
    """Bytes."""
    changed: tuple[int, int, int]
    """Differs after every change of its content: inode, and times of change in nanoseconds."""


def listing(folder: Path) -> list[Entry]:
    """The plain files of a folder by name, at most MOST_FILES.

    Links, devices, files with further names, and names that would be dangerous in prompts and headers are left out.
    """
    found: list[Entry] = []
    waiting: list[tuple[str, int]] = [("", 0)]
    while waiting and len(found) < MOST_FILES:
        above, depth = waiting.pop()
        with suppress(OSError), _directory(folder, above + "x") as (directory, _), os.scandir(directory) as entries:
            for entry in entries:
                name = above + entry.name
                about = entry.stat(follow_symlinks=False)
                if not _is_plain(entry.name):
                    continue
                if stat.S_ISDIR(about.st_mode) and depth < DEEPEST:
                    waiting.append((name + "/", depth + 1))
                elif stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                    found.append(Entry(name, about.st_size, (about.st_ino, about.st_mtime_ns, about.st_ctime_ns)))
    return sorted(found[:MOST_FILES], key=lambda entry: entry.name)


def remove_in(folder: Path, name: str) -> None:
    """Deletes a file of the folder; nothing where there is none, or where a link leads there."""
    with suppress(OSError, NoSuchFile), _directory(folder, name) as (directory, last):
        os.unlink(last, dir_fd=directory)


def remove_tree(folder: Path) -> None:
    """Deletes a folder with all that is in it, however deep, whatever its rights, and follows no link.

    shutil.rmtree calls itself for each level, and fails on a tree of a thousand.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    folder.chmod(0o700)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        number = 0
        while folders := _empty(top):
            # What is in a folder is brought up to the top, so that nothing is ever deep.
            for name in folders:
                inner = os.open(name, _WALK, dir_fd=top)
                try:
                    for deeper in _empty(inner):
                        number = _bring_up(deeper, inner, top, number)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    folder.rmdir()


def _empty(directory: int) -> list[str]:
    """Deletes all but folders, opens those for their owner, and gives their names."""
    folders = []
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if is_folder:
            # By a descriptor: chmod(2) itself would follow a link.
            inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            Path(f"/proc/self/fd/{inner}").chmod(0o700)
            os.close(inner)
            folders.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return folders


def _bring_up(name: str, inner: int, top: int, number: int) -> int:
    """Moves a folder from `inner` into `top`, under the next number that is free there; gives that number."""
    while True:
        number += 1
        try:
            os.rename(name, f".{number}", src_dir_fd=inner, dst_dir_fd=top)
            return number
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise


def _is_plain(name: str) -> bool:
    """Whether a name can stand in a prompt and in a header: printable, and of a length."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half of a pair, which JSON cannot carry either
        return False
    return size <= LONGEST_NAME and not any(unicodedata.category(character).startswith("C") for character in name)


@contextmanager
def _directory(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder in which a file lies, and its last name. No link on the way is followed."""
    *above, last = _components(name)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for component in above:
            inner = os.open(component, _WALK, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory, last
    finally:
        os.close(directory)


def _components(name: str) -> list[str]:
    components = [component for component in name.split("/") if component not in ("", ".")]
    if not components or name.startswith("/") or ".." in components or "\0" in name:
        raise NoSuchFile(f"{name[:200]!r} is not the name of a file in the working folder.")
    return components


def _reason(name: str, error: OSError) -> str:
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR):
        return f"{name[:200]!r} leads over a link or a file, which is not followed."
    return f"There is no file {name[:200]!r} in the working folder."
