"""API keys in the database."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, bindparam, select, update

from auth.keys import ApiKey
from auth.users import User
from gateway.store import users
from gateway.store.database import Database
from gateway.store.tables import ApiKeyRow, UserRow

COLUMNS = (
    ApiKeyRow.id,
    ApiKeyRow.user_id,
    ApiKeyRow.name,
    ApiKeyRow.prefix,
    ApiKeyRow.scopes,
    ApiKeyRow.created_at,
    ApiKeyRow.expires_at,
    ApiKeyRow.revoked_at,
    ApiKeyRow.last_used_at,
)


class StoredKeys:
    """`auth.keys.KeyStore` on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, digest: str) -> None:
        """Keeps a new key."""
        row = ApiKeyRow(
            id=key.id,
            user_id=key.user_id,
            name=key.name,
            prefix=key.prefix,
            hash=digest,
            scopes=" ".join(sorted(key.scopes)),
            created_at=key.created_at,
            expires_at=key.expires_at,
        )
        async with self._database.tx() as session:
            session.add(row)

    async def find(self, digest: str) -> tuple[ApiKey, User] | None:
        """The key with that hash, and its owner."""
        query = select(*COLUMNS, *users.COLUMNS).join_from(ApiKeyRow, UserRow).where(ApiKeyRow.hash == digest)
        async with self._database.tx() as session:
            row = (await session.execute(query)).one_or_none()
        return (read_key(row), User(*row[len(COLUMNS) :])) if row else None

    async def of_user(self, user_id: str) -> list[ApiKey]:
        """All keys of a user, newest first, revoked ones too."""
        query = select(*COLUMNS).where(ApiKeyRow.user_id == user_id).order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id)
        async with self._database.tx() as session:
            return [read_key(row) for row in await session.execute(query)]

    async def revoke(self, key_id: str, owner: str | None, now: float) -> bool:
        """Revokes a key, if it belongs to `owner` or `owner` is None; False where there is no such key."""
        query = select(ApiKeyRow).where(ApiKeyRow.id == key_id)
        if owner is not None:
            query = query.where(ApiKeyRow.user_id == owner)
        async with self._database.tx() as session:
            row = await session.scalar(query)
            if row is not None and row.revoked_at is None:
                row.revoked_at = now
        return row is not None

    async def record_uses(self, uses: Mapping[str, float]) -> None:
        """Keeps when keys were last used."""
        statement = (
            update(ApiKeyRow.__table__)  # type: ignore[arg-type]
            .where(ApiKeyRow.id == bindparam("key"))
            .values(last_used_at=bindparam("used_at"))
        )
        async with self._database.tx() as session:
            await session.execute(statement, [{"key": key, "used_at": at} for key, at in uses.items()])


def read_key(row: Row[Any]) -> ApiKey:
    """The key in a row that begins with COLUMNS."""
    return ApiKey(
        id=row.id,
        user_id=row.user_id,
        name=row.name,
        prefix=row.prefix,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
