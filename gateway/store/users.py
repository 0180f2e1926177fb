"""Users in the database."""

from typing import Any, cast

from msgspec import UNSET, UnsetType
from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from auth.users import LastAdmin, Role, User
from gateway.store.database import Database
from gateway.store.tables import RefreshTokenRow, UserRow

COLUMNS = (UserRow.id, UserRow.name, UserRow.role, UserRow.disabled, UserRow.created_at)
"""Those of `User`, in its order."""


class StoredUsers:
    """`auth.users.UserStore` on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User, name_key: str, password_hash: str | None) -> bool:
        """Keeps a new user; False where the name is taken."""
        try:
            async with self._database.tx() as session:
                session.add(row_of(user, name_key, password_hash))
        except IntegrityError:
            return False
        return True

    async def add_first(self, user: User, name_key: str, password_hash: str | None) -> bool:
        """Keeps the very first user; False where there is any. Of two at once, one is first."""
        async with self._database.exclusive() as session:
            if await session.scalar(select(exists(select(UserRow.id)))):
                return False
            session.add(row_of(user, name_key, password_hash))
        return True

    async def any(self) -> bool:
        """Whether there is a user at all."""
        async with self._database.tx() as session:
            return bool(await session.scalar(select(exists(select(UserRow.id)))))

    async def find(self, user_id: str) -> User | None:
        """The user with that id."""
        async with self._database.tx() as session:
            return await find_user(session, user_id)

    async def named(self, name_key: str) -> tuple[User, str | None] | None:
        """The user with that name, and the password's hash."""
        query = select(*COLUMNS, UserRow.password_hash).where(UserRow.name_key == name_key)
        async with self._database.tx() as session:
            row = (await session.execute(query)).one_or_none()
        return (User(*row[:-1]), row[-1]) if row else None

    async def page(self, limit: int, offset: int) -> list[User]:
        """Some of the users, oldest first."""
        query = select(*COLUMNS).order_by(UserRow.created_at, UserRow.id).limit(limit).offset(offset)
        async with self._database.tx() as session:
            return [User(*row) for row in await session.execute(query)]

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
        given = {"role": role, "disabled": disabled, "password_hash": password_hash}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        async with self._database.exclusive() as session:
            before = await find_user(session, user_id)
            if before is None:
                return None
            if values:
                await session.execute(update(UserRow).where(UserRow.id == user_id).values(**values))
            if password_hash is not UNSET:
                await session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.user_id == user_id))
            if before.role == "admin" and not before.disabled and await count_admins(session) == 0:
                raise LastAdmin
            return await find_user(session, user_id)

    async def rehash(self, user_id: str, password_hash: str) -> None:
        """Keeps a better hash of the same password."""
        async with self._database.tx() as session:
            await session.execute(update(UserRow).where(UserRow.id == user_id).values(password_hash=password_hash))


def row_of(user: User, name_key: str, password_hash: str | None) -> UserRow:
    """The user as they are stored."""
    return UserRow(
        id=user.id,
        name=user.name,
        name_key=name_key,
        password_hash=password_hash,
        role=user.role,
        disabled=user.disabled,
        created_at=user.created_at,
    )


async def find_user(session: AsyncSession, user_id: str) -> User | None:
    """The user with that id."""
    row = (await session.execute(select(*COLUMNS).where(UserRow.id == user_id))).one_or_none()
    return User(*row) if row else None


async def count_admins(session: AsyncSession) -> int:
    """Admins who can administer."""
    query = select(func.count()).select_from(UserRow).where(UserRow.role == "admin", UserRow.disabled.is_(False))
    return cast(int, await session.scalar(query))
