"""The llama.cpp backend: models in GGUF files, each run by an engine process of its own, started at its first use."""

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
from models.llama_cpp import protocol
from models.llama_cpp.library import Library, ModelFile
from models.llama_cpp.worker import Worker
from models.messages import Delta

_UNKNOWN_CONTEXT = 4096
_WORK: dict[Capability, str] = {"chat": "chat completions", "embed": "embeddings"}


class LlamaCpp:
    """Models in GGUF files: those at `paths`, those below `folder`, and the built-in one under the id `drover-tiny`.

    `n_ctx` is the context in tokens, at most what a model was trained for; 0: all of that. `threads` 0 takes one for
    each physical core. `queue` is how many requests may wait for one model.
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
        queue: int = 32,
    ) -> None:
        self._library = Library(paths, folder, builtin)
        self._files: dict[str, ModelFile] = {}
        self._workers: dict[str, Worker] = {}
        self._n_ctx = n_ctx
        self._n_gpu_layers = n_gpu_layers
        self._threads = threads or _physical_cores()
        self._mmap = mmap
        self._mlock = mlock
        self._queue = queue

    async def models(self) -> list[ModelInfo]:
        """The models whose files can be used. Files that came or went since the last time are noticed."""
        await self._scan()
        return [self._info(file) for file in self._files.values() if not file.problem]

    async def chat(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        """One answer, piece by piece. Closing the iterator stops the engine's work on it."""
        file = await self._file(request.model, "chat")
        if any(message.images for message in request.messages):
            raise Unsupported("image_url is not supported by this model", "messages")
        if request.num_ctx is not None and request.num_ctx > self._context(file):
            raise Unsupported(f"This model is run with a context of {self._context(file)} tokens.", "num_ctx")
        worker = self._worker(file)
        async with aclosing(worker.ask(lambda number: protocol.Chat(number, request))) as replies:
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
        return {"models": {model: _status(worker) for model, worker in self._workers.items()}}

    async def _scan(self) -> None:
        self._files = await asyncio.to_thread(self._library.scan)

    async def _file(self, model: str, need: Capability) -> ModelFile:
        if model not in self._files or self._files[model].problem:
            await self._scan()
        if model not in self._files:
            raise ModelNotFound(model)
        file = self._files[model]
        if file.problem:
            raise Unavailable(f"The model `{model}` cannot be used: {file.problem}.")
        if need not in file.capabilities:
            raise InvalidRequest(f"The model `{model}` does not support {_WORK[need]}.", "model")
        return file

    def _worker(self, file: ModelFile) -> Worker:
        if file.id not in self._workers:
            self._workers[file.id] = Worker(file.id, self._load(file), self._queue)
        return self._workers[file.id]

    def _load(self, file: ModelFile) -> protocol.Load:
        return protocol.Load(
            path=str(file.path),
            n_ctx=self._context(file),
            n_gpu_layers=self._n_gpu_layers,
            threads=self._threads,
            mmap=self._mmap,
            mlock=self._mlock,
            embed="embed" in file.capabilities,
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


def _status(worker: Worker) -> dict[str, Any]:
    return {"pid": worker.pid, "state": worker.state, "queue": worker.queue, "context": worker.context}


def _physical_cores() -> int:
    """The cores that this process may use; two threads of one core only get in each other's way."""
    siblings = {
        file.read_text()
        for cpu in os.sched_getaffinity(0)
        if (file := Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).exists()
    }
    return len(siblings) or max(1, len(os.sched_getaffinity(0)) // 2)
