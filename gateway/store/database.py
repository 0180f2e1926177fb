"""The database: opening it, bringing it up to date, and short explicit transactions on it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

HEAD = "0003"
"""The newest migration in `migrations/versions`: what this code can work with."""

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
VERSION_TABLE = "alembic_version"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}
PRAGMAS = ("busy_timeout=5000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
EXCLUSIVE_LOCK = 0x64726F766572
"""Drover's number among PostgreSQL's advisory locks."""


class StoreError(Exception):
    """The database cannot be used. Its text tells a person why; it holds no password."""


class Database:
    """One engine on one database, handing out short transactions.

    database = Database("sqlite+aiosqlite:////srv/drover/drover.db")
    async with database.tx() as session:
        session.add(row)
    await database.close()
    """

    def __init__(self, url: str) -> None:
        self.url = database_url(url)
        self._engine = open_engine(self.url)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def shared(self) -> bool:
        """Whether servers on other machines may be using it."""
        return self.url.get_backend_name() != "sqlite"

    @asynccontextmanager
    async def tx(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed at the end of the block, rolled back when an exception leaves it.

        Errors of the commit surface at the end of the block, so that no answer is sent before its rows are safe.

        Raises:
            StoreError: the database is unreachable, locked, full or read-only.
        """
        try:
            async with self._sessions() as session, session.begin():
                await reach(self.url, session.connection())
                yield session
        except DBAPIError as error:
            if isinstance(error, OperationalError) or error.connection_invalidated:
                raise StoreError(explain(self.url, error)) from error
            raise

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[AsyncSession]:
        """A transaction that no other exclusive one overlaps, in any process: for what must read and then write.

        Raises:
            StoreError: as for `tx`.
        """
        async with self.tx() as session:
            await take_lock(await session.connection())
            yield session

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()


def migrate(url: str) -> None:
    """Brings the database at `url` to the tables of this code, creating it where it does not exist.

    Costs milliseconds when it is up to date. Several processes may call it at once; not to be called on an event loop.

    Raises:
        StoreError: the database cannot be opened or written, or a newer Drover has changed it.
    """
    parsed = database_url(url)
    try:
        prepare_file(parsed)
        if asyncio.run(read_version(parsed)) != HEAD:
            upgrade(parsed)
    except (OSError, DBAPIError) as error:
        raise StoreError(explain(parsed, error)) from error


async def read_version(url: URL) -> str | None:
    """The newest migration that the database has seen; None for an empty one."""
    engine = open_engine(url, poolclass=NullPool)
    try:
        async with aclosing(await reach(url, engine.connect().start())) as connection:
            return (await connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))).scalar()
    except (OperationalError, ProgrammingError) as error:
        if is_missing_table(error):
            return None
        raise
    finally:
        await engine.dispose()


def upgrade(url: URL) -> None:
    """Runs all migrations that the database has not seen.

    Raises:
        StoreError: it has seen one that this code does not know.
    """
    # Imported here because Alembic costs a third of a second and most starts do not need it.
    from advanced_alchemy.alembic.commands import AlembicCommands
    from advanced_alchemy.config.asyncio import AlembicAsyncConfig, SQLAlchemyAsyncConfig
    from alembic.util.exc import CommandError

    alembic = AlembicAsyncConfig(script_location=str(MIGRATIONS), version_table_name=VERSION_TABLE)
    config = SQLAlchemyAsyncConfig(engine_instance=open_engine(url, poolclass=NullPool), alembic_config=alembic)
    try:
        AlembicCommands(config).upgrade()
    except CommandError as error:
        raise StoreError(
            f"The database {show(url)} was written by a newer version of Drover. Update Drover, or restore a backup."
        ) from error


async def reach(url: URL, connecting: Awaitable[T]) -> T:
    """A connection.

    Raises:
        StoreError: there is none to be had.
    """
    try:
        return await connecting
    except Exception as error:
        # Drivers raise what they like here: asyncpg its own errors or the socket's, SQLAlchemy's pool a timeout.
        raise StoreError(explain(url, error)) from error


async def take_lock(connection: AsyncConnection) -> None:
    """Makes this transaction exclusive until it ends."""
    statement = "BEGIN IMMEDIATE"
    if connection.dialect.name == "postgresql":
        statement = f"SELECT pg_advisory_xact_lock({EXCLUSIVE_LOCK})"
    await connection.exec_driver_sql(statement)


def database_url(url: str) -> URL:
    """`url` parsed, with the driver that we use for its database.

    Raises:
        StoreError: it is not the URL of a database that Drover can use.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            "The database URL cannot be read; it looks like sqlite+aiosqlite:////path/to/drover.db"
        ) from error
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        raise StoreError(f"Drover keeps its data in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}.")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise StoreError("The database URL names no file: sqlite+aiosqlite:////path/to/drover.db")
    return parsed.set(drivername=driver)


def open_engine(url: URL, **options: Any) -> AsyncEngine:
    """An engine on `url`; connects at first use.

    Raises:
        StoreError: the driver is not installed.
    """
    try:
        engine = create_async_engine(url, **options)
    except ModuleNotFoundError as error:
        raise StoreError(f"The driver {error.name!r} is not installed: uv sync --extra postgres") from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", set_pragmas)
    return engine


def set_pragmas(connection: Any, _: object) -> None:
    """Prepares a new SQLite connection."""
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def prepare_file(url: URL) -> None:
    """Creates a SQLite file that nobody else may read: it will hold hashes of credentials."""
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith("file:"):
        os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))


def is_missing_table(error: DBAPIError) -> bool:
    """Whether a query failed because the database is still empty."""
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01"


def explain(url: URL, error: Exception) -> str:
    """One line for a person about a database that failed."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    return f"The database {show(url)} cannot be used: {reason}"


def show(url: URL) -> str:
    """The database's name without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True)
