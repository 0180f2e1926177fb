"""Watches how much a call writes: no kernel limits a folder without help from an administrator.

A look at the file system's free space costs microseconds, so it is taken often; the folder is counted only when enough
is gone since the last count. What is written into files that have no name any more is seen by the free space alone: of
those a worker can hold as many as it may have open, each as large as a file may be.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor

from tools.python.survey import Survey, survey

DISK_FULL = "The disk is nearly full."
FOLDER_GONE = "The working folder cannot be read any more."

_EVERY = 0.01
_AT_LEAST_EVERY = 0.5
"""Seconds between looks, and between counts."""
_STEP = 8 * 1024**2
_STEP_ENTRIES = 100
"""Bytes and inodes that are gone when a count is due."""


class Quota:
    """What a folder may hold, and who is told when it is more.

    Args:
        folder: it.
        bytes: on the disk.
        entries: files and folders.
        free: bytes that must be left on its file system.
        executor: where the folder is counted.
    """

    def __init__(self, folder: str, bytes: int, entries: int, free: int, executor: Executor) -> None:
        self._folder = folder
        self._bytes = bytes
        self._entries = entries
        self._free = free
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._stop: Callable[[str], None] = lambda _: None
        self._timer: asyncio.TimerHandle | None = None
        self._counting: asyncio.Future[Survey] | None = None
        self._counted_at = self._loop.time()
        self._at_count: os.statvfs_result | None = None

    def exceeded(self, found: Survey) -> str | None:
        """Why this is too much, in words for a model; None where it is not."""
        if found.endless or found.entries > self._entries:
            return f"The working folder holds more than {self._entries} files and folders. Delete what is not needed."
        if found.bytes > self._bytes:
            return f"The working folder holds more than {self._bytes / 1e6:.0f} MB. Delete what is not needed."
        return None

    def watch(self, stop: Callable[[str], None]) -> None:
        """Calls `stop` with the reason when it is too much, until it is cancelled."""
        self._stop = stop
        self._timer = self._loop.call_later(_EVERY, self._look)

    def cancel(self) -> None:
        """Ends the watch."""
        self._stop = lambda _: None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_EVERY, self._look)
        now = os.statvfs(self._folder)
        if now.f_bavail * now.f_frsize < self._free:
            self._stop(DISK_FULL)
        elif self._counting is None and self._is_due(now):
            self._at_count, self._counted_at = now, self._loop.time()
            self._counting = self._loop.run_in_executor(self._executor, survey, self._folder, self._entries)
            self._counting.add_done_callback(self._counted)

    def _is_due(self, now: os.statvfs_result) -> bool:
        if self._at_count is None or self._loop.time() - self._counted_at > _AT_LEAST_EVERY:
            return True
        gone = (self._at_count.f_bfree - now.f_bfree) * now.f_frsize
        return gone >= _STEP or self._at_count.f_ffree - now.f_ffree >= _STEP_ENTRIES

    def _counted(self, count: asyncio.Future[Survey]) -> None:
        self._counting = None
        if count.cancelled() or count.exception() is not None:
            self._stop(FOLDER_GONE)
        elif (reason := self.exceeded(count.result())) is not None:
            self._stop(reason)
