"""HTTP on the socket: uvicorn's, with our errors for what is no HTTP, and an end to requests that never begin."""

import asyncio

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge import SECURITY
from gateway.errors import bad_request
from gateway.ids import new_id


class Protocol(HttpToolsProtocol):
    """One connection."""

    patience = 60.0
    """Seconds that a client may take to send a request's head, or to send anything at all."""
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_expecting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """A request's head has come."""
        self._stop_expecting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, in the same words as every other error, and hangs up."""
        error = bad_request(f"The request is not valid HTTP: {msg.rstrip('.')}.", code=None)
        body = msgspec.json.encode(error.body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", new_id("req_").encode()),
            *SECURITY,
        ]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop_expecting()
        self._head_due = self.loop.call_later(self.patience, self.transport.close)

    def _stop_expecting(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None
