"""Passwords: hashed with argon2 on threads of their own, a few at once, so that logins never stall answers."""

import secrets
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from msgspec import Struct
from passlib.context import CryptContext  # type: ignore[import-untyped]

from auth.errors import InvalidField, TooManyAttempts

T = TypeVar("T")

MIN_LENGTH = 8
MAX_LENGTH = 1024
"""Hashing longer ones would only serve who wants to keep us busy."""


class Checked(Struct, frozen=True):
    """What became of a password."""

    ok: bool
    better_hash: str | None = None
    """To be kept instead of the old one, which was made with weaker parameters."""


class Passwords:
    """Hashes and checks passwords; each takes about a tenth of a second and 64 MB."""

    def __init__(self, at_once: int = 2, waiting: int = 32) -> None:
        self._context = CryptContext(schemes=["argon2"], deprecated="auto")
        self._threads = CapacityLimiter(at_once)
        self._room = at_once + waiting
        self._present = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The password's hash.

        Raises:
            InvalidField: it is too short or too long.
            TooManyAttempts: too many are waiting to be hashed.
        """
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise InvalidField(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.", "password")
        return await self._on_thread(lambda: self._hash(password))

    async def check(self, password: str, hashed: str | None) -> Checked:
        """Whether the password belongs to the hash. Without a hash it takes as long to say no.

        Raises:
            TooManyAttempts: too many are waiting to be checked.
        """
        if len(password) > MAX_LENGTH:
            return Checked(False)
        return await self._on_thread(lambda: self._check(password, hashed))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._present >= self._room:
            raise TooManyAttempts("Too many passwords are being checked. Try again shortly.", 2)
        self._present += 1
        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._present -= 1

    def _hash(self, password: str) -> str:
        return str(self._context.hash(normal(password)))

    def _check(self, password: str, hashed: str | None) -> Checked:
        if hashed is None:
            self._context.verify(normal(password), self._hash_of_nobody())
            return Checked(False)
        ok, better_hash = self._context.verify_and_update(normal(password), hashed)
        return Checked(ok, better_hash)

    def _hash_of_nobody(self) -> str:
        if self._nobody is None:
            self._nobody = self._hash(secrets.token_urlsafe())
        return self._nobody


def normal(password: str) -> str:
    """One way of writing each accent: keyboards differ."""
    return unicodedata.normalize("NFC", password)
