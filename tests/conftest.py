"""The front door: fixtures that start the real application, with whatever backends a test wants."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.store.database import migrate
from models.backend import Backend
from models.scripted import Scripted
from tests.live import Live, Serve, serving
from tools.python import Sandbox


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests. For the whole session, so that a server may serve all tests of a file."""
    return "asyncio"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without users, to be copied."""
    file = tmp_path_factory.mktemp("database") / "drover.db"
    migrate(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
async def serve(tmp_path: Path, empty_database: Path) -> AsyncIterator[Serve]:
    """Starts servers: `await serve([backend, …], setting=value, …)`. No backends: those of the settings."""
    async with AsyncExitStack() as stack:

        async def start(backends: Sequence[Backend] | None = None, *, folder: str = "data", **values: Any) -> Live:
            return await stack.enter_async_context(serving(tmp_path / folder, empty_database, backends, **values))

        yield start


@pytest.fixture(scope="session")
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """One for all tests that run code or read documents; skips them where this host cannot confine it."""
    sandbox = Sandbox()
    await sandbox.start()
    if (reason := sandbox.unavailable()) is not None:
        await sandbox.close()
        pytest.skip(f"code cannot be confined here: {reason}")
    yield sandbox
    await sandbox.close()


@pytest.fixture
def scripted() -> Scripted:
    """The backend of `live`: a model named `scripted` that echoes, until its script is changed."""
    return Scripted()


@pytest.fixture
async def live(serve: Serve, scripted: Scripted) -> Live:
    """A server on the scripted backend."""
    return await serve([scripted])


@pytest.fixture
async def client(live: Live) -> httpx.AsyncClient:
    """The admin."""
    return await live.http()


@pytest.fixture
async def anonymous(live: Live) -> httpx.AsyncClient:
    """Somebody without credentials."""
    return await live.http("")
