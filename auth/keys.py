"""API keys: created with a name, scopes and an expiry; listed; revoked. The key itself is shown once and never kept."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from auth.errors import InsufficientScope, InvalidField, NotFound, NotPermitted
from auth.tokens import Pepper, new_secret
from auth.users import Clock, Principal, User, new_id

PREFIX = "sk-"
SHOWN = len(PREFIX) + 6
"""Characters of a key that its owner sees again."""

SCOPES: Mapping[str, str] = {
    "chat": "ask models and agents",
    "models": "list models",
    "embeddings": "embed texts",
    "runs": "see and cancel runs",
    "sessions": "see and delete sessions",
    "files": "upload, read and delete files",
    "tools": "call tools",
    "knowledge": "keep and search documents",
    "keys": "manage API keys",
    "admin": "administer, where the user's role allows it",
    "service": "act for the end users that Open WebUI's signed header names",
}
"""What a key can be limited to. A key without scopes may do all that its user may."""


class ApiKey(Struct, frozen=True):
    """An API key as its owner sees it."""

    id: str
    user_id: str
    name: str
    prefix: str
    """How it begins."""
    scopes: frozenset[str]
    """Empty: all that the owner may do."""
    created_at: float
    expires_at: float | None
    revoked_at: float | None = None
    last_used_at: float | None = None
    """Right to about a minute."""


class KeyStore(Protocol):
    """Where API keys are kept."""

    async def add(self, key: ApiKey, digest: str) -> None:
        """Keeps a new key."""
        ...

    async def find(self, digest: str) -> tuple[ApiKey, User] | None:
        """The key with that hash, and its owner."""
        ...

    async def of_user(self, user_id: str) -> list[ApiKey]:
        """All keys of a user, newest first, revoked ones too."""
        ...

    async def revoke(self, key_id: str, owner: str | None, now: float) -> bool:
        """Revokes a key, if it belongs to `owner` or `owner` is None; False where there is no such key."""
        ...

    async def record_uses(self, uses: Mapping[str, float]) -> None:
        """Keeps when keys were last used."""
        ...


class Keys:
    """Creates, lists and revokes API keys."""

    def __init__(self, store: KeyStore, pepper: Pepper, clock: Clock, forget: Callable[[], None]) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._forget = forget

    async def create(
        self,
        user_id: str,
        name: str,
        scopes: Iterable[str] = (),
        expires_at: float | None = None,
        expires_in: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key for a user, and the secret that is shown this once. Without a time it never expires.

        Raises:
            InvalidField: the name, a scope or the time will not do.
        """
        now = self._clock()
        if expires_in is not None:
            if expires_at is not None:
                raise InvalidField("Give either expires_in or expires_at.", "expires_at")
            expires_at = now + expires_in
        if expires_at is not None and expires_at <= now:
            raise InvalidField("The key would have expired already.", "expires_at")
        secret = new_secret(PREFIX)
        key = ApiKey(new_id("key"), user_id, clean_label(name), secret[:SHOWN], known(scopes), now, expires_at)
        await self._store.add(key, self._pepper.hash(secret))
        return key, secret

    async def of_user(self, user_id: str) -> list[ApiKey]:
        """All keys of a user, newest first, revoked ones too."""
        return await self._store.of_user(user_id)

    async def revoke(self, key_id: str, owner: str | None = None) -> None:
        """Revokes a key, from the next request on. With an owner, only theirs.

        Raises:
            NotFound: there is no such key, or it is another's.
        """
        if not await self._store.revoke(key_id, owner, self._clock()):
            raise NotFound("There is no such API key.")
        self._forget()


def check_grant(giver: Principal, scopes: frozenset[str]) -> None:
    """Lets nobody give a key more than they have themselves.

    Raises:
        InsufficientScope: the giver's own key is limited, and not to (all of) these scopes.
        NotPermitted: only an admin makes keys that act for others.
    """
    if giver.scopes and not (scopes and scopes <= giver.scopes):
        raise InsufficientScope("A limited key can only make keys with scopes that it has itself.")
    if "service" in scopes and giver.role != "admin":
        raise NotPermitted("Only an admin can make a key with the scope `service`.")


def known(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes, each checked.

    Raises:
        InvalidField: one does not exist.
    """
    chosen = frozenset(scopes)
    if unknown := sorted(chosen - SCOPES.keys()):
        raise InvalidField(f"There is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}.", "scopes")
    return chosen


def clean_label(name: str) -> str:
    """The key's name, trimmed.

    Raises:
        InvalidField: it is empty, long or has control characters.
    """
    name = name.strip()
    if not (1 <= len(name) <= 64 and name.isprintable()):
        raise InvalidField("A key's name has 1 to 64 printable characters.", "name")
    return name
