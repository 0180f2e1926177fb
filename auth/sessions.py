"""Logins: a password for an access token and a refresh token, that for fresh ones, and the end of them."""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from auth.attempts import Attempts
from auth.errors import InvalidField, InvalidLogin, InvalidToken, TokenExpired
from auth.passwords import Passwords
from auth.tokens import AccessTokens, Pepper, new_secret
from auth.users import Clock, Principal, User, UserStore, name_key, new_id


class Grant(Struct, frozen=True):
    """What a login answers."""

    access_token: str
    expires_in: int
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"


class RefreshToken(Struct, frozen=True):
    """A refresh token as it is kept. All that descend from one login have its family."""

    digest: str
    family: str
    user_id: str
    created_at: float
    expires_at: float
    used_at: float | None = None
    """When it was exchanged for its successor."""


class SessionStore(Protocol):
    """Where refresh tokens are kept, and which tokens no longer count."""

    async def add(self, token: RefreshToken) -> None:
        """Keeps the first token of a family."""
        ...

    async def find(self, digest: str) -> RefreshToken | None:
        """The token with that hash."""
        ...

    async def replace(self, digest: str, successor: RefreshToken) -> bool:
        """Marks a token as used and keeps its successor; False where it has been used or ended.

        Of two at once, one succeeds.
        """
        ...

    async def revoke(self, ids: tuple[str, ...], until: float) -> None:
        """From now on tokens with these `jti` or `sid` do not count, and families with these names end."""
        ...

    async def holder(self, user_id: str, ids: tuple[str, ...]) -> User | None:
        """The user, unless a token with one of these `jti` or `sid` no longer counts."""
        ...

    async def purge(self, now: float) -> None:
        """Drops what has expired."""
        ...


class Sessions:
    """Begins, prolongs and ends logins."""

    def __init__(
        self,
        store: SessionStore,
        users: UserStore,
        passwords: Passwords,
        attempts: Attempts,
        tokens: AccessTokens,
        pepper: Pepper,
        clock: Clock,
        forget: Callable[[], None],
        *,
        lifetime: float,
    ) -> None:
        self._store = store
        self._users = users
        self._passwords = passwords
        self._attempts = attempts
        self._tokens = tokens
        self._pepper = pepper
        self._clock = clock
        self._forget = forget
        self._lifetime = lifetime

    async def login(self, name: str, password: str, address: str) -> Grant:
        """Tokens for a name and a password.

        Raises:
            InvalidLogin: they do not belong together, or the user is disabled.
            TooManyAttempts: too often, from that address.
        """
        await self._attempts.count(address, name_key(name))
        user, hashed = await self._users.named(name_key(name)) or (None, None)
        checked = await self._passwords.check(password, hashed)
        if user is None or user.disabled or not checked.ok:
            raise InvalidLogin
        await self._attempts.forgive(address, name_key(name))
        if checked.better_hash:
            await self._users.rehash(user.id, checked.better_hash)
        return await self._begin(user)

    async def refresh(self, token: str) -> Grant:
        """Fresh tokens for a refresh token, which thereby is used up.

        Raises:
            InvalidToken: it never was one or has been ended. If it was used up before, somebody stole it: then the
                whole login ends.
            TokenExpired: it is too old.
        """
        digest = self._pepper.hash(token)
        held = await self._store.find(digest)
        if held is None:
            raise InvalidToken
        if held.expires_at <= self._clock():
            raise TokenExpired
        user = await self._store.holder(held.user_id, (held.family,))
        if user is None or user.disabled:
            raise InvalidToken
        secret, successor = self._descendant(user.id, held.family)
        if not await self._store.replace(digest, successor):
            await self._end((held.family,))
            raise InvalidToken
        return self._grant(user, held.family, secret)

    async def logout(self, principal: Principal) -> None:
        """Ends the login that the request's token descends from: this token, its sisters, and the refresh token.

        Raises:
            InvalidField: the request came with an API key; that is revoked instead.
        """
        if principal.jti is None:
            raise InvalidField("An API key is not logged out; revoke it.", None, "not_logged_in")
        await self._end(tuple(filter(None, (principal.jti, principal.session))), principal.expires_at or 0)

    async def purge(self) -> None:
        """Drops what has expired."""
        await self._store.purge(self._clock())

    async def _begin(self, user: User) -> Grant:
        family = new_id("ses")
        secret, token = self._descendant(user.id, family)
        await self._store.add(token)
        return self._grant(user, family, secret)

    async def _end(self, ids: tuple[str, ...], expires_at: float = 0) -> None:
        await self._store.revoke(ids, max(expires_at, self._clock() + self._tokens.lifetime))
        self._forget()

    def _descendant(self, user_id: str, family: str) -> tuple[str, RefreshToken]:
        now = self._clock()
        secret = new_secret("rt-")
        return secret, RefreshToken(self._pepper.hash(secret), family, user_id, now, now + self._lifetime)

    def _grant(self, user: User, family: str, refresh_token: str) -> Grant:
        return Grant(self._tokens.issue(user.id, family), int(self._tokens.lifetime), refresh_token)
