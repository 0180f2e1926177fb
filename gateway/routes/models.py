"""GET /v1/models and /v1/models/{id}: what can be asked."""

from typing import Any, Literal

from litestar import Request, get
from litestar.params import FromPath
from msgspec import UNSET, Struct, UnsetType

from agents import AGENTS
from gateway.modes import DEFAULT, split
from gateway.parts import Parts, parts_of
from models.backend import ModelInfo, ModelNotFound


class ModelOut(Struct, frozen=True):
    """A model as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    x_agent_mode: str | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    """All models. There are no pages."""

    object: Literal["list"]
    data: list[ModelOut]


@get(["/v1/models", "/models"], opt={"scope": "models"}, operation_id="listModels")
async def list_models(request: Request[Any, Any, Any]) -> ModelList:
    """Lists the models of all backends, the default one first."""
    parts = parts_of(request)
    infos = await parts.catalog.models()
    default = await parts.default_model()
    infos.sort(key=lambda info: default is None or info.id != default.id)
    listed = [_out(info) for info in infos]
    if parts.settings.advertise_modes:
        listed += [_out(info, mode) for mode in AGENTS if mode != DEFAULT for info in infos]
    return ModelList("list", listed)


@get(["/v1/models/{model_id:path}", "/models/{model_id:path}"], opt={"scope": "models"}, operation_id="retrieveModel")
async def retrieve_model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> ModelOut:
    """Describes one model, by its id with or without an agent's prefix."""
    return await _retrieve(parts_of(request), model_id.removeprefix("/"))


async def _retrieve(parts: Parts, name: str) -> ModelOut:
    await parts.catalog.models()
    prefix, model = split(name, parts.catalog)
    try:
        _, info = await parts.catalog.find(model)
    except ModelNotFound as error:
        raise ModelNotFound(name) from error
    return _out(info, prefix)


def _out(info: ModelInfo, mode: str = "") -> ModelOut:
    name = f"{mode}/{info.id}" if mode else info.id
    return ModelOut(name, "model", info.created, info.owned_by or info.backend, x_agent_mode=mode or UNSET)


HANDLERS = (list_models, retrieve_model)
