"""What is known of files, in the database."""

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import delete, func, insert, select

from gateway.store.database import Database
from gateway.store.tables import FileRow, SessionMessageRow, SessionRow


class FileRecord(Struct, frozen=True):
    """A file as it is kept. Times are unix seconds."""

    id: str
    user_id: str
    session_id: str
    name: str
    """Its path in the session's working folder."""
    type: str
    bytes: int
    sha256: str
    about: str
    purpose: str
    created_at: float
    expires_at: float | None = None


_FILES = FileRow.__table__
_COLUMNS = [_FILES.c[name] for name in FileRecord.__struct_fields__]


class OverQuota(Exception):
    """A file would take a session or a user over what they may have."""

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(whose, limit)
        self.whose = whose
        self.limit = limit


class NoSession(Exception):
    """The session of a file is deleted."""


class FileStore:
    """Files, each of one owner and one session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: FileRecord, *, session_bytes: int, user_bytes: int) -> None:
        """Keeps a new file.

        Raises:
            OverQuota: the session would have more than `session_bytes`, or the user more than `user_bytes`.
            NoSession: its session is deleted.
        """
        of_session = select(func.coalesce(func.sum(FileRow.bytes), 0)).where(FileRow.session_id == record.session_id)
        of_user = select(func.coalesce(func.sum(FileRow.bytes), 0)).where(FileRow.user_id == record.user_id)
        said = (
            select(func.coalesce(func.sum(SessionMessageRow.bytes), 0))
            .join(SessionRow, SessionRow.id == SessionMessageRow.session_id)
            .where(SessionRow.user_id == record.user_id)
        )
        async with self._database.exclusive() as session:
            if await session.scalar(select(SessionRow.id).where(SessionRow.id == record.session_id)) is None:
                raise NoSession
            if int(await session.scalar(of_session) or 0) + record.bytes > session_bytes:
                raise OverQuota("session", session_bytes)
            used = int(await session.scalar(of_user) or 0) + int(await session.scalar(said) or 0)
            if used + record.bytes > user_bytes:
                raise OverQuota("user", user_bytes)
            await session.execute(insert(FileRow), [asdict(record)])

    async def get(self, file_id: str, user_id: str) -> FileRecord | None:
        """The file, if it is this user's."""
        return await self._first(_FILES.c.id == file_id, _FILES.c.user_id == user_id)

    async def same(self, session_id: str, sha256: str, name: str | None = None) -> FileRecord | None:
        """The file of the session with these bytes, and this name if one is given."""
        conditions = [_FILES.c.session_id == session_id, _FILES.c.sha256 == sha256]
        if name is not None:
            conditions.append(_FILES.c.name == name)
        return await self._first(*conditions)

    async def about(self, user_id: str, sha256: str) -> str:
        """What is known of these bytes from another of the user's files; empty where there is none."""
        found = await self._first(_FILES.c.user_id == user_id, _FILES.c.sha256 == sha256, _FILES.c.about != "")
        return found.about if found else ""

    async def of_session(self, session_id: str) -> list[FileRecord]:
        """The session's files, the oldest first."""
        query = select(*_COLUMNS).where(_FILES.c.session_id == session_id).order_by(_FILES.c.created_at, _FILES.c.id)
        async with self._database.tx() as session:
            return [FileRecord(*row) for row in await session.execute(query)]

    async def page(
        self, user_id: str, *, limit: int, after: FileRecord | None, purpose: str | None, oldest_first: bool
    ) -> list[FileRecord]:
        """This user's files in order of time, those after one of them."""
        when, number = _FILES.c.created_at, _FILES.c.id
        query = select(*_COLUMNS).where(_FILES.c.user_id == user_id)
        if purpose is not None:
            query = query.where(_FILES.c.purpose == purpose)
        if after is not None:
            same = when == after.created_at
            later = (when > after.created_at) | (same & (number > after.id))
            earlier = (when < after.created_at) | (same & (number < after.id))
            query = query.where(later if oldest_first else earlier)
        order = (when.asc(), number.asc()) if oldest_first else (when.desc(), number.desc())
        async with self._database.tx() as session:
            return [FileRecord(*row) for row in await session.execute(query.order_by(*order).limit(limit))]

    async def delete(self, file_id: str) -> None:
        """Forgets a file."""
        async with self._database.tx() as session:
            await session.execute(delete(FileRow).where(FileRow.id == file_id))

    async def expired(self, now: float) -> list[FileRecord]:
        """Files whose time has come."""
        query = select(*_COLUMNS).where(_FILES.c.expires_at < now).limit(1000)
        async with self._database.tx() as session:
            return [FileRecord(*row) for row in await session.execute(query)]

    async def ids(self) -> set[str]:
        """The ids of all files."""
        async with self._database.tx() as session:
            return set(await session.scalars(select(FileRow.id)))

    async def _first(self, *conditions: object) -> FileRecord | None:
        query = select(*_COLUMNS).where(*conditions).order_by(_FILES.c.created_at.desc()).limit(1)  # type: ignore[arg-type]
        async with self._database.tx() as session:
            row = (await session.execute(query)).first()
        return FileRecord(*row) if row else None
