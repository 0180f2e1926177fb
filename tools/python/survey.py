"""What lies in a worker's folder: how much it is, what a call has changed, and to whom it belongs.

The folder is written to by code of strangers, at times while it is being looked at. So no link is followed, only plain
files count as such, and every walk ends: after so many entries, and so many levels.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

DEEPEST_FILE = 8
"""Levels below the folder on which files are given out."""
DEEPEST = 32
"""Levels below the folder after which it counts as too full."""
_LONGEST_NAME = 200
_BLOCK = 512
_OWNER = stat.S_IRWXU
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Survey(Struct):
    """What was found."""

    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Plain files by their path in the folder: inode, time of the last change in nanoseconds, and size."""
    entries: int = 0
    """Files, folders, and whatever else."""
    bytes: int = 0
    """What they take on the disk."""
    odd: int = 0
    """Entries that cannot be given out: links, devices, files with several names or a name that is not plain text."""
    endless: bool = False
    """Whether it was given up, since there was too much."""
    identity: tuple[int, int] = (0, 0)
    """Device and inode of the folder."""

    def changed_since(self, before: "Survey") -> tuple[str, ...]:
        """The files that are new or different, by name; those with a leading dot are nobody's results."""
        names = (name for name, mark in self.files.items() if before.files.get(name) != mark)
        return tuple(sorted(name for name in names if not any(part.startswith(".") for part in name.split("/"))))


def survey(folder: str, most: int, owner: int | None = None) -> Survey:
    """Looks through a folder.

    Args:
        folder: is trusted; what is in it is not.
        most: entries after which it gives up.
        owner: a user to whom all that is found is given; None: nobody. Needs root, and a folder that is at rest.

    Raises:
        OSError: the folder itself cannot be opened.
    """
    found = Survey()
    top = os.open(folder, _OPEN)
    about = os.fstat(top)
    found.identity = about.st_dev, about.st_ino
    if owner is not None and about.st_uid != owner:
        os.fchown(top, owner, owner)
    _look(found, top, "", 1, most, owner)
    return found


def _look(found: Survey, directory: int, above: str, depth: int, most: int, owner: int | None) -> None:
    """Goes through an open folder, and closes it."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                # What vanishes or changes its kind while it is looked at is counted as far as it was seen.
                with suppress(OSError):
                    _note(found, directory, entry, above, depth, most, owner)
                if found.endless:
                    return
    finally:
        os.close(directory)


def _note(
    found: Survey, directory: int, entry: os.DirEntry[str], above: str, depth: int, most: int, owner: int | None
) -> None:
    about = entry.stat(follow_symlinks=False)
    found.entries += 1
    found.bytes += about.st_blocks * _BLOCK
    found.endless = found.entries > most or depth > DEEPEST
    folder, plain = stat.S_ISDIR(about.st_mode), stat.S_ISREG(about.st_mode) and about.st_nlink == 1
    if owner is not None and about.st_uid != owner and (folder or plain):
        os.chown(entry.name, owner, owner, dir_fd=directory, follow_symlinks=False)
    path = above + entry.name
    if folder and not found.endless:
        _look(found, _opened(directory, entry.name, about.st_mode), path + "/", depth + 1, most, owner)
    elif plain and depth <= DEEPEST_FILE and path.isprintable() and len(path.encode()) <= _LONGEST_NAME:
        found.files[path] = about.st_ino, about.st_mtime_ns, about.st_size
    elif not folder:
        found.odd += 1


def _opened(directory: int, name: str, mode: int) -> int:
    """A descriptor of a folder, which its owner may enter from then on."""
    if mode & _OWNER != _OWNER:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(stat.S_IMODE(mode) | _OWNER)  # by a descriptor: no link is followed
        finally:
            os.close(handle)
    return os.open(name, _OPEN, dir_fd=directory)
