"""Ollama through its native API: its OpenAI-compatible one loses the context size, tool choice and failures."""

import re
from asyncio import Semaphore, gather
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiohttp import ClientResponse
from msgspec.structs import replace

from models.backend import (
    BackendFailed,
    BackendTimeout,
    Busy,
    Embedded,
    Health,
    InvalidRequest,
    ModelError,
    ModelInfo,
    ModelNotFound,
    ModelRequest,
    Unavailable,
    Unsupported,
)
from models.http import ERROR_LIMIT, Http, Site, context_error, cut, retry_after
from models.messages import Delta, Usage
from models.ollama_reply import (
    Embeddings,
    EngineFailure,
    EngineRefusal,
    Line,
    Refusal,
    Reply,
    Shown,
    Tag,
    Tags,
    Traits,
    Version,
    model_info,
    traits,
)
from models.ollama_request import ChatBody, EmbedBody, ShowBody, chat_body, encode
from models.pool import Pool

NAME = "ollama"
PORT = 11434
HINT = "Start it with `ollama serve`, or set OLLAMA_HOST."
SHOWN_AT_ONCE = 8

Wire = TypeVar("Wire", Line, Embeddings, Tags, Shown, Version)

_read_line = msgspec.json.Decoder(Line)
_read_embeddings = msgspec.json.Decoder(Embeddings)
_read_tags = msgspec.json.Decoder(Tags)
_read_shown = msgspec.json.Decoder(Shown)
_read_version = msgspec.json.Decoder(Version)
_read_refusal = msgspec.json.Decoder(Refusal)
_read_engine_refusal = msgspec.json.Decoder(EngineRefusal)

_UNSUPPORTED = re.compile(r"does not support (\w+)")
_PARAMS = {"tools": "tools", "thinking": "reasoning_effort", "multimodal": "messages", "vision": "messages"}


class Ollama:
    """One or several Ollama servers as one backend."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 300.0,
        connect_timeout: float = 5.0,
        allow_num_ctx: bool = False,
    ) -> None:
        """`timeout`: seconds until the first byte, and between bytes; the first one waits for the model to load."""
        self.name = NAME
        self._allow_num_ctx = allow_num_ctx
        self._http = Http(NAME, timeout=timeout, connect_timeout=connect_timeout)
        self._pool = Pool([Site(base_url(url)) for url in urls])
        self._traits: dict[str, Traits] = {}

    async def models(self) -> list[ModelInfo]:
        """The models of all servers that answer."""
        infos: dict[str, ModelInfo] = {}
        for member, listed in await self._pool.answers(self._listed):
            member.models = frozenset(name for info in listed for name in _names(info.id))
            for info in listed:
                if info.id not in infos or info.loaded:
                    infos[info.id] = info
        return list(infos.values())

    def chat(self, request: ModelRequest) -> AsyncIterator[Delta]:
        """One answer, piece by piece; in one piece if the request says `stream=False`."""
        return self._streamed(request) if request.stream else self._whole(request)

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """One vector for each input."""
        body = encode(EmbedBody(model, inputs, dimensions))
        async with self._pool.answer(model, partial(self._embeddings, model, body)) as answer:
            return Embedded(answer.embeddings, Usage(answer.prompt_eval_count))

    async def check(self) -> Health:
        """Asks each server for its version and its models."""
        try:
            versions = await self._pool.answers(self._version)
            models = await self.models()
        except ModelError as error:
            return Health(False, error.message, HINT)
        told = ", ".join(sorted({version.version for _, version in versions}))
        return Health(True, f"Ollama {told}: {self._pool.census()}, {len(models)} models")

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.close()

    def status(self) -> Mapping[str, Any]:
        """What is known of each server."""
        return {"servers": self._pool.status()}

    async def _streamed(self, request: ModelRequest) -> AsyncIterator[Delta]:
        reply = Reply(request)
        async with self._pool.answer(request.model, partial(self._opened, request)) as response:
            try:
                lines = self._http.lines(response)
                while batch := await lines.read():
                    for text in filter(None, batch):
                        line = self._line(text, request.model)
                        delta = reply.add(line)
                        if delta is not None:
                            yield delta
                        if line.done:
                            await lines.drain()
                            return
                raise _cut_off()
            finally:
                response.close()

    async def _whole(self, request: ModelRequest) -> AsyncIterator[Delta]:
        async with self._pool.answer(request.model, partial(self._completed, request)) as line:
            delta = Reply(request).add(line)
            if delta is not None:
                yield delta

    async def _completed(self, request: ModelRequest, site: Site) -> Line:
        response = await self._opened(request, site)
        line = self._line(await self._http.body(response), request.model)
        if not line.done:
            raise _cut_off()
        return line

    async def _opened(self, request: ModelRequest, site: Site) -> ClientResponse:
        """The answer to a chat request, at its headers; asks for less thinking where the model cannot do as asked."""
        body = chat_body(request, self._allow_num_ctx)
        while True:
            try:
                return await self._post(site, "api/chat", encode(body), request.model)
            except InvalidRequest as refusal:
                thinking_less = _thinking_less(body, refusal)
                if thinking_less == body:
                    raise
                body = thinking_less

    async def _embeddings(self, model: str, body: bytes, site: Site) -> Embeddings:
        response = await self._post(site, "api/embed", body, model)
        return _decoded(_read_embeddings, await self._http.body(response))

    async def _listed(self, site: Site) -> list[ModelInfo]:
        tags = await self._tags(site, "api/tags")
        loaded = {tag.name: tag for tag in await self._tags(site, "api/ps")}
        few = Semaphore(SHOWN_AT_ONCE)
        told = await gather(*(self._traits_of(site, tag, few) for tag in tags))
        return [model_info(tag, traits, loaded.get(tag.name), NAME) for tag, traits in zip(tags, told, strict=True)]

    async def _tags(self, site: Site, path: str) -> list[Tag]:
        return _decoded(_read_tags, await self._told(await self._http.get(site, path), "")).models or []

    async def _traits_of(self, site: Site, tag: Tag, few: Semaphore) -> Traits:
        """What /api/show says; asked once for each digest, which names a model's every byte."""
        # Servers that only imitate Ollama may leave the digest out.
        key = tag.digest or tag.name
        if key not in self._traits:
            async with few:
                try:
                    response = await self._http.ask(site, "api/show", encode(ShowBody(tag.name)))
                    shown = _decoded(_read_shown, await self._told(response, tag.name))
                except ModelError:
                    # A damaged or just deleted model must not hide the others; it is asked about again next time.
                    return Traits()
            self._traits[key] = traits(shown)
        return self._traits[key]

    async def _version(self, site: Site) -> Version:
        return _decoded(_read_version, await self._told(await self._http.get(site, "api/version"), ""))

    async def _told(self, response: ClientResponse, model: str) -> bytes:
        if response.status != 200:
            raise await self._refusal(response, model)
        return await self._http.body(response)

    async def _post(self, site: Site, path: str, body: bytes, model: str) -> ClientResponse:
        response = await self._http.post(site, path, body)
        if response.status != 200:
            raise await self._refusal(response, model)
        return response

    async def _refusal(self, response: ClientResponse, model: str) -> ModelError:
        body = await self._http.body(response, ERROR_LIMIT)
        try:
            text = _read_refusal.decode(body).error
        except msgspec.MsgspecError:
            # Not Ollama's own words: a proxy before it, or another server altogether.
            if response.status in (502, 503):
                return Unavailable(f"{NAME} is not available: status {response.status}.")
            return BackendFailed(f"{NAME} answered with status {response.status} and no reason: is it Ollama?")
        return _failure(response.status, text, model, retry_after(response.headers))

    def _line(self, text: bytes, model: str) -> Line:
        line = _decoded(_read_line, text)
        if line.error is not None:
            failure = _failure(line.status, line.error, model)
            # From the middle of an answer nobody can go on elsewhere, so that it failed is all that counts.
            raise BackendFailed(failure.message) if isinstance(failure, Unavailable) else failure
        return line


