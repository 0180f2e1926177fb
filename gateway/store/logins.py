"""Refresh tokens and revoked tokens in the database."""

from sqlalchemy import delete, exists, select, update

from auth.sessions import RefreshToken
from auth.users import User
from gateway.store.database import Database
from gateway.store.tables import RefreshTokenRow, RevokedTokenRow, UserRow
from gateway.store.users import COLUMNS


class StoredSessions:
    """`auth.sessions.SessionStore` on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: RefreshToken) -> None:
        """Keeps the first token of a family."""
        async with self._database.tx() as session:
            session.add(row_of(token))

    async def find(self, digest: str) -> RefreshToken | None:
        """The token with that hash."""
        async with self._database.tx() as session:
            row = await session.get(RefreshTokenRow, digest)
        return read_token(row) if row else None

    async def replace(self, digest: str, successor: RefreshToken) -> bool:
        """Marks a token as used and keeps its successor; False where it has been used or ended.

        Of two at once, one succeeds.
        """
        use = (
            update(RefreshTokenRow)
            .where(RefreshTokenRow.hash == digest, RefreshTokenRow.used_at.is_(None))
            .values(used_at=successor.created_at)
            .returning(RefreshTokenRow.hash)
        )
        async with self._database.tx() as session:
            used = await session.scalar(use)
            if used is not None:
                session.add(row_of(successor))
        return used is not None

    async def revoke(self, ids: tuple[str, ...], until: float) -> None:
        """From now on tokens with these `jti` or `sid` do not count, and families with these names end."""
        async with self._database.exclusive() as session:
            await session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.family.in_(ids)))
            for jti in ids:
                await session.merge(RevokedTokenRow(jti=jti, expires_at=until))

    async def holder(self, user_id: str, ids: tuple[str, ...]) -> User | None:
        """The user, unless a token with one of these `jti` or `sid` no longer counts."""
        revoked = exists(select(RevokedTokenRow.jti).where(RevokedTokenRow.jti.in_(ids)))
        query = select(*COLUMNS).where(UserRow.id == user_id, ~revoked)
        async with self._database.tx() as session:
            row = (await session.execute(query)).one_or_none()
        return User(*row) if row else None

    async def purge(self, now: float) -> None:
        """Drops what has expired."""
        async with self._database.tx() as session:
            await session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.expires_at <= now))
            await session.execute(delete(RevokedTokenRow).where(RevokedTokenRow.expires_at <= now))


def row_of(token: RefreshToken) -> RefreshTokenRow:
    """The token as it is stored."""
    return RefreshTokenRow(
        hash=token.digest,
        family=token.family,
        user_id=token.user_id,
        created_at=token.created_at,
        expires_at=token.expires_at,
        used_at=token.used_at,
    )


def read_token(row: RefreshTokenRow) -> RefreshToken:
    """The token in a row."""
    return RefreshToken(row.hash, row.family, row.user_id, row.created_at, row.expires_at, row.used_at)
