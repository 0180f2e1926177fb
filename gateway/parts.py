"""The parts of a running server, as its routes see them."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from litestar import Request
from msgspec import Struct

from gateway.backends import default_model
from gateway.files import Files
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.runs import Runs
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.store.runs import Recorder, RunStore
from gateway.toolset import Toolset
from gateway.turns import Turns
from models.backend import Health, ModelInfo
from models.catalog import Catalog
from models.probe import Prober
from tools import Toolbox
from tools.knowledge import Knowledge

VERSION = "0.1.0"


class Parts(Struct, frozen=True):
    """Made once, in create_app."""

    settings: Settings
    catalog: Catalog
    recorder: Recorder
    runs: Runs
    run_store: RunStore
    limits: Limits
    metrics: Metrics
    probe: "Probe"
    sessions: Sessions
    files: Files
    toolset: Toolset
    toolbox: Toolbox
    prober: Prober
    turns: Turns
    """Of requests with one Idempotency-Key, and of what takes up or ends a run that is not under way."""

    @property
    def knowledge(self) -> Knowledge:
        """Collections of documents."""
        return self.toolset.knowledge

    async def default_model(self) -> ModelInfo | None:
        """The model for a request that names none."""
        return await default_model(self.settings, self.catalog)


class Probe:
    """Asks the backends how they are, at most every `ttl` seconds however often it is asked itself."""

    def __init__(self, catalog: Catalog, *, ttl: float = 2.0, patience: float = 3.0) -> None:
        self._catalog = catalog
        self._ttl = ttl
        self._patience = patience
        self._health: dict[str, Health] = {}
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def health(self) -> dict[str, Health]:
        """Each backend's health by its name."""
        async with self._lock:
            if time.monotonic() - self._asked_at > self._ttl:
                backends = self._catalog.backends
                self._health = dict(
                    zip(
                        (backend.name for backend in backends),
                        await asyncio.gather(*(self._check(backend.check()) for backend in backends)),
                        strict=True,
                    )
                )
                self._asked_at = time.monotonic()
        return self._health

    async def _check(self, check: Coroutine[Any, Any, Health]) -> Health:
        try:
            return await asyncio.wait_for(check, self._patience)
        except TimeoutError:
            return Health(False, f"no answer within {self._patience:g} seconds")


def parts_of(request: Request[Any, Any, Any]) -> Parts:
    """The parts of the server that a request reached."""
    parts: Parts = request.app.state.parts
    return parts
