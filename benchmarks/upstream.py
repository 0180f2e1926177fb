"""A canned OpenAI-compatible upstream that costs next to nothing: the same answer for everyone, whole or in 64 chunks.

python benchmarks/upstream.py --port 9001
"""

import argparse
import asyncio
import json
import signal
from typing import cast

import uvloop

MODEL = "canned"
WORDS = [f" word{number:02d}" for number in range(64)]
"""The answer, a chunk for each: all different, so that a lost or repeated one shows."""
USAGE = {"prompt_tokens": 42, "completion_tokens": len(WORDS), "total_tokens": 42 + len(WORDS)}
COMMON = {"id": "chatcmpl-canned", "created": 1750000000, "model": MODEL}
HEAD_LIMIT = 65536


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _piece(data: bytes) -> bytes:
    """One event of a stream, as one piece of a chunked body."""
    frame = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _piece(_json({**COMMON, "object": "chat.completion.chunk", "choices": [choice]}))


def _completion() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _json({**COMMON, "object": "chat.completion", "choices": [choice], "usage": USAGE})


PLAIN = _response("200 OK", _completion())
MODELS = _response("200 OK", _json({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1}]}))
NOT_FOUND = _response("404 Not Found", _json({"error": {"message": "no such URL", "type": "invalid_request_error"}}))
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_USAGE = _piece(_json({**COMMON, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}))
STREAM_END = _piece(b"[DONE]") + b"0\r\n\r\n"
FIRST = STREAM_HEAD + _chunk({"role": "assistant", "content": ""})
CHUNKS = [_chunk({"content": word}) for word in WORDS]
FINISH = _chunk({}, "stop")


class Upstream(asyncio.Protocol):
    """One connection: reads requests as far as it must, writes canned answers."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport to write to."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answers each request that is complete."""
        self._buffer += data
        while (request := self._next()) is not None:
            self._answer(*request)

    def _next(self) -> tuple[bytes, bytes] | None:
        """The head and the body of the next request, once all of it is there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                self._transport.close()
            return None
        head = self._buffer[:end]
        stop = end + 4 + _content_length(head)
        if len(self._buffer) < stop:
            return None
        body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
        return head, body

    def _answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/models"):
            self._transport.write(MODELS)
        elif not path.endswith(b"/chat/completions"):
            self._transport.write(NOT_FOUND)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._transport.write(FIRST)
            self._soon(0, b'"include_usage":true' in body or b'"include_usage": true' in body)
        else:
            self._transport.write(PLAIN)

    def _soon(self, index: int, usage: bool) -> None:
        if self._pace:
            self._loop.call_later(self._pace, self._step, index, usage)
        else:
            self._loop.call_soon(self._step, index, usage)

    def _step(self, index: int, usage: bool) -> None:
        """Writes one chunk, by itself, as a model that has just made a token would; the next one follows."""
        if self._transport.is_closing():
            return
        if index < len(CHUNKS):
            self._transport.write(CHUNKS[index])
            self._soon(index + 1, usage)
        else:
            self._transport.write(FINISH + STREAM_USAGE + STREAM_END if usage else FINISH + STREAM_END)


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"\r\ncontent-length:")
    return int(lower[start + 17 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


async def serve(port: int, pace: float) -> None:
    """Serves on 127.0.0.1 until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Upstream(pace), "127.0.0.1", port)
    await stop.wait()
    server.close()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--pace", type=float, default=0.0, help="milliseconds between two chunks (default: none)")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.pace / 1000))


if __name__ == "__main__":
    main()
