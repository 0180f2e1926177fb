"""Texts as vectors."""

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from openai.types import CreateEmbeddingResponse

from models.backend import Embedded, ModelInfo
from models.scripted import Scripted
from tests.doors import envelope
from tests.live import Live, Serve
from tests.wire import UNPARSABLE, check_headers, failure

pytestmark = pytest.mark.anyio

PATH = "/v1/embeddings"
REPO = "hf.co/org/embedder:Q8"


class Embedder(Scripted):
    """Keeps what it was asked to embed, and waits where it is told to."""

    def __init__(self, *models: ModelInfo, hold: bool = False) -> None:
        super().__init__(models=models or None)
        self.embedded: list[tuple[str, list[str], int | None]] = []
        self.hold = hold

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """As Scripted does, unless it waits for ever."""
        self.embedded.append((model, list(inputs), dimensions))
        self.started.set()
        try:
            await asyncio.Event().wait() if self.hold else None
        finally:
            self.stopped.set()
        return await super().embed(model, inputs, dimensions)


def vectors(model: str, *data: Any, tokens: int) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(data)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def embed(client: httpx.AsyncClient, path: str = PATH, **body: Any) -> Any:
    """The answer to a body."""
    response = await client.post(path, json={"model": "scripted"} | body)
    check_headers(response)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    return response.json()


@pytest.mark.parametrize("path", [PATH, "/embeddings", "/v1/embeddings/"])
async def test_one_text_or_several(client: httpx.AsyncClient, path: str) -> None:
    assert await embed(client, path, input="four") == vectors("scripted", [0.5, 1.0], tokens=4)
    several = await embed(client, path, input=["four", "eight888"])
    assert several == vectors("scripted", [0.5, 1.0], [1.0, 1.0], tokens=12)
    CreateEmbeddingResponse.model_validate(several, strict=True)


async def test_base64_is_little_endian_floats(client: httpx.AsyncClient) -> None:
    answer = await embed(client, input=["four"], encoding_format="base64")
    assert answer == vectors("scripted", base64.b64encode(struct.pack("<2f", 0.5, 1.0)).decode(), tokens=4)


async def test_openai_s_client_which_asks_for_base64_reads_numbers(live: Live) -> None:
    client = await live.openai()
    answer = await client.embeddings.create(model="scripted", input=["four", "eight888"])
    assert [item.embedding for item in answer.data] == [[0.5, 1.0], [1.0, 1.0]]
    floats = await client.embeddings.create(model="scripted", input="four", encoding_format="float")
    assert floats.data[0].embedding == [0.5, 1.0]


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"input": "a", "dimensions": None, "encoding_format": None, "user": "ada"}, ("scripted", ["a"], None)),
        ({"input": "a", "dimensions": 1}, ("scripted", ["a"], 1)),
        ({"input": "a", "dimensions": 1.0}, ("scripted", ["a"], 1)),
        ({"input": ["a"] * 2048}, ("scripted", ["a"] * 2048, None)),
        ({"input": "a", "model": REPO}, (REPO, ["a"], None)),
        ({"input": "\0 \U0001f40e"}, ("scripted", ["\0 \U0001f40e"], None)),
    ],
)
async def test_the_backend_is_asked_for_what_was_given(serve: Serve, body: dict[str, Any], asked: Any) -> None:
    backend = Embedder(ModelInfo("scripted", "scripted"), ModelInfo(REPO, "scripted"))
    client = await (await serve([backend])).http()
    answer = await embed(client, **body)
    assert answer["model"] == asked[0] and len(answer["data"]) == len(asked[1])
    assert backend.embedded == [asked]


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        ({"model": None}, "you must provide a model parameter", "model", "missing_required_parameter"),
        ({}, "Missing required parameter: 'input'.", "input", "missing_required_parameter"),
        ({"input": []}, "'input' must hold 1 to 2048 texts.", "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "'input' must hold 1 to 2048 texts.", "input", "invalid_value"),
        ({"input": ""}, "'input' must not hold an empty text.", "input", "invalid_value"),
        ({"input": ["a", ""]}, "'input' must not hold an empty text.", "input", "invalid_value"),
        ({"input": [1, 2]}, "Token ids are not supported as 'input'; send text.", "input", "unsupported_value"),
        ({"input": [[1, 2]]}, "Token ids are not supported as 'input'; send text.", "input", "unsupported_value"),
        (
            {"input": {"text": "a"}},
            "Invalid value for 'input': expected `str | array | null`, got `object`.",
            "input",
            "invalid_type",
        ),
        (
            {"input": ["a", None]},
            "Invalid value for 'input[1]': expected `int | str | array`, got `null`.",
            "input[1]",
            "invalid_type",
        ),
        (
            {"input": "a", "encoding_format": "int8"},
            "'encoding_format' must be 'float' or 'base64'.",
            "encoding_format",
            "invalid_value",
        ),
        *(
            (
                {"input": "a", "dimensions": dimensions},
                "'dimensions' must be a whole number from 1 to 65536.",
                "dimensions",
                "invalid_value",
            )
            for dimensions in (0, -1, 1.5, 65537, 10**30)
        ),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], message: str, param: str, code: str
) -> None:
    response = await client.post(PATH, json={"model": "scripted"} | body)
    assert failure(response) == (400, envelope(message, code, param=param), {})


async def test_what_is_not_an_object_is_refused(client: httpx.AsyncClient) -> None:
    assert failure(await client.post(PATH, content=b'["text"]')) == (400, UNPARSABLE, {})


async def test_a_model_that_only_chats_is_refused(serve: Serve) -> None:
    chatty = ModelInfo("chatty", "scripted", capabilities=frozenset({"chat"}))
    client = await (await serve([Scripted(models=[chatty])])).http()
    expected = envelope("The model `chatty` does not support embeddings.", "unsupported_value", param="model")
    assert failure(await client.post(PATH, json={"model": "chatty", "input": "a"})) == (400, expected, {})


async def test_a_client_that_leaves_stops_the_backend(serve: Serve) -> None:
    backend = Embedder(hold=True)
    live = await serve([backend])
    client = await live.http()
    request = asyncio.create_task(client.post(PATH, json={"model": "scripted", "input": "a"}))
    await backend.started.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    async with asyncio.timeout(1):
        await backend.stopped.wait()
