"""A load generator that costs little: some connections, on each one request after the other, every answer checked.

    python benchmarks/load.py http://127.0.0.1:8000/v1/chat/completions --header "Authorization: Bearer sk-…" \\
        --model canned --connections 16 --seconds 5 --stream --expect "the answer"

Prints one JSON object. A stream is right if its pieces are the words of the expected answer, in order, followed by
`data: [DONE]`; every 32nd answer of a connection is parsed whole besides.
"""

import argparse
import asyncio
import gc
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import cast
from urllib.parse import urlsplit

import uvloop

ATTEMPTS_LIMIT = 10
"""Wrong answers after which a connection gives up."""
PARSED_ONE_IN = 32
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant. Answer briefly, and say so where you do not know."},
    {"role": "user", "content": "Name the words from the first to the last, one after the other, and nothing else."},
]


class WrongAnswer(Exception):
    """What came is not the expected answer."""


@dataclass(frozen=True)
class Job:
    """What to ask, and how to know a right answer."""

    host: str
    port: int
    request: bytes
    words: tuple[bytes, ...]
    stream: bool
    timeout: float


@dataclass(frozen=True)
class Answer:
    """Times of one right answer, in seconds of `perf_counter`; uvloop's own clock counts milliseconds only."""

    asked: float
    first: float
    ended: float


@dataclass(frozen=True)
class Result:
    """What was measured; times in milliseconds."""

    rate: float
    counted: int
    """Answers that ended within the window."""
    total: int
    """All answers, those of the warm-up too."""
    wrong: int
    example: str
    p50: float
    p99: float
    first_p50: float
    """Until the first word was there."""


