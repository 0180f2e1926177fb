"""The application: the only place where parts meet."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Scope, Send

from auth.middleware import authentication
from gateway import docs
from gateway.access import Access
from gateway.backends import make_backends
from gateway.edge import Edge
from gateway.errors import handler
from gateway.files import Files
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.parts import Parts, Probe
from gateway.routes import auth as auth_routes
from gateway.routes import chat, embeddings, files, health, knowledge, models, runs, sessions, tools, users
from gateway.runs import Runs
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.store.database import Database, StoreError
from gateway.store.files import FileStore
from gateway.store.runs import Recorder, RunStore, UseRecord
from gateway.store.sessions import SessionStore
from gateway.toolset import Toolset
from gateway.turns import Turns
from models.backend import Backend
from models.catalog import Catalog
from models.probe import Prober
from tools.python import Sandbox
from tools.toolbox import Called

logger = logging.getLogger(__name__)

HOUSEKEEPING = 60.0
"""Seconds between rounds of writing down what keys were used and dropping tokens that have expired."""
PURGE_EVERY = 60
"""Rounds between deletions of old runs, which look through all of them."""


class Server:
    """The ASGI application, and the way to end it."""

    def __init__(self, app: Litestar, edge: Edge) -> None:
        self._app = app
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge(scope, receive, send)

    @property
    def parts(self) -> Parts:
        """What it is made of; there only while it runs."""
        parts: Parts = self._app.state.parts
        return parts

    async def drain(self) -> None:
        """Turns not ready, refuses new runs, and gives those under way their grace, then an error that says why."""
        await self.parts.runs.drain(self.parts.settings.shutdown_grace)


def create_app(
    settings: Settings, secret: str, backends: Sequence[Backend] | None = None, sandbox: Sandbox | None = None
) -> Server:
    """The server on a migrated database.

    Args:
        settings: all settings.
        secret: signs tokens and peppers API keys; 32 characters or more.
        backends: instead of those that the settings name.
        sandbox: instead of the one that the settings describe; who gives it starts and closes it.
    """
    database = Database(settings.database)
    access = Access(settings, secret, database)
    catalog = Catalog(make_backends(settings) if backends is None else backends)
    metrics = Metrics(lambda: _states(catalog))
    toolset = Toolset(settings, catalog, database, sandbox)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        parts = _assemble(settings, database, catalog, metrics, toolset)
        await parts.files.start()
        await toolset.start()
        await parts.run_store.interrupt(settings.run_timeout)
        app.state.parts = parts
        housekeeping = asyncio.create_task(_keep_house(parts, access))
        try:
            yield
        finally:
            housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await housekeeping
            await parts.runs.drain(0)
            await parts.sessions.write()
            await parts.recorder.close()
            await toolset.close()
            await catalog.close()
            with _tolerating("the last uses of keys were not written down"):
                await access.purge()
            await database.close()

    handlers = api_handlers(settings)
    app = Litestar(
        route_handlers=[*handlers, *docs.routes(handlers)],
        middleware=[authentication(access.identity)],
        exception_handlers={Exception: handler(settings.max_body_bytes)},
        request_max_body_size=settings.max_body_bytes,
        lifespan=[lifespan],
        state=State({"auth": access}),
        logging_config=None,
        openapi_config=None,
    )
    edge = Edge(app, metrics, origins=settings.cors_origins, credentials=settings.cors_credentials)
    return Server(app, edge)


def api_handlers(settings: Settings) -> list[HTTPRouteHandler]:
    """All routes but those of the documentation, which describes them."""
    return [
        *chat.HANDLERS,
        *models.HANDLERS,
        *embeddings.HANDLERS,
        *runs.HANDLERS,
        *sessions.HANDLERS,
        *files.HANDLERS,
        *knowledge.HANDLERS,
        *tools.HANDLERS,
        *auth_routes.HANDLERS,
        *users.HANDLERS,
        *health.HANDLERS,
        *health.status_routes(settings.status_public),
    ]


def _assemble(settings: Settings, database: Database, catalog: Catalog, metrics: Metrics, toolset: Toolset) -> Parts:
    recorder = Recorder(database)
    files = Files(
        settings.data_directory,
        FileStore(database),
        toolset.describe,
        file_bytes=settings.upload_max_bytes,
        session_bytes=settings.session_max_bytes,
        user_bytes=settings.user_max_bytes,
    )
    sessions = Sessions(
        SessionStore(database),
        files,
        toolset.forget,
        session_bytes=settings.session_max_bytes,
        user_bytes=settings.user_max_bytes,
    )

    def called(call: Called) -> None:
        metrics.tool(call)
        recorder.use(UseRecord(call.user_id, call.tool, 1, int(call.failed), call.seconds, time.time()))

    limits = Limits(
        settings.rate_limit_storage,
        requests=settings.rate_limit_requests,
        tokens=settings.rate_limit_tokens,
        streams=settings.rate_limit_streams,
    )
    return Parts(
        settings=settings,
        catalog=catalog,
        recorder=recorder,
        runs=Runs(recorder, timeout=settings.run_timeout),
        run_store=RunStore(database),
        limits=limits,
        metrics=metrics,
        probe=Probe(catalog),
        sessions=sessions,
        files=files,
        toolset=toolset,
        toolbox=toolset.toolbox(called),
        prober=Prober(),
        turns=Turns(),
    )


async def _keep_house(parts: Parts, access: Access) -> None:
    days = parts.settings.run_retention_days
    for round_ in count():
        if days and round_ % PURGE_EVERY == 0:
            with _tolerating("old runs were not deleted"):
                await parts.run_store.purge(time.time() - days * 86400)
        if round_ % PURGE_EVERY == 0:
            with _tolerating("what is left of deleted files and sessions was not deleted"):
                await parts.files.sweep()
                await parts.sessions.sweep()
        if sessions_days := parts.settings.session_retention_days:
            with _tolerating("old sessions were not deleted"):
                await parts.sessions.expire(time.time() - sessions_days * 86400)
        with _tolerating("files whose time has come were not deleted"):
            await parts.files.expire()
        await parts.sessions.write()
        with _tolerating("old tokens were not deleted"):
            await access.purge()
        await asyncio.sleep(HOUSEKEEPING)


@contextmanager
def _tolerating(consequence: str) -> Iterator[None]:
    """For what can be done as well at the next round: a database or a disk that refuses is logged."""
    try:
        yield
    except (OSError, StoreError) as error:
        logger.warning("%s: %s", consequence, error)


def _states(catalog: Catalog) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What backends know of their models now."""
    return {
        (backend.name, model): state
        for backend in catalog.backends
        for model, state in backend.status().get("models", {}).items()
    }