def _cut_off() -> BackendFailed:
    return BackendFailed(f"{NAME}'s answer ended in the middle.")


def base_url(host: str) -> str:
    """A base URL from what OLLAMA_HOST may hold: a URL, a host, a host and a port, or an address to listen on."""
    if "://" not in host and (parts := re.fullmatch(r"(.*?)(?::(\d+))?/?", host)):
        host = f"http://{parts[1] or '127.0.0.1'}:{parts[2] or PORT}"
    return re.sub(r"//(0\.0\.0\.0|\[::\])(?=[:/]|$)", "//127.0.0.1", host).rstrip("/")


def _names(model: str) -> tuple[str, ...]:
    """The names by which Ollama knows a model: a tag that is left out means `latest`."""
    return (model, model.removesuffix(":latest")) if model.endswith(":latest") else (model,)


def _thinking_less(body: ChatBody, refusal: InvalidRequest) -> ChatBody:
    """The body without what `refusal` refuses of `think`; the same if it is about something else."""
    if body.think and "does not support thinking" in refusal.message:
        return replace(body, think=None)
    # Some models can only think or not: `think value "high" is not supported for this model`.
    if isinstance(body.think, str) and "think value" in refusal.message:
        return replace(body, think=True)
    return body


def _failure(status: int, text: str, model: str, wait: float = 2.0) -> ModelError:
    """The error that Ollama's own words mean."""
    engine = _engine_failure(text)
    message = cut(engine.message)
    if error := context_error(message, (engine.type,), engine.n_ctx):
        return error
    if missing := _UNSUPPORTED.search(message):
        return Unsupported(message, _PARAMS.get(missing[1], "model"))
    if status == 404 and "not found" in message:
        return ModelNotFound(model)
    if status == 429 or "maximum pending requests" in message:
        return Busy(message, wait)
    if status in (502, 503):
        return Unavailable(message)
    if status in (401, 403):
        return BackendFailed(f"{NAME} refused our credentials.")
    if status in (408, 504):
        return BackendTimeout(message)
    if 400 <= status < 500:
        return InvalidRequest(message)
    return BackendFailed(f"{NAME} failed: {message}")


def _engine_failure(text: str) -> EngineFailure:
    try:
        return _read_engine_refusal.decode(text).error
    except msgspec.MsgspecError:
        # The usual case: a sentence.
        return EngineFailure(text)


def _decoded(decoder: msgspec.json.Decoder[Wire], data: bytes) -> Wire:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise BackendFailed(f"{NAME} sent something that is not its API: {error}.") from error