class Connection(asyncio.Protocol):
    """One connection, one request under way at most."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._first_word = job.words[0]
        self._buffer = bytearray()
        self._head = -1
        self._length: int | None = None
        self._first = 0.0
        self._waiter: asyncio.Future[bytes] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport to write to."""
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """A request under way has failed."""
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(WrongAnswer(f"connection closed after {bytes(self._buffer[-200:])!r}"))

    def data_received(self, data: bytes) -> None:
        """Collects the response; its end wakes the one who asked."""
        buffer = self._buffer
        buffer += data
        if not self._first and self._first_word in buffer:
            self._first = perf_counter()
        if self._head < 0:
            self._read_head()
        if self._complete() and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(bytes(buffer))

    async def ask(self) -> Answer:
        """Sends the request and checks the answer.

        Raises:
            WrongAnswer: it is not the expected one, or none came in time.
        """
        self._buffer.clear()
        self._head, self._length, self._first = -1, None, 0.0
        self._waiter = self._loop.create_future()
        asked = perf_counter()
        timer = self._loop.call_later(self._job.timeout, self._give_up)
        self._transport.write(self._job.request)
        try:
            self.response = await self._waiter
        finally:
            timer.cancel()
        return Answer(asked, self._first, perf_counter())

    @property
    def body(self) -> bytes:
        """The body of the last response."""
        body = self.response[self._head :]
        return body if self._length is not None else _dechunked(body)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.abort()

    def _give_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(WrongAnswer("no answer in time"))
        self._transport.abort()

    def _read_head(self) -> None:
        if (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            self._head = end + 4
            match = re.search(rb"\r\ncontent-length: *(\d+)", self._buffer[:end].lower())
            self._length = int(match[1]) if match else None

    def _complete(self) -> bool:
        if self._head < 0:
            return False
        if self._length is not None:
            return len(self._buffer) >= self._head + self._length
        return self._buffer.endswith(b"\r\n0\r\n\r\n")


def _dechunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    start = 0
    while True:
        end = body.index(b"\r\n", start)
        size = int(body[start:end], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        start = end + size + 4


def check(job: Job, response: bytes, body: bytes, *, parsed: bool) -> None:
    """Refuses an answer that is not the expected one.

    Raises:
        WrongAnswer: with the beginning of what came.
    """
    if not response.startswith(b"HTTP/1.1 200"):
        raise WrongAnswer(f"{response[:300]!r}")
    position = 0
    for word in job.words:
        position = body.find(word, position)
        if position < 0:
            raise WrongAnswer(f"{word!r} is missing in {body[:300]!r}")
    if job.stream and not body.rstrip().endswith(b"data: [DONE]"):
        raise WrongAnswer(f"no [DONE] after {body[-300:]!r}")
    if job.stream and body.count(b"data: ") <= len(job.words):
        raise WrongAnswer(f"fewer than {len(job.words)} chunks in {body[:300]!r}")
    if parsed and (_pieces(body) if job.stream else [_content(body)]) != _expected(job):
        raise WrongAnswer(f"another answer: {body[:300]!r}")


def _expected(job: Job) -> list[str]:
    words = [word.decode() for word in job.words]
    return words if job.stream else ["".join(words)]


def _content(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def _pieces(body: bytes) -> list[str]:
    """The texts of a stream's chunks, as a client reads them."""
    lines = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    choices = [choice for line in lines if line != b"[DONE]" for choice in json.loads(line)["choices"]]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


@dataclass
class Tally:
    """What all connections have seen so far."""

    answers: list[Answer]
    wrong: int = 0
    example: str = ""


async def _work(job: Job, until: float, tally: Tally) -> None:
    """One connection's part: asks until the time is over; opens a new connection where the server closed the old."""
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    number = wrong = 0
    while perf_counter() < until and wrong < ATTEMPTS_LIMIT:
        try:
            if connection is None or not connection.open:
                _, connection = await loop.create_connection(lambda: Connection(job), job.host, job.port)
            answer = await connection.ask()
            check(job, connection.response, connection.body, parsed=number % PARSED_ONE_IN == 0)
            tally.answers.append(answer)
        except (OSError, WrongAnswer, ValueError, LookupError) as error:
            wrong += 1
            tally.wrong += 1
            tally.example = tally.example or f"{type(error).__name__}: {error}"
        number += 1
    if connection is not None:
        connection.close()


async def run(job: Job, connections: int, seconds: float, warmup: float) -> Result:
    """Puts the load on for `warmup` + `seconds` seconds; only what ends in the latter counts."""
    began = perf_counter() + warmup
    until = began + seconds
    tally = Tally([])
    await asyncio.gather(*(_work(job, until, tally) for _ in range(connections)))
    counted = [answer for answer in tally.answers if began <= answer.ended <= until]
    times = [answer.ended - answer.asked for answer in counted]
    return Result(
        rate=len(counted) / seconds,
        counted=len(counted),
        total=len(tally.answers),
        wrong=tally.wrong,
        example=tally.example,
        p50=_quantile(times, 0.50),
        p99=_quantile(times, 0.99),
        first_p50=_quantile([answer.first - answer.asked for answer in counted], 0.50),
    )


def _quantile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds; NaN of nothing."""
    ordered = sorted(seconds)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000 if ordered else float("nan")


def _request(url: str, headers: Sequence[str], model: str, stream: bool) -> bytes:
    parts = urlsplit(url)
    body = json.dumps({"model": model, "messages": QUESTION, "stream": stream}, separators=(",", ":")).encode()
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--header", action="append", default=[], help="may be repeated")
    parser.add_argument("--model", default="canned")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before, which do not count")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for one answer")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--expect", required=True, help="the whole text of the right answer")
    return parser.parse_args()


def main() -> None:
    """Reads the command line, puts the load on, prints the result."""
    options = _options()
    parts = urlsplit(options.url)
    words = tuple(word.encode() for word in re.findall(r"\s*\S+", options.expect))
    request = _request(options.url, options.header, options.model, options.stream)
    job = Job(parts.hostname or "127.0.0.1", parts.port or 80, request, words, options.stream, options.timeout)
    gc.disable()
    began = process_time()
    result = uvloop.run(run(job, options.connections, options.seconds, options.warmup))
    print(json.dumps({**asdict(result), "cpu": process_time() - began}))


if __name__ == "__main__":
    main()
