"""web_search: finds pages, by one of several providers."""

import asyncio
import html
import re
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import ClientError
from msgspec import Meta, Struct

from tools.tool import ToolError
from tools.web.connections import Connections

TIMEOUT = 15.0
"""Seconds until the provider must have answered."""
MOST_BYTES = 4_000_000
LONGEST_SNIPPET = 600
LONGEST_TITLE = 200
LONGEST_URL = 2_000


class Hit(Struct, frozen=True):
    """A page that was found, in the provider's words."""

    url: str
    title: str | None = None
    content: str | None = None


class Question(Struct, frozen=True):
    """The request that asks a provider."""

    url: str
    headers: dict[str, str]
    query: dict[str, str] | None = None
    body: Any = None
    """Sent as JSON by POST; None: it is a GET."""


class Provider(Protocol):
    """Searches the web. Its address is the operator's choice, and may be private."""

    name: str

    def question(self, query: str, n: int) -> Question:
        """How to ask for `n` pages."""
        ...

    def hits(self, answer: bytes) -> Sequence[Hit]:
        """The pages in an answer. Raises msgspec.DecodeError."""
        ...


class Tavily:
    """https://docs.tavily.com/documentation/api-reference/endpoint/search"""

    name = "Tavily"

    def __init__(self, key: str, base: str = "https://api.tavily.com") -> None:
        self._key = key
        self._base = base.rstrip("/")

    def question(self, query: str, n: int) -> Question:
        """How to ask for `n` pages."""
        body = {"query": query, "max_results": n}
        return Question(f"{self._base}/search", {"Authorization": f"Bearer {self._key}"}, body=body)

    def hits(self, answer: bytes) -> Sequence[Hit]:
        """The pages in an answer."""
        return msgspec.json.decode(answer, type=_Results).results


class SearXNG:
    """https://docs.searxng.org/dev/search_api.html; `json` must be among the `search.formats` of its settings."""

    name = "SearXNG"

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")

    def question(self, query: str, n: int) -> Question:
        """How to ask; SearXNG gives as many pages as it likes."""
        return Question(f"{self._base}/search", {}, {"q": query, "format": "json"})

    def hits(self, answer: bytes) -> Sequence[Hit]:
        """The pages in an answer."""
        return msgspec.json.decode(answer, type=_Results).results


class Brave:
    """https://api-dashboard.search.brave.com/app/documentation/web-search/get-started"""

    name = "Brave Search"

    def __init__(self, key: str, base: str = "https://api.search.brave.com") -> None:
        self._key = key
        self._base = base.rstrip("/")

    def question(self, query: str, n: int) -> Question:
        """How to ask for `n` pages."""
        headers = {"X-Subscription-Token": self._key, "Accept": "application/json"}
        return Question(f"{self._base}/res/v1/web/search", headers, {"q": query, "count": str(n)})

    def hits(self, answer: bytes) -> Sequence[Hit]:
        """The pages in an answer, without the marks that Brave puts into it."""
        found = msgspec.json.decode(answer, type=_BraveAnswer).web
        return [
            Hit(hit.url, hit.title and _unmarked(hit.title), hit.description and _unmarked(hit.description))
            for hit in (found.results if found else ())
        ]


class _Results(Struct):
    results: list[Hit] = []


class _BraveHit(Struct):
    url: str
    title: str | None = None
    description: str | None = None


class _BraveHits(Struct):
    results: list[_BraveHit] = []


class _BraveAnswer(Struct):
    web: _BraveHits | None = None


_TAG = re.compile(r"</?[a-z]{1,10}>")


def _unmarked(text: str) -> str:
    return html.unescape(_TAG.sub("", text))


class Search:
    """Finds pages.

    Args:
        connections: the way to the provider.
        provider: who searches; None: nobody.
    """

    def __init__(self, connections: Connections, provider: Provider | None, *, timeout: float = TIMEOUT) -> None:
        self._connections = connections
        self._provider = provider
        self._timeout = timeout

    def unavailable(self) -> str | None:
        """Why nothing can be searched."""
        return None if self._provider else "no provider is set (WEB_SEARCH_PROVIDER)."

    async def web_search(
        self, query: Annotated[str, Meta(min_length=1, max_length=400)], n: Annotated[int, Meta(ge=1, le=20)] = 5
    ) -> str:
        """Searches the web; tells title, URL and a passage of each page found. Read the pages with web_fetch.

        Args:
            query: what to search for, as for a search engine.
            n: how many pages.
        """
        if self._provider is None:
            raise ToolError(f"Nothing can be searched: {self.unavailable()}")
        try:
            hits = self._provider.hits(await self._ask(self._provider, self._provider.question(query, n)))
        except msgspec.MsgspecError:
            raise ToolError(f"{self._provider.name} sent an answer that is not one.") from None
        told = [_told(number, hit) for number, hit in enumerate(filter(_is_page, hits), 1) if number <= n]
        return "\n\n".join(told) or "Nothing was found."

    async def _ask(self, provider: Provider, question: Question) -> bytes:
        session = self._connections.trusted
        try:
            async with (
                asyncio.timeout(self._timeout),
                session.request(
                    "GET" if question.body is None else "POST",
                    question.url,
                    headers=question.headers,
                    params=question.query,
                    json=question.body,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise ToolError(_refusal(provider, response.status))
                data = bytearray()
                while piece := await response.content.readany():
                    data += piece
                    if len(data) > MOST_BYTES:
                        raise ToolError(f"{provider.name} sent too much.")
                return bytes(data)
        # Neither the error's text, which may have the address, nor its cause is told.
        except TimeoutError:
            raise ToolError(f"{provider.name} did not answer within {self._timeout:g} seconds.") from None
        except (ClientError, OSError):
            raise ToolError(f"{provider.name} does not answer.") from None


def _refusal(provider: Provider, status: int) -> str:
    match status:
        case 401 | 403 if isinstance(provider, SearXNG):
            return "SearXNG refuses: its JSON format may not be enabled. Do without a search."
        case 401 | 403:
            return f"{provider.name} refuses this server's API key. Do without a search."
        case 429 | 432 | 433:  # the last two are Tavily's: the plan's limit
            return f"{provider.name} allows no more searches now. Try later, or do without."
    return f"{provider.name} failed with status {status}. Try again, or do without a search."


def _is_page(hit: Hit) -> bool:
    return hit.url.startswith(("http://", "https://")) and len(hit.url) <= LONGEST_URL and hit.url.isprintable()


def _told(number: int, hit: Hit) -> str:
    lines = (_line(hit.title, LONGEST_TITLE), hit.url, _line(hit.content, LONGEST_SNIPPET))
    return f"{number}. " + "\n   ".join(filter(None, lines))


def _line(text: str | None, longest: int) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= longest else f"{text[:longest]}…"
