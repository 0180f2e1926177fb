"""The catalog: which backend has which model."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

from models.backend import Backend, ModelError, ModelInfo, ModelNotFound

logger = logging.getLogger(__name__)


class Catalog:
    """The models of all backends under one roof.

    Lists are kept for `ttl` seconds and renewed in the background, so that asking is quick. A backend that does not
    answer within `patience` seconds keeps the list that it gave last; the others are not kept waiting. For a model that
    is not listed they are asked again after `forget_misses_after` seconds. Where two backends have the same id, the one
    that stands first has it.
    """

    def __init__(
        self, backends: Sequence[Backend], *, ttl: float = 10.0, patience: float = 1.5, forget_misses_after: float = 1.0
    ) -> None:
        self.backends = tuple(backends)
        self._ttl = ttl
        self._patience = patience
        self._forget_misses_after = forget_misses_after
        self._lists: dict[str, list[ModelInfo]] = {}
        self._index: dict[str, tuple[Backend, ModelInfo]] = {}
        self._renewals: dict[str, asyncio.Task[None]] = {}
        self._asked_at = float("-inf")
        self.errors: dict[str, str] = {}
        """Why a backend's list could not be read the last time, by backend."""

    async def listed(self) -> None:
        """Returns when there is a list to look a model up in; at once, but for the first time."""
        if not self._index:
            await self._renew()

    async def models(self) -> list[ModelInfo]:
        """All models, in the order of the backends, each id once."""
        await self._renew()
        return [info for _, info in self._index.values()]

    async def find(self, model: str) -> tuple[Backend, ModelInfo]:
        """The backend that has a model.

        Raises:
            ModelNotFound: no backend lists it; they were asked anew if `forget_misses_after` seconds had passed.
        """
        if (found := self._index.get(model)) is not None:
            if time.monotonic() - self._asked_at > self._ttl:
                self._start_renewals()
            return found
        await self._renew(older_than=self._forget_misses_after)
        if (found := self._index.get(model)) is not None:
            return found
        raise ModelNotFound(model)

    def __contains__(self, model: str) -> bool:
        """Whether a model was on the last lists."""
        return model in self._index

    async def close(self) -> None:
        """Ends what is under way and closes the backends."""
        for task in self._renewals.values():
            task.cancel()
        await asyncio.gather(*self._renewals.values(), return_exceptions=True)
        for backend in self.backends:
            await backend.close()

    async def _renew(self, older_than: float | None = None) -> None:
        """Waits for lists that are due, at most `patience` seconds; returns at once if they are fresh."""
        age = time.monotonic() - self._asked_at
        if age > (self._ttl if older_than is None else older_than):
            self._start_renewals()
        if self._renewals:
            await asyncio.wait(self._renewals.values(), timeout=self._patience)

    def _start_renewals(self) -> None:
        self._asked_at = time.monotonic()
        for backend in self.backends:
            if backend.name not in self._renewals:
                task = asyncio.create_task(self._read(backend))
                self._renewals[backend.name] = task
                task.add_done_callback(partial(self._renewed, backend.name))

    def _renewed(self, name: str, _: asyncio.Task[None]) -> None:
        del self._renewals[name]

    async def _read(self, backend: Backend) -> None:
        try:
            self._lists[backend.name] = await backend.models()
            self.errors.pop(backend.name, None)
        except ModelError as error:
            if self.errors.get(backend.name) != error.message:
                logger.info("backend %s does not list its models: %s", backend.name, error.message)
            self.errors[backend.name] = error.message
        index: dict[str, tuple[Backend, ModelInfo]] = {}
        for owner in self.backends:
            for info in self._lists.get(owner.name, ()):
                index.setdefault(info.id, (owner, info))
        self._index = index
