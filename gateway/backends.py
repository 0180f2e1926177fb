"""The backends that the settings name."""

from collections.abc import Callable
from pathlib import Path

from gateway.settings import BUILTIN_MODEL, Settings
from models.backend import Backend, ModelInfo
from models.catalog import Catalog
from models.llama_cpp import LlamaCpp
from models.ollama import Ollama
from models.openai import OpenAI
from models.scripted import Scripted

BUILTIN = "drover-tiny"
"""The id of the demonstration model, which is the default only where there is no other."""


async def default_model(settings: Settings, catalog: Catalog) -> ModelInfo | None:
    """The model for a request that names none: the one that was set, else the first that is not built in."""
    models = await catalog.models()
    if wanted := settings.default_model:
        return next((info for info in models if info.id == wanted), None)
    chat = [info for info in models if info.capabilities is None or "chat" in info.capabilities]
    return min(chat, key=lambda info: info.id == BUILTIN, default=None)


def make_backends(settings: Settings) -> list[Backend]:
    """The backends in the order of `BACKENDS`; an upstream without an address is left out."""
    names = [name for name in settings.backends if name != "openai" or settings.upstream_base_url]
    return [_MAKERS[name](settings) for name in names]


def _llama_cpp(settings: Settings) -> Backend:
    return LlamaCpp(
        [Path(path) for path in settings.llamacpp_model_path],
        settings.llamacpp_models_directory,
        BUILTIN_MODEL if settings.builtin_model else None,
        n_ctx=settings.llamacpp_n_ctx,
        n_gpu_layers=settings.llamacpp_n_gpu_layers,
        threads=settings.llamacpp_threads,
        mmap=settings.llamacpp_mmap,
        mlock=settings.llamacpp_mlock,
        parallel=settings.llamacpp_parallel,
        cache=settings.llamacpp_cache,
        image_pixels=settings.llamacpp_image_pixels,
        queue=settings.llamacpp_queue,
        keep_alive=settings.llamacpp_keep_alive,
        max_loaded=settings.llamacpp_max_loaded,
    )


def _ollama(settings: Settings) -> Backend:
    return Ollama(
        settings.ollama_host,
        timeout=settings.backend_timeout,
        connect_timeout=settings.connect_timeout,
        allow_num_ctx=settings.ollama_num_ctx,
    )


def _openai(settings: Settings) -> Backend:
    key = settings.upstream_api_key
    return OpenAI(
        settings.upstream_base_url,
        api_key=key.get_secret_value() if key else None,
        timeout=settings.backend_timeout,
        connect_timeout=settings.connect_timeout,
    )


_MAKERS: dict[str, Callable[[Settings], Backend]] = {
    "llama_cpp": _llama_cpp,
    "ollama": _ollama,
    "openai": _openai,
    "scripted": lambda settings: Scripted(),
}
