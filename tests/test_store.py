"""The database: opened, brought up to date by several at once, refused clearly, and written in whole transactions."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, func, select

from auth.users import User
from gateway.store.database import HEAD, MIGRATIONS, Database, StoreError, migrate
from gateway.store.tables import UserRow
from gateway.store.users import StoredUsers

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/drover.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    await anyio.to_thread.run_sync(migrate, url)
    database = Database(url)
    yield database
    await database.close()


def row(name: str) -> UserRow:
    return UserRow(id=name, name=name, name_key=name, role="user", disabled=False, created_at=0.0)


async def count(database: Database) -> int:
    async with database.tx() as session:
        return int(await session.scalar(select(func.count()).select_from(UserRow)) or 0)


def test_migrations_make_the_tables_that_the_code_uses(tmp_path: Path, url: str) -> None:
    migrate(url)
    engine = create_engine(f"sqlite:///{tmp_path}/drover.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), UserRow.metadata) == []
    engine.dispose()


def test_the_code_knows_its_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_nobody_else_may_read_the_file(tmp_path: Path, url: str) -> None:
    migrate(url)
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == ["0o600"]


def test_migrating_again_changes_nothing(tmp_path: Path, url: str) -> None:
    migrate(url)
    before = (tmp_path / "drover.db").read_bytes()
    migrate(url)
    assert (tmp_path / "drover.db").read_bytes() == before


def test_processes_that_start_at_once_all_find_a_whole_database(url: str) -> None:
    code = "import sys; from gateway.store.database import migrate; migrate(sys.argv[1])"
    starts = [
        subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(start.communicate()[1], start.returncode) for start in starts] == [("", 0)] * 3


def newer(path: Path) -> str:
    migrate(f"sqlite:///{path}/drover.db")
    with sqlite3.connect(path / "drover.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    return f"sqlite:///{path}/drover.db"


def garbage(path: Path) -> str:
    (path / "drover.db").write_bytes(b"this is no database" * 100)
    return f"sqlite:///{path}/drover.db"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: f"sqlite:///{path}/missing/drover.db", "No such file or directory"),
        (lambda path: f"sqlite:///{path}", "Is a directory"),
        (garbage, "file is not a database"),
        (newer, "written by a newer version of Drover"),
        (lambda path: "sqlite://", "names no file"),
        (lambda path: "mysql://root:geheim@localhost/drover", "not in 'mysql'"),
        (lambda path: "drover.db", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_used_says_why(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        migrate(make(tmp_path))
    assert "geheim" not in str(caught.value)


async def test_a_transaction_is_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.tx() as session:
            session.add(row("a"))
            await session.flush()
            _ = 1 / 0
    assert await count(database) == 0
    async with database.tx() as session:
        session.add(row("a"))
    assert await count(database) == 1


async def test_a_database_that_went_away_is_a_store_error(tmp_path: Path, database: Database) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StoreError, match="cannot be used: no such table"):
        await count(database)


async def test_exclusive_transactions_do_not_overlap_between_processes(url: str, database: Database) -> None:
    other = Database(url)
    users = [User(f"usr_{number}", f"name {number}", "admin", False, 0.0) for number in range(20)]
    stores = [StoredUsers(database), StoredUsers(other)]
    firsts = await asyncio.gather(
        *(stores[number % 2].add_first(user, user.name, None) for number, user in enumerate(users))
    )
    await other.close()
    assert sum(firsts) == 1
    assert await count(database) == 1


async def test_readers_and_writers_at_once_never_find_it_locked(url: str, database: Database) -> None:
    other = Database(url)

    async def work(which: Database, name: str) -> None:
        for number in range(10):
            async with which.tx() as session:
                await session.scalar(select(func.count()).select_from(UserRow))
                session.add(row(f"{name} {number}"))

    await asyncio.gather(*(work(database if number % 2 else other, str(number)) for number in range(8)))
    await other.close()
    assert await count(database) == 80
