"""HTTP as the network backends speak it: bodies out as bytes, answers in as lines, failures as model errors."""

import asyncio
import os
import re
import time
from base64 import b64encode
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime

from aiohttp import (
    ClientConnectionError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from models.backend import BackendFailed, BackendTimeout, ContextTooLong, ModelError, Unavailable

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes in one line of a streamed answer."""
BODY_LIMIT = 256 * 1024 * 1024
"""Bytes in an answer that is read whole: 2,048 vectors of 4,096 numbers need about 100 MB."""
ERROR_LIMIT = 64 * 1024
LISTING_TIMEOUT = 10.0
"""Seconds for a short question, such as which models there are."""

# uvicorn, under vLLM and many others, closes a connection that was idle for 5 s.
KEEPALIVE = 4.0
DRAIN_TIMEOUT = 0.5
"""Seconds that a complete answer's body gets to end, so that its connection can serve again."""


class Site:
    """One base URL of an upstream: its resources, and a name for it that holds no credential."""

    def __init__(self, base: str) -> None:
        url = URL(base if "://" in base else f"http://{base}")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("an upstream's base URL must be like http://host:port/path")
        self.headers = {"Authorization": _basic(url.user, url.password or "")} if url.user else None
        self._base = url.with_user(None).with_fragment(None)
        self._urls: dict[str, URL] = {}
        self.label = str(self._base.with_query(None)).rstrip("/")

    def url(self, path: str) -> URL:
        """The URL of `path` below the base; a query of the base is kept."""
        if path not in self._urls:
            below = f"{self._base.raw_path.rstrip('/')}/{path}"
            self._urls[path] = self._base.with_path(below, encoded=True).with_query(self._base.query)
        return self._urls[path]


class Http:
    """The connections of one backend to its sites."""

    def __init__(
        self, name: str, *, timeout: float, connect_timeout: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._headers = {"User-Agent": "drover", "Accept-Encoding": "identity", **(headers or {})}
        self._timeout = ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=timeout)
        self._brief = ClientTimeout(total=min(timeout, LISTING_TIMEOUT), sock_connect=connect_timeout)
        self._pooled: ClientSession | None = None
        self._fresh: ClientSession | None = None

    async def get(self, site: Site, path: str) -> ClientResponse:
        """Asks for a resource that is quickly told; returns at the response's headers."""
        return await self._request("GET", site, path, None, self._brief)

    async def ask(self, site: Site, path: str, body: bytes) -> ClientResponse:
        """A short question that is put by POST."""
        return await self._request("POST", site, path, body, self._brief)

    async def post(self, site: Site, path: str, body: bytes) -> ClientResponse:
        """Sends work; returns at the response's headers."""
        return await self._request("POST", site, path, body, self._timeout)

    async def body(self, response: ClientResponse, limit: int = BODY_LIMIT) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        size = 0
        try:
            while part := await response.content.readany():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise BackendFailed(f"{self.name} sent an answer of more than {limit:,} bytes.")
        except (ClientError, OSError) as error:
            raise self.broken_off(error) from error
        finally:
            response.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def lines(self, response: ClientResponse) -> "Lines":
        """A reader of the body's lines."""
        return Lines(self, response)

    async def close(self) -> None:
        """Closes all connections."""
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()
        self._pooled = self._fresh = None

    async def _request(
        self, method: str, site: Site, path: str, body: bytes | None, timeout: ClientTimeout
    ) -> ClientResponse:
        try:
            try:
                return await self._send(self._session(), method, site, path, body, timeout)
            except ClientConnectionError as error:
                if isinstance(error, ClientConnectorError | TimeoutError):
                    raise
                # Nothing came back: most likely the connection was kept alive, and the upstream closed it meanwhile.
                return await self._send(self._fresh_session(), method, site, path, body, timeout)
        except (ClientError, OSError) as error:
            raise self._unanswered(error) from error

    async def _send(
        self, session: ClientSession, method: str, site: Site, path: str, body: bytes | None, timeout: ClientTimeout
    ) -> ClientResponse:
        # A redirected POST becomes a GET (openai.md 1): better an error that shows the wrong base URL.
        return await session.request(
            method, site.url(path), data=body, headers=site.headers, timeout=timeout, allow_redirects=False
        )

    def _session(self) -> ClientSession:
        if self._pooled is None:
            self._pooled = self._new_session(TCPConnector(limit=0, keepalive_timeout=KEEPALIVE))
        return self._pooled

    def _fresh_session(self) -> ClientSession:
        if self._fresh is None:
            self._fresh = self._new_session(TCPConnector(limit=0, force_close=True))
        return self._fresh

    def _new_session(self, connector: TCPConnector) -> ClientSession:
        headers = {"Content-Type": "application/json", **self._headers}
        return ClientSession(connector=connector, headers=headers, cookie_jar=DummyCookieJar())

    def _unanswered(self, error: Exception) -> ModelError:
        if isinstance(error, ConnectionTimeoutError):
            return Unavailable(f"{self.name} does not answer: no connection in time.")
        if isinstance(error, TimeoutError):
            return BackendTimeout(f"{self.name} did not answer in time.")
        if isinstance(error, ClientConnectorError):
            return Unavailable(f"{self.name} does not answer: {_reason(error)}.")
        if isinstance(error, ClientConnectionError | OSError):
            return Unavailable(f"{self.name} closed the connection without an answer.")
        return BackendFailed(f"{self.name} sent something that is not HTTP.")

    def broken_off(self, error: Exception) -> ModelError:
        """What it means that a body ended in `error`."""
        if isinstance(error, TimeoutError):
            return BackendTimeout(f"{self.name} fell silent in the middle of its answer.")
        return BackendFailed(f"{self.name}'s answer ended in the middle.")


class Lines:
    """The lines of a body as they come in, several at a time."""

    def __init__(self, http: Http, response: ClientResponse) -> None:
        self._http = http
        self._content = response.content
        self._begun: list[bytes] = []
        self._length = 0

    async def read(self) -> list[bytes]:
        """The next lines, without their `\\n`; none at the end of the body."""
        try:
            while data := await self._content.readany():
                if lines := self._completed(data.split(b"\n")):
                    return lines
        except (ClientError, OSError) as error:
            raise self._http.broken_off(error) from error
        rest = b"".join(self._begun)
        self._begun.clear()
        return [rest] if rest else []

    async def drain(self) -> None:
        """Reads the end of the body of an answer that is complete, so that its connection can serve again."""
        if self._content.at_eof():
            return
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while await self.read():
                    pass
        except (ModelError, TimeoutError):
            # The answer was complete: all that is lost is the connection, which is closed instead.
            return

    def _completed(self, pieces: list[bytes]) -> list[bytes]:
        """Puts what was begun before the first piece, keeps the last, and returns what is between."""
        begun = self._begun
        if begun and len(pieces) > 1:
            pieces[0] = b"".join((*begun, pieces[0]))
            begun.clear()
            self._length = 0
        last = pieces.pop()
        if last:
            begun.append(last)
            self._length += len(last)
            if self._length > LINE_LIMIT:
                raise BackendFailed(f"{self._http.name} sent a line of more than {LINE_LIMIT:,} bytes.")
        return pieces


def retry_after(headers: Mapping[str, str], default: float = 2.0) -> float:
    """The seconds that a refusal asks to wait."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return default


def context_error(message: str, kinds: Collection[str | int | None], limit: int | None = None) -> ContextTooLong | None:
    """The error that `message`, or one of its codes and types, means if it complains of a prompt that is too long."""
    if CONTEXT_CODES.isdisjoint(kinds) and not CONTEXT_COMPLAINT.search(message):
        return None
    if limit is None and (number := CONTEXT_LIMIT.search(message)):
        limit = int(number[1])
    return ContextTooLong(limit, cut(OPENAI_COMPLAINT.sub("", message)))


def cut(text: str, length: int = 300) -> str:
    """`text`, shortened to be shown in an error."""
    return text if len(text) <= length else f"{text[:length]}…"


# OpenAI and vLLM say "maximum context length is N tokens", llama-server "exceeds the available context size (N
# tokens)", Ollama "the input length exceeds the context length".
CONTEXT_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
CONTEXT_COMPLAINT = re.compile(
    r"maximum context length|exceed\w*.{0,40}context (length|size|window)|context (length|size|window).{0,40}exceed",
    re.IGNORECASE,
)
CONTEXT_LIMIT = re.compile(r"context (?:length|size|window)\D{0,20}(\d+)", re.IGNORECASE)
OPENAI_COMPLAINT = re.compile(r"This model's maximum context length is \d+ tokens\.\s*")


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _reason(error: ClientConnectorError) -> str:
    """Why there is no connection, without the address, which is not the caller's business."""
    if isinstance(error, ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, ClientSSLError):
        return "no TLS connection"
    if error.errno:
        return os.strerror(error.errno).lower()
    return "no connection"
