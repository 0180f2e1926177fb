"""OpenAI-compatible upstreams: vLLM, llama-server, LM Studio, another Drover."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiohttp import ClientResponse

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
)
from models.http import ERROR_LIMIT, Http, Lines, Site, context_error, cut, retry_after
from models.messages import Delta, Usage
from models.openai_reply import Chunk, Embeddings, Failure, Listing, Refusal, Reply
from models.openai_request import Dialect, EmbeddingsBody, chat_body, encode
from models.pool import Pool

HINT = "Check that the upstream runs, its API key, and its base URL: most end in /v1."

Wire = TypeVar("Wire", Chunk, Embeddings, Listing)

_read_chunk = msgspec.json.Decoder(Chunk)
_read_embeddings = msgspec.json.Decoder(Embeddings)
_read_listing = msgspec.json.Decoder(Listing)
_read_refusal = msgspec.json.Decoder(Refusal)


class OpenAI:
    """One or several servers that speak OpenAI's chat completions, as one backend."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        connect_timeout: float = 5.0,
        name: str = "openai",
    ) -> None:
        """`timeout`: seconds until the first byte, and between bytes."""
        self.name = name
        self._api_key = api_key
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
        self._http = Http(name, timeout=timeout, connect_timeout=connect_timeout, headers=headers)
        self._pool = Pool([Site(url) for url in urls])
        self._dialects = {member.site: Dialect() for member in self._pool.members}

    async def models(self) -> list[ModelInfo]:
        """The models of all servers that answer."""
        infos: dict[str, ModelInfo] = {}
        for member, listing in await self._pool.answers(self._listing):
            member.models = frozenset(model.id for model in listing.data)
            for model in listing.data:
                infos.setdefault(model.id, model.info(self.name))
        return list(infos.values())

    def chat(self, request: ModelRequest) -> AsyncIterator[Delta]:
        """One answer, piece by piece; in one piece if the request says `stream=False`."""
        return self._streamed(request) if request.stream else self._whole(request)

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """One vector for each input."""
        body = encode(EmbeddingsBody(model, inputs, "float", dimensions))
        async with self._pool.answer(model, partial(self._embeddings, model, body)) as answer:
            vectors = [vector.embedding for vector in sorted(answer.data, key=lambda vector: vector.index)]
            return Embedded(vectors, answer.usage.usage() if answer.usage else Usage())

    async def check(self) -> Health:
        """Asks each server for its models."""
        try:
            models = await self.models()
        except ModelError as error:
            return Health(False, error.message, HINT)
        return Health(True, f"{self._pool.census()}, {len(models)} models")

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
                if response.headers.get("Content-Type", "").startswith("application/json"):
                    yield reply.whole(await self._completion(response))
                    return
                events = EventData(self._http.lines(response))
                while batch := await events.read():
                    for data in batch:
                        delta = reply.add(self._chunk(data))
                        if delta is not None:
                            yield delta
                if reply.finish is None and not events.ended:
                    raise BackendFailed(f"{self.name}'s answer ended in the middle.")
                yield reply.last()
                await events.drain()
            finally:
                response.close()

    async def _whole(self, request: ModelRequest) -> AsyncIterator[Delta]:
        async with self._pool.answer(request.model, partial(self._completed, request)) as completion:
            yield Reply(request).whole(completion)

    async def _completed(self, request: ModelRequest, site: Site) -> Chunk:
        return await self._completion(await self._opened(request, site))

    async def _opened(self, request: ModelRequest, site: Site) -> ClientResponse:
        """The answer to a chat request, at its headers; learns which of OpenAI's dialects the server speaks."""
        while True:
            dialect = self._dialects[site]
            try:
                return await self._post(site, "chat/completions", chat_body(request, dialect), request.model)
            except InvalidRequest as refusal:
                learned = dialect.corrected(refusal)
                if learned == dialect:
                    raise
                self._dialects[site] = learned

    async def _embeddings(self, model: str, body: bytes, site: Site) -> Embeddings:
        response = await self._post(site, "embeddings", body, model)
        return self._decoded(_read_embeddings, await self._http.body(response))

    async def _listing(self, site: Site) -> Listing:
        response = await self._http.get(site, "models")
        if response.status != 200:
            raise await self._refusal(response, "")
        return self._decoded(_read_listing, await self._http.body(response))

    async def _post(self, site: Site, path: str, body: bytes, model: str) -> ClientResponse:
        response = await self._http.post(site, path, body)
        if response.status != 200:
            raise await self._refusal(response, model)
        return response

    async def _completion(self, response: ClientResponse) -> Chunk:
        completion = self._chunk(await self._http.body(response))
        if not completion.choices:
            raise BackendFailed(f"{self.name} answered without an answer.")
        return completion

    def _chunk(self, data: bytes) -> Chunk:
        chunk = self._decoded(_read_chunk, data)
        if chunk.error is not None:
            failure = chunk.error if isinstance(chunk.error, Failure) else Failure(chunk.error)
            raise self._failure_within(failure)
        return chunk

    def _decoded(self, decoder: msgspec.json.Decoder[Wire], data: bytes) -> Wire:
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise BackendFailed(f"{self.name} sent something that is not OpenAI's API: {error}.") from error

    async def _refusal(self, response: ClientResponse, model: str) -> ModelError:
        """The error that a response other than 200 means."""
        failure = _failure(await self._http.body(response, ERROR_LIMIT))
        message = self._message(failure)
        match response.status:
            case 401 | 403:
                return BackendFailed(f"{self.name} refused our credentials.")
            case 404 if failure.code == "model_not_found" or "model" in message.lower():
                return ModelNotFound(model)
            case 404:
                return BackendFailed(f"{self.name} knows no such URL. {HINT}")
            case 408 | 504:
                return BackendTimeout(f"{self.name} did not answer in time.")
            case 413:
                return InvalidRequest(message, code="request_too_large")
            case 429:
                return Busy(message, retry_after(response.headers))
            case 502 | 503:
                return Unavailable(f"{self.name} is not available: {message}")
            case status if 400 <= status < 500:
                code = failure.code if isinstance(failure.code, str) else None
                return _context_error(failure, message) or InvalidRequest(message, failure.param, code)
            case status:
                failed = BackendFailed(f"{self.name} failed with status {status}: {message}")
                return _context_error(failure, message) or failed

    def _failure_within(self, failure: Failure) -> ModelError:
        """The error that was sent in the place of an answer or in the middle of it."""
        message = self._message(failure)
        if failure.code in (429, "rate_limit_exceeded"):
            return Busy(message)
        return _context_error(failure, message) or BackendFailed(f"{self.name} failed: {message}")

    def _message(self, failure: Failure) -> str:
        """The upstream's own words, without our key."""
        message = failure.message or "it gave no reason"
        return cut(message.replace(self._api_key, "…") if self._api_key else message)


