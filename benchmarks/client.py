"""A light client for streams of chat completions: what came, and when."""

import json
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from benchmarks.gateway import Failure

Message = dict[str, Any]
Headers = Mapping[str, str]

PATIENCE = aiohttp.ClientTimeout(total=1800, sock_connect=10)


class Piece(Struct):
    """What one chunk adds to the answer."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class Choice(Struct):
    """The answer that a chunk belongs to."""

    delta: Piece = msgspec.field(default_factory=Piece)
    finish_reason: str | None = None


class Details(Struct):
    """Where the prompt came from."""

    cached_tokens: int = 0


class Usage(Struct):
    """What was counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None


class Chunk(Struct):
    """One event of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


class Answer:
    """One streamed answer; times are seconds of `perf_counter`."""

    def __init__(self, limit: int) -> None:
        self.sent = self.ended = perf_counter()
        self.times: list[float] = []
        """When each piece of text came."""
        self.text = ""
        self.finish: str | None = None
        self.usage: Usage | None = None
        self._limit = limit

    @property
    def first(self) -> float:
        """Seconds until the first piece; until the end where none came."""
        return (self.times[0] if self.times else self.ended) - self.sent

    @property
    def cut(self) -> bool:
        """Whether the server ended it before its end."""
        return self.finish is None

    @property
    def tokens(self) -> int:
        """As the server counted. One that does not count for streams has reached its limit, or cut the answer off."""
        if self.usage:
            return self.usage.completion_tokens
        return self._limit if self.finish == "length" else len(self.times)

    @property
    def prompt_tokens(self) -> int:
        """As the server counted; 0 where it does not."""
        return self.usage.prompt_tokens if self.usage else 0

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that were not computed again; None where the server does not count."""
        if self.usage is None:
            return None
        return self.usage.prompt_tokens_details.cached_tokens if self.usage.prompt_tokens_details else 0

    def take(self, chunk: Chunk) -> None:
        """Goes on by one chunk."""
        if chunk.error is not None:
            raise Failure(f"an error in the stream: {chunk.error}")
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            delta = choice.delta
            if delta.content or delta.reasoning_content or delta.tool_calls:
                self.times.append(perf_counter())
                self.text += delta.content or ""
            self.finish = choice.finish_reason or self.finish


class Client:
    """Speaks to one server. `banned` are the tokens that end an answer: with them, each has its full length."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Headers,
        *,
        model: str,
        temperature: float,
        banned: Sequence[int],
    ) -> None:
        self.model = model
        self._session = session
        self._url = url
        self._headers = headers
        self._body = {
            "model": model,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._bias = {str(token): -100 for token in banned}

    async def ask(self, messages: Sequence[Message], tokens: int, **more: Any) -> Answer:
        """A whole answer of so many tokens."""
        answer = Answer(tokens)
        await self.fill(answer, messages, tokens, **more)
        return answer

    async def ask_for(self, schema: Mapping[str, Any], messages: Sequence[Message], tokens: int) -> Answer:
        """A whole answer in the form of a schema, which ends it."""
        named = {"name": "answer", "strict": True, "schema": schema}
        return await self.ask(
            messages, tokens, response_format={"type": "json_schema", "json_schema": named}, logit_bias={}
        )

    async def fill(self, answer: Answer, messages: Sequence[Message], tokens: int, **more: Any) -> None:
        """Fills an answer as it comes, so that others can watch it."""
        body = {**self._body, "messages": messages, "max_tokens": tokens, "logit_bias": self._bias, **more}
        headers = {"Content-Type": "application/json", **self._headers}
        answer.sent = perf_counter()
        try:
            await self._read(answer, json.dumps(body).encode(), headers)
        except aiohttp.ClientPayloadError:
            pass  # Cut off without a word.
        finally:
            answer.ended = perf_counter()

    async def get(self, path: str) -> Any:
        """What a GET gives; None where it gives nothing good."""
        async with self._session.get(self._url + path, headers=self._headers) as response:
            return await response.json() if response.status == 200 else None

    async def _read(self, answer: Answer, body: bytes, headers: Headers) -> None:
        url = self._url + "/v1/chat/completions"
        async with self._session.post(url, data=body, headers=headers, timeout=PATIENCE) as response:
            if response.status != 200:
                raise Failure(f"status {response.status}: {(await response.text())[:200]}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    answer.take(_decode(line[6:]))
