"""Who there is: users, the principal that a request acts as, and the rules for names, roles and registration."""

import secrets
import unicodedata
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from auth.errors import InvalidField, NotFound, RegistrationClosed
from auth.passwords import Passwords

Role = Literal["admin", "user"]

Clock = Callable[[], float]
"""Unix time in seconds."""


class User(Struct, frozen=True):
    """Someone who may call."""

    id: str
    name: str
    role: Role
    disabled: bool
    created_at: float


class Principal(Struct, frozen=True):
    """Who a request acts as, and with which of their rights: `request.user`."""

    user_id: str
    name: str
    role: Role
    scopes: frozenset[str] = frozenset()
    """Empty: all that the role may do."""
    key_id: str | None = None
    """The API key it came with."""
    jti: str | None = None
    """The token it came with."""
    session: str | None = None
    """The login that the token descends from."""
    expires_at: float | None = None

    @property
    def caller(self) -> str:
        """Whom limits count: the API key, or the user where a token was used."""
        return self.key_id or self.user_id

    def may(self, scope: str) -> bool:
        """Whether the scopes allow `scope`."""
        return not self.scopes or scope in self.scopes


class UserStore(Protocol):
    """Where users are kept. `name_key` is what makes a name unique."""

    async def add(self, user: User, name_key: str, password_hash: str | None) -> bool:
        """Keeps a new user; False where the name is taken."""
        ...

    async def add_first(self, user: User, name_key: str, password_hash: str | None) -> bool:
        """Keeps the very first user; False where there is any. Of two at once, one is first."""
        ...

    async def any(self) -> bool:
        """Whether there is a user at all."""
        ...

    async def find(self, user_id: str) -> User | None:
        """The user with that id."""
        ...

    async def named(self, name_key: str) -> tuple[User, str | None] | None:
        """The user with that name, and the password's hash."""
        ...

    async def page(self, limit: int, offset: int) -> list[User]:
        """Some of the users, oldest first."""
        ...

    async def update(
        self,
        user_id: str,
        *,
        role: Role | UnsetType = UNSET,
        disabled: bool | UnsetType = UNSET,
        password_hash: str | UnsetType = UNSET,
    ) -> User | None:
        """Changes what is given; None where there is no such user. A changed password ends the user's refresh tokens.

        Raises:
            LastAdmin: nobody would be left to administer.
        """
        ...

    async def rehash(self, user_id: str, password_hash: str) -> None:
        """Keeps a better hash of the same password."""
        ...


class LastAdmin(Exception):
    """The change would leave no enabled admin."""


class Users:
    """Adds, finds and changes users."""

    def __init__(
        self,
        store: UserStore,
        passwords: Passwords,
        clock: Clock,
        forget: Callable[[], None],
        *,
        registration_open: bool,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._clock = clock
        self._forget = forget
        self._registration_open = registration_open

    async def register(self, name: str, password: str) -> User:
        """Adds a user at their own wish. The first one ever is admin.

        Raises:
            RegistrationClosed: there are users, and only admins add more.
            InvalidField: the name or the password will not do.
        """
        name = clean_name(name)
        if not self._registration_open and await self._store.any():
            raise RegistrationClosed
        hashed = await self._passwords.hash(password)
        first = self._new(name, "admin")
        if await self._store.add_first(first, name_key(name), hashed):
            return first
        if not self._registration_open:
            raise RegistrationClosed
        return await self._keep(self._new(name, "user"), hashed)

    async def add(self, name: str, password: str | None = None, role: Role = "user") -> User:
        """Adds a user as an admin wishes. Without a password they can only come with an API key.

        Raises:
            InvalidField: the name or the password will not do.
        """
        user = self._new(clean_name(name), role)
        return await self._keep(user, await self._passwords.hash(password) if password is not None else None)

    async def add_first_admin(self, name: str = "admin") -> User | None:
        """Adds an admin without a password; None where there are users already."""
        user = self._new(clean_name(name), "admin")
        return user if await self._store.add_first(user, name_key(user.name), None) else None

    async def foreign(self, subject: str) -> User:
        """The user that someone else vouches for, such as `idp:1234`; added at first sight, always as role `user`.

        The prefix's colon keeps them apart from names that people choose; case counts, as it does in a `sub`.
        """
        if known := await self._store.named(subject):
            return known[0]
        user = self._new(subject, "user")
        if await self._store.add(user, subject, None):
            return user
        return await self.foreign(subject)

    async def get(self, user_id: str) -> User:
        """The user with that id.

        Raises:
            NotFound: there is none.
        """
        if user := await self._store.find(user_id):
            return user
        raise NotFound("There is no such user.")

    async def by_name(self, name: str) -> User:
        """The user with that name; case does not matter.

        Raises:
            NotFound: there is none.
        """
        known = await self._store.named(name_key(name)) or await self._store.named(name)
        if known is None:
            raise NotFound("There is no such user.")
        return known[0]

    async def page(self, limit: int = 100, offset: int = 0) -> list[User]:
        """Some of the users, oldest first."""
        return await self._store.page(limit, offset)

    async def update(
        self,
        user_id: str,
        *,
        role: Role | UnsetType = UNSET,
        disabled: bool | UnsetType = UNSET,
        password: str | UnsetType = UNSET,
    ) -> User:
        """Changes what is given. It holds from the next request on; a new password ends all refresh tokens.

        Raises:
            NotFound: there is no such user.
            InvalidField: the password will not do, or no admin would be left.
        """
        hashed = UNSET if password is UNSET else await self._passwords.hash(password)
        try:
            user = await self._store.update(user_id, role=role, disabled=disabled, password_hash=hashed)
        except LastAdmin as error:
            raise InvalidField("This is the last admin: make another one first.", None, "last_admin") from error
        if user is None:
            raise NotFound("There is no such user.")
        self._forget()
        return user

    def _new(self, name: str, role: Role) -> User:
        return User(new_id("usr"), name, role, False, self._clock())

    async def _keep(self, user: User, password_hash: str | None) -> User:
        if not await self._store.add(user, name_key(user.name), password_hash):
            raise InvalidField("That user name is taken.", "username", "username_taken")
        return user


def new_id(kind: str) -> str:
    """A fresh id such as `usr_…`, with 128 random bits."""
    return f"{kind}_{secrets.token_urlsafe(16)}"


def clean_name(name: str) -> str:
    """The name as it is kept: trimmed, and one way of writing each accent.

    Raises:
        InvalidField: it is empty, longer than 64 characters, or has characters that nobody can see or that we reserve.
    """
    name = unicodedata.normalize("NFC", name.strip())
    if not 1 <= len(name) <= 64:
        raise InvalidField("A user name has 1 to 64 characters.", "username")
    if ":" in name or any(unicodedata.category(character)[0] == "C" for character in name):
        raise InvalidField("A user name has no colons and no control characters.", "username")
    return name


def name_key(name: str) -> str:
    """What makes a name unique: two that differ only in case are one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())
