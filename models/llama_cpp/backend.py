"""The llama.cpp backend: models in GGUF files, each run by an engine process of its own while it is used."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.backend import (
    Capability,
    Embedded,
    Health,
    InvalidRequest,
    ModelInfo,
    ModelNotFound,
    ModelRequest,
    Unavailable,
    Unsupported,
)
from models.duration import seconds
from models.llama_cpp import protocol
from models.llama_cpp.breaker import Breaker
from models.llama_cpp.library import Library, ModelFile
from models.llama_cpp.places import Places
from models.llama_cpp.worker import Worker
from models.messages import Delta

_UNKNOWN_CONTEXT = 4096
_WORK: dict[Capability, str] = {"chat": "chat completions", "embed": "embeddings"}


class LlamaCpp:
    """Models in GGUF files: those at `paths`, those below `folder`, and the built-in one under the id `drover-tiny`.

    Args:
        n_ctx: the context of a request in tokens, at most what a model was trained for; 0: all of that.
        threads: of an engine; 0: one for each physical core.
        parallel: requests that an engine works on at once.
        cache: tokens that an engine's key-value cache holds for all requests together, at least the context of one; 0:
            just that.
        image_pixels: pixels that a picture may have.
        queue: requests that may wait for one model besides.
        keep_alive: how long a model stays loaded without work, in seconds or such as `5m`; below zero: for ever.
        max_loaded: models that may be loaded at once.
        crash_window: a second crash within so many seconds has a model refused,
        crash_pause: for so many seconds.

    Raises:
        ValueError: `keep_alive` is no duration.
    """

    name = "llama_cpp"

    def __init__(
        self,
        paths: Sequence[Path],
        folder: Path | None,
        builtin: Path | None,
        *,
        n_ctx: int = 8192,
        n_gpu_layers: int = -1,
        threads: int = 0,
        mmap: bool = True,
        mlock: bool = False,
        parallel: int = 8,
        cache: int = 0,
        image_pixels: int = 25_000_000,
        queue: int = 32,
        keep_alive: str | float = "5m",
        max_loaded: int = 3,
        crash_window: float = 60.0,
        crash_pause: float = 30.0,
    ) -> None:
        self._library = Library(paths, folder, builtin)
        self._files: dict[str, ModelFile] = {}
        self._workers: dict[str, Worker] = {}
        self._served: dict[str, ModelFile] = {}
        self._places = Places(max_loaded)
        self._n_ctx = n_ctx
        self._n_gpu_layers = n_gpu_layers
        self._threads = threads or _physical_cores()
        self._mmap = mmap
        self._mlock = mlock
        self._parallel = parallel
        self._cache = cache
        self._image_pixels = image_pixels
        self._queue = queue
        self._keep_alive = seconds(keep_alive)
        self._crash_window = crash_window
        self._crash_pause = crash_pause

    async def models(self) -> list[ModelInfo]:
        """The models whose files can be used. Files that came or went since the last time are noticed."""
        await self._scan()
        return [self._info(file) for file in self._files.values() if not file.problem]

    async def chat(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        """One answer, piece by piece. Closing the iterator stops the engine's work on it."""
        file = await self._file(request.model, "chat")
        if "vision" not in file.capabilities and any(message.images for message in request.messages):
            raise Unsupported("image_url is not supported by this model", "messages")
        if request.num_ctx is not None and request.num_ctx > self._context(file):
            raise Unsupported(f"This model is run with a context of {self._context(file)} tokens.", "num_ctx")
        ask = self._worker(file).ask(lambda number: protocol.Chat(number, request), _keep_alive(request))
        async with aclosing(ask) as replies:
            async for reply in replies:
                if isinstance(reply, protocol.Piece):
                    yield reply.delta

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """One vector of length 1 for each input; cut to `dimensions`, it is brought to length 1 again."""
        worker = self._worker(await self._file(model, "embed"))
        async with aclosing(worker.ask(lambda number: protocol.Embed(number, tuple(inputs), dimensions))) as replies:
            reply = await anext(replies)
        assert isinstance(reply, protocol.Vectors)
        return Embedded(reply.vectors, reply.usage)

    async def check(self) -> Health:
        """Whether llama.cpp is installed and every file can be used."""
        if find_spec("llama_cpp") is None:
            return Health(False, "The package llama-cpp-python is not installed.", "Run `uv sync`.")
        await self._scan()
        usable = [file for file in self._files.values() if not file.problem]
        broken = [file for file in self._files.values() if file.problem]
        detail = "; ".join(
            [
                f"{len(usable)} model{'' if len(usable) == 1 else 's'}",
                *(f"{file.problem} ({file.path})" for file in broken),
            ]
        )
        hint = "Correct the paths of the models in the settings, or put the files there." if broken else ""
        return Health(bool(usable), detail, hint if usable else hint or "Name GGUF files, or a folder of them.")

    async def close(self) -> None:
        """Ends all engine processes."""
        await asyncio.gather(*(worker.close() for worker in self._workers.values()))

    def status(self) -> Mapping[str, Any]:
        """The engines by model."""
        return {"models": {model: worker.status() for model, worker in self._workers.items()}}

    async def _scan(self) -> None:
        self._files = await asyncio.to_thread(self._library.scan)

    async def _file(self, model: str, need: Capability) -> ModelFile:
        if await self._is_news(model):
            await self._scan()
        if model not in self._files:
            raise ModelNotFound(model)
        file = self._files[model]
        if file.problem:
            raise Unavailable(f"The model `{model}` cannot be used: {file.problem}.")
        if need not in file.capabilities:
            raise InvalidRequest(f"The model `{model}` does not support {_WORK[need]}.", "model")
        return file

    async def _is_news(self, model: str) -> bool:
        """Whether something else may be known of a model than at the last scan. Its file is looked at between uses."""
        file, worker = self._files.get(model), self._workers.get(model)
        if file is None or file.problem:
            return True
        return (worker is None or worker.idle) and await asyncio.to_thread(_has_changed, file)

    def _worker(self, file: ModelFile) -> Worker:
        if file.id not in self._workers:
            self._workers[file.id] = Worker(
                file.id,
                self._load(file),
                self._places,
                Breaker(file.id, window=self._crash_window, pause=self._crash_pause),
                keep_alive=self._keep_alive,
                queue=self._queue,
            )
        elif self._served[file.id] != file:
            self._workers[file.id].renew(self._load(file))
        self._served[file.id] = file
        return self._workers[file.id]

    def _load(self, file: ModelFile) -> protocol.Load:
        context = self._context(file)
        return protocol.Load(
            path=str(file.path),
            n_ctx=context,
            n_gpu_layers=self._n_gpu_layers,
            threads=self._threads,
            mmap=self._mmap,
            mlock=self._mlock,
            embed="embed" in file.capabilities,
            slots=self._parallel,
            cells=max(self._cache, context),
            image_pixels=self._image_pixels,
            projector=str(file.projector or ""),
            repack=all(worker.repack for worker in self._workers.values()),
        )

    def _context(self, file: ModelFile) -> int:
        trained = file.context or _UNKNOWN_CONTEXT
        return min(self._n_ctx or trained, trained)

    def _info(self, file: ModelFile) -> ModelInfo:
        worker = self._workers.get(file.id)
        return ModelInfo(
            id=file.id,
            backend=self.name,
            created=file.created,
            owned_by=file.owned_by,
            capabilities=file.capabilities,
            context=self._context(file),
            loaded=worker is not None and worker.state == "ready",
        )


def _keep_alive(request: ModelRequest) -> float | None:
    try:
        return None if request.keep_alive is None else seconds(request.keep_alive)
    except ValueError as error:
        raise InvalidRequest(f"'keep_alive' {error}.", "keep_alive") from None


def _has_changed(file: ModelFile) -> bool:
    """Whether it is another file than when it was described, or gone."""
    try:
        return int(file.path.stat().st_mtime) != file.created
    except OSError:
        return True


def _physical_cores() -> int:
    """The cores that this process may use; two threads of one core only get in each other's way."""
    siblings = {
        file.read_text()
        for cpu in os.sched_getaffinity(0)
        if (file := Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).exists()
    }
    return len(siblings) or max(1, len(os.sched_getaffinity(0)) // 2)
