"""The list of models, and single ones."""

import asyncio
from typing import Any

import httpx
import pytest
from openai.types import Model

from agents import AGENTS
from models.backend import ModelInfo
from models.scripted import Scripted
from tests.doors import envelope
from tests.live import Live, Serve
from tests.wire import check_headers, failure

pytestmark = pytest.mark.anyio

REPO = "hf.co/org/repo:Q4"


class Named(Scripted):
    """A backend by another name."""

    def __init__(self, name: str, *models: ModelInfo) -> None:
        super().__init__(models=models)
        self.name = name


class Hanging(Named):
    """A backend that never lists its models."""

    async def models(self) -> list[ModelInfo]:
        """Says nothing."""
        await asyncio.Event().wait()
        return []


def listed(name: str, owner: str = "scripted", created: int = 0, **more: Any) -> dict[str, Any]:
    """A model as it is shown."""
    return {"id": name, "object": "model", "created": created, "owned_by": owner, **more}


def info(name: str, backend: str = "scripted", **more: Any) -> ModelInfo:
    """A model as a backend lists it."""
    return ModelInfo(name, backend, **more)


async def models(live: Live, path: str = "/v1/models") -> Any:
    """What is listed."""
    response = await (await live.http()).get(path)
    check_headers(response)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    return response.json()


async def test_an_id_that_two_backends_have_stays_where_the_first_lists_it(serve: Serve) -> None:
    first = Named("first", info("a", "first"), info("b", "first"))
    live = await serve([first, Named("second", info("a", "second"))])
    assert await models(live) == {"object": "list", "data": [listed("a", "first"), listed("b", "first")]}


async def test_all_backends_models_are_listed_once_in_order(serve: Serve) -> None:
    first = Named("first", info(REPO, "first"), info("a", "first", created=1700000000, owned_by="ada"))
    second = Named("second", info("a", "second", owned_by="bob"), info("b", "second"))
    live = await serve([first, second])
    expected = {
        "object": "list",
        "data": [listed(REPO, "first"), listed("a", "ada", 1700000000), listed("b", "second")],
    }
    assert await models(live) == expected
    assert await models(live, "/models") == expected
    assert await models(live, "/v1/models/") == expected
    page = await (await live.openai()).models.list()
    assert [model.id for model in page.data] == [REPO, "a", "b"]
    for model in expected["data"]:
        Model.model_validate(model, strict=True)


async def test_no_models_are_an_empty_list(serve: Serve) -> None:
    assert await models(await serve([])) == {"object": "list", "data": []}


async def test_the_default_model_comes_first(serve: Serve) -> None:
    backend = Named(
        "scripted", info("drover-tiny"), info("vectors", capabilities=frozenset({"embed"})), info("b"), info("c")
    )
    live = await serve([backend], folder="unset")
    assert [model["id"] for model in (await models(live))["data"]] == ["b", "drover-tiny", "vectors", "c"]
    live = await serve([backend], folder="set", default_model="c")
    assert [model["id"] for model in (await models(live))["data"]] == ["c", "drover-tiny", "vectors", "b"]


async def test_agents_variants_are_listed_where_that_is_set(serve: Serve) -> None:
    live = await serve([Scripted()], advertise_modes=True)
    variants = [listed(f"{mode}/scripted", "drover", x_agent_mode=mode) for mode in AGENTS if mode != "simple"]
    assert await models(live) == {"object": "list", "data": [listed("scripted", "drover"), *variants]}


async def test_a_backend_that_hangs_does_not_hold_up_the_others(serve: Serve) -> None:
    live = await serve([Hanging("dead"), Scripted()])
    async with asyncio.timeout(5):
        assert await models(live) == {"object": "list", "data": [listed("scripted", "drover")]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("scripted", listed("scripted")),
        ("hf.co/org/repo:Q4", listed(REPO)),
        ("hf.co%2Forg%2Frepo:Q4", listed(REPO)),
        ("hf.co%2Forg%2Frepo%3AQ4", listed(REPO)),
        ("with%20space", listed("with space")),
        ("simple/scripted", listed("simple/scripted", x_agent_mode="simple")),
        ("simple%2Fscripted", listed("simple/scripted", x_agent_mode="simple")),
        ("simple/odd", listed("simple/odd")),
    ],
)
async def test_one_model_by_its_id(serve: Serve, path: str, expected: Any) -> None:
    live = await serve([Named("scripted", *(info(name) for name in ("scripted", REPO, "with space", "simple/odd")))])
    for base in ("/v1/models", "/models"):
        assert await models(live, f"{base}/{path}") == expected


async def test_openai_s_client_finds_a_model(serve: Serve) -> None:
    live = await serve([Named("scripted", info(REPO))])
    assert (await (await live.openai()).models.retrieve(REPO)).model_dump(exclude_unset=True) == listed(REPO)


@pytest.mark.parametrize("name", ["nope", "hf.co/org/repo", "simple/nope", "a b", "../../etc/passwd", "x" * 3000])
async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    path = "/v1/models/" + name.replace("/", "%2F").replace(" ", "%20")
    message = f"The model `{name}` does not exist or you do not have access to it."[:2000]
    assert failure(await client.get(path)) == (404, envelope(message, "model_not_found", param="model"), {})
