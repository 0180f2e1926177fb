"""User ids for workers: where the server is root, each worker that lives gets one of its own."""

import os
from itertools import count
from pathlib import Path

_FIRST = 200_000
"""Beyond what systems give to people and services by themselves."""
_FIRST_IN_SMALL = 61_184
"""What systemd keeps free for such ids (61184 to 65519), for containers whose users end at 65535."""
_MOST = 1000


class Users:
    """The ids that are free and taken.

    Args:
        first: the lowest of them; None: there are none.
    """

    def __init__(self, first: int | None) -> None:
        self.first = first
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """One that nobody has; None where there are none."""
        if self.first is None:
            return None
        uid = next(uid for uid in count(self.first) if uid not in self._taken)
        self._taken.add(uid)
        return uid

    def give_back(self, uid: int) -> None:
        """It can be taken again: nothing runs under it any more, and nothing belongs to it."""
        self._taken.discard(uid)


def first_user() -> int | None:
    """The first id that a worker may have here; None where this process may not give any."""
    if os.geteuid() != 0:
        return None
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        start, _, length = map(int, line.split())
        for first in (_FIRST, _FIRST_IN_SMALL):
            if start <= first and first + _MOST <= start + length:
                return first
    return None