class EventData:
    """The data of server-sent events. Comments and all other fields are dropped."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.ended = False
        """Whether `[DONE]` was seen."""

    async def read(self) -> list[bytes]:
        """The next data; none after `[DONE]`, and at the end of the body."""
        while not self.ended and (lines := await self._lines.read()):
            data = [inside for line in lines if line.startswith(b"data:") and (inside := line[5:].strip())]
            if data and data[-1] == b"[DONE]":
                self.ended = True
                data.pop()
            if data:
                return data
        return []

    async def drain(self) -> None:
        """Reads the end of the body, so that its connection can serve again."""
        await self._lines.drain()


def _failure(body: bytes) -> Failure:
    """The error in the body of a refusal, in whichever of the known forms."""
    try:
        refusal = _read_refusal.decode(body)
    except msgspec.MsgspecError:
        # A proxy's HTML page or plain text: its words are all there is.
        return Failure(body.decode(errors="replace").strip() or None)
    if isinstance(refusal.error, Failure):
        return refusal.error
    detail = refusal.detail if isinstance(refusal.detail, str) else encode(refusal.detail).decode()
    return Failure(refusal.error or refusal.message or (detail if refusal.detail else None))


def _context_error(failure: Failure, message: str) -> ModelError | None:
    return context_error(message, (failure.code, failure.type), failure.n_ctx)
