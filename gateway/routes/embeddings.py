"""POST /v1/embeddings: texts as vectors."""

import asyncio
from array import array
from base64 import b64encode
from sys import byteorder
from typing import Any, Literal

import msgspec
from litestar import Request, Response, post
from msgspec import Struct

from gateway.errors import bad_request, decode, missing, no_model
from gateway.openai.request import Number
from gateway.parts import parts_of
from gateway.presence import unless_gone

MAX_INPUTS = 2048
"""OpenAI's own limit of texts in one request."""


class EmbeddingRequest(Struct, frozen=True):
    """The body of POST /v1/embeddings."""

    model: str | None = None
    input: str | list[str | int | list[int]] | None = None
    encoding_format: str | None = None
    dimensions: Number | None = None


class Embedding(Struct, frozen=True):
    """The vector of one text: numbers, or little-endian 32-bit floats in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct, frozen=True):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    """The vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


_decoder = msgspec.json.Decoder(EmbeddingRequest)


@post(["/v1/embeddings", "/embeddings"], status_code=200, opt={"scope": "embeddings"}, name="embeddings")
async def create_embeddings(request: Request[Any, Any, Any]) -> Response[EmbeddingList]:
    """Turns each text into a vector."""
    parts = parts_of(request)
    body = decode(_decoder, await request.body())
    if not body.model:
        raise no_model()
    texts = _texts(body.input)
    form = body.encoding_format or "float"
    if form not in ("float", "base64"):
        raise bad_request("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
    dimensions = _dimensions(body.dimensions)
    backend, info = await parts.catalog.find(body.model)
    if info.capabilities is not None and "embed" not in info.capabilities:
        raise bad_request(f"The model `{info.id}` does not support embeddings.", "model", "unsupported_value")
    caller = request.user.caller
    headers = await parts.limits.enter(caller)
    tokens = 0
    try:
        embedded = await unless_gone(request, asyncio.create_task(backend.embed(info.id, texts, dimensions)))
        tokens = embedded.usage.prompt_tokens
    finally:
        parts.limits.leave(caller, tokens)
    data = [Embedding("embedding", i, _base64(v) if form == "base64" else v) for i, v in enumerate(embedded.vectors)]
    return Response(EmbeddingList("list", data, body.model, EmbeddingUsage(tokens, tokens)), headers=headers)


def _texts(given: str | list[str | int | list[int]] | None) -> list[str]:
    if given is None:
        raise missing("input")
    texts = [given] if isinstance(given, str) else given
    if not texts or len(texts) > MAX_INPUTS:
        raise bad_request(f"'input' must hold 1 to {MAX_INPUTS} texts.", "input")
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        raise bad_request(
            "Token ids are not supported as 'input'; send text.", "input", "unsupported_value"
        )  # they would be those of OpenAI's tokenizer
    if not all(strings):
        raise bad_request("'input' must not hold an empty text.", "input")
    return strings


def _dimensions(given: Number | None) -> int | None:
    if given is None:
        return None
    if given != int(given) or not 1 <= given <= 65536:
        raise bad_request("'dimensions' must be a whole number from 1 to 65536.", "dimensions")
    return int(given)


def _base64(vector: list[float]) -> str:
    floats = array("f", vector)
    if byteorder == "big":
        floats.byteswap()
    return b64encode(floats).decode()


HANDLERS = (create_embeddings,)
