"""The catalog: many backends as one list, whatever state each is in."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from models.backend import Embedded, Health, ModelInfo, ModelNotFound, ModelRequest, Unavailable
from models.catalog import Catalog
from models.messages import Delta
from models.scripted import Scripted

pytestmark = pytest.mark.anyio


class Moody:
    """A backend whose list answers, fails, or hangs."""

    def __init__(self, name: str, *models: str) -> None:
        self.name = name
        self.ids = models
        self.error: Unavailable | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def models(self) -> list[ModelInfo]:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return [ModelInfo(name, self.name) for name in self.ids]

    def chat(self, request: ModelRequest) -> AsyncIterator[Delta]:
        raise NotImplementedError

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        raise NotImplementedError

    async def check(self) -> Health:
        return Health(self.error is None, "")

    async def close(self) -> None:
        self.answers.set()

    def status(self) -> Mapping[str, Any]:
        return {}


async def test_models_stand_in_the_order_of_their_backends_and_the_first_of_two_wins() -> None:
    catalog = Catalog([Moody("one", "b", "shared"), Moody("two", "shared", "a")])
    assert [(info.id, info.backend) for info in await catalog.models()] == [
        ("b", "one"),
        ("shared", "one"),
        ("a", "two"),
    ]
    backend, info = await catalog.find("shared")
    assert (backend.name, info.backend) == ("one", "one")


async def test_a_dead_backend_keeps_its_last_list_and_hides_no_other() -> None:
    dying, well = Moody("dying", "a"), Moody("well", "b")
    catalog = Catalog([dying, well], ttl=0.0)
    assert len(await catalog.models()) == 2
    dying.error = Unavailable("gone")
    assert [info.id for info in await catalog.models()] == ["a", "b"]
    assert catalog.errors == {"dying": "gone"}


async def test_a_hanging_backend_keeps_nobody_waiting() -> None:
    hanging, well = Moody("hanging", "a"), Moody("well", "b")
    hanging.answers.clear()
    catalog = Catalog([hanging, well], ttl=0.0, patience=0.05)
    async with asyncio.timeout(1):
        assert [info.id for info in await catalog.models()] == ["b"]
        assert [info.id for info in await catalog.models()] == ["b"]
    assert hanging.asked == 1, "one question at a time is enough"
    hanging.answers.set()
    assert [info.id for info in await catalog.models()] == ["a", "b"]
    await catalog.close()


async def test_lists_are_not_asked_for_at_each_request() -> None:
    backend = Moody("one", "a")
    catalog = Catalog([backend])
    for _ in range(5):
        await catalog.models()
        await catalog.find("a")
    with pytest.raises(ModelNotFound):
        await catalog.find("b")
    assert backend.asked == 1


async def test_a_model_that_came_since_is_found() -> None:
    backend = Moody("one", "a")
    catalog = Catalog([backend], ttl=3600, forget_misses_after=0.0)
    await catalog.models()
    backend.ids = ("a", "b")
    assert (await catalog.find("b"))[1].id == "b"


async def test_the_scripted_backend_echoes_in_a_ten_line_script() -> None:
    from agents import AGENTS, Context
    from agents.events import Answer
    from models.messages import Message

    request = ModelRequest("scripted", (Message("user", "ping"),))
    events = [event async for event in AGENTS["simple"](Context(Scripted(), request))]
    assert events[-1] == Answer(text="ping")
