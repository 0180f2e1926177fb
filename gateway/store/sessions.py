"""Sessions and their conversations in the database."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.tables import EventRow, FileRow, RequestRow, RunRow, SessionMessageRow, SessionRow
from models.messages import Message

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class SessionRecord(Struct, frozen=True):
    """A session as it is kept. Times are unix seconds."""

    id: str
    user_id: str
    created_at: float
    used_at: float


class Sizes(Struct, frozen=True):
    """What a session holds."""

    messages: int
    message_bytes: int
    files: int
    file_bytes: int


_COLUMNS = (SessionRow.id, SessionRow.user_id, SessionRow.created_at, SessionRow.used_at)
_MESSAGE = SessionMessageRow
_OF_FILES = (func.count(), func.coalesce(func.sum(FileRow.bytes), 0))
_OF_MESSAGES = (func.count(), func.coalesce(func.sum(_MESSAGE.bytes), 0))


class SessionStore:
    """Sessions, each of one owner."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, session_id: str) -> SessionRecord | None:
        """The session, whoever's it is."""
        async with self._database.tx() as session:
            row = (await session.execute(select(*_COLUMNS).where(SessionRow.id == session_id))).one_or_none()
        return SessionRecord(*row) if row else None

    async def add(self, record: SessionRecord) -> bool:
        """Keeps a new session; False where there is one with that id by now."""
        try:
            async with self._database.tx() as session:
                session.add(
                    SessionRow(
                        id=record.id, user_id=record.user_id, created_at=record.created_at, used_at=record.used_at
                    )
                )
                await session.flush()
        except IntegrityError:
            return False
        return True

    async def touch(self, session_id: str, now: float) -> None:
        """It was used now."""
        async with self._database.tx() as session:
            await session.execute(update(SessionRow).where(SessionRow.id == session_id).values(used_at=now))

    async def page(self, user_id: str, *, limit: int, before: SessionRecord | None = None) -> list[SessionRecord]:
        """This user's sessions, the last used first, those used before `before`."""
        query = select(*_COLUMNS).where(SessionRow.user_id == user_id)
        if before is not None:
            older = (SessionRow.used_at < before.used_at) | (
                (SessionRow.used_at == before.used_at) & (SessionRow.id < before.id)
            )
            query = query.where(older)
        query = query.order_by(SessionRow.used_at.desc(), SessionRow.id.desc()).limit(limit)
        async with self._database.tx() as session:
            return [SessionRecord(*row) for row in await session.execute(query)]

    async def sizes(self, session_id: str) -> Sizes:
        """What the session holds."""
        async with self._database.tx() as session:
            return await _sizes(session, session_id)

    async def bytes_of(self, user_id: str) -> int:
        """Bytes of all that a user's sessions hold."""
        messages = (
            select(func.coalesce(func.sum(_MESSAGE.bytes), 0))
            .join(SessionRow, SessionRow.id == _MESSAGE.session_id)
            .where(SessionRow.user_id == user_id)
        )
        files = select(func.coalesce(func.sum(FileRow.bytes), 0)).where(FileRow.user_id == user_id)
        async with self._database.tx() as session:
            return int(await session.scalar(messages) or 0) + int(await session.scalar(files) or 0)

    async def conversation(self, session_id: str) -> tuple[Message, ...]:
        """Its messages, the oldest first."""
        query = select(_MESSAGE.data).where(_MESSAGE.session_id == session_id).order_by(_MESSAGE.seq)
        async with self._database.tx() as session:
            return tuple(_decode(data) for (data,) in await session.execute(query))

    async def append(self, session_id: str, messages: Sequence[Message], now: float) -> None:
        """Adds to a session's conversation. Nothing, where the session is deleted."""
        query = select(func.coalesce(func.max(_MESSAGE.seq), 0)).where(_MESSAGE.session_id == session_id)
        async with self._database.exclusive() as session:
            last = int(await session.scalar(query) or 0)
            await _add(session, session_id, [encode(message) for message in messages], last + 1, now)

    async def replace(self, session_id: str, messages: Sequence[Message], now: float) -> None:
        """Makes `messages` a session's conversation. What has not changed is not written again."""
        new = [encode(message) for message in messages]
        query = select(_MESSAGE.data).where(_MESSAGE.session_id == session_id).order_by(_MESSAGE.seq)
        async with self._database.exclusive() as session:
            old = list(await session.scalars(query))
            same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            await session.execute(delete(_MESSAGE).where(_MESSAGE.session_id == session_id, _MESSAGE.seq > same))
            await _add(session, session_id, new[same:], same + 1, now)

    async def delete(self, session_id: str) -> list[str]:
        """Deletes a session, its conversation, the rows of its files, and what was said in its runs.

        The runs themselves stay, for the count of tokens. Gives the ids of the files, whose bytes lie elsewhere.
        """
        runs = select(RunRow.id).where(RunRow.session_id == session_id)
        async with self._database.exclusive() as session:
            files = list(await session.scalars(select(FileRow.id).where(FileRow.session_id == session_id)))
            await session.execute(delete(EventRow).where(EventRow.run_id.in_(runs)))
            await session.execute(delete(RequestRow).where(RequestRow.run_id.in_(runs)))
            await session.execute(update(RunRow).where(RunRow.session_id == session_id).values(session_id=None))
            await session.execute(delete(SessionRow).where(SessionRow.id == session_id))
        return files

    async def unused_since(self, moment: float) -> list[SessionRecord]:
        """Sessions that were last used before a time."""
        query = select(*_COLUMNS).where(SessionRow.used_at < moment).limit(1000)
        async with self._database.tx() as session:
            return [SessionRecord(*row) for row in await session.execute(query)]


async def _add(session: AsyncSession, session_id: str, messages: list[bytes], first: int, now: float) -> None:
    touched = update(SessionRow).where(SessionRow.id == session_id).values(used_at=now).returning(SessionRow.id)
    if await session.scalar(touched) is None:
        return  # deleted meanwhile
    rows = [
        {"session_id": session_id, "seq": seq, "data": data, "bytes": len(data)}
        for seq, data in enumerate(messages, first)
    ]
    if rows:
        await session.execute(insert(_MESSAGE), rows)


async def _sizes(session: AsyncSession, session_id: str) -> Sizes:
    messages: Row[tuple[int, int]] = (
        await session.execute(select(*_OF_MESSAGES).where(_MESSAGE.session_id == session_id))
    ).one()
    files: Row[tuple[int, int]] = (
        await session.execute(select(*_OF_FILES).where(FileRow.session_id == session_id))
    ).one()
    return Sizes(int(messages[0]), int(messages[1]), int(files[0]), int(files[1]))
