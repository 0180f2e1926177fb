"""What Alembic runs to apply migrations: all of them in one transaction that only one process can hold."""

import asyncio
from typing import cast

from advanced_alchemy.alembic.commands import AlembicCommandConfig
from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.store import tables
from gateway.store.database import take_lock


async def migrate() -> None:
    """Opens the database, and waits until no other process migrates it."""
    config = cast(AlembicCommandConfig, context.config)
    engine = cast(AsyncEngine, config.engine)
    try:
        async with engine.begin() as connection:
            await take_lock(connection)
            await connection.run_sync(run, config)
    finally:
        await engine.dispose()


def run(connection: Connection, config: AlembicCommandConfig) -> None:
    """Applies what is missing."""
    context.configure(
        connection=connection,
        target_metadata=tables.UserRow.metadata,
        version_table=config.version_table_name,
        render_as_batch=True,
        transactional_ddl=True,
    )
    context.run_migrations()


asyncio.run(migrate())
