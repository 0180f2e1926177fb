"""What the server and an engine process say to each other: JSON with its length before it, over one socket.

The server sends `Load` once, then requests; each has an id, so that any number may be under way. The engine answers
with `Ready`, then for each request `Started`, pieces or vectors, and at last `Done`, `Refused`, `TooLong` or `Broke`.
"""

from asyncio import StreamReader
from collections.abc import Callable
from typing import BinaryIO

import msgspec
from msgspec import Struct

from models.backend import ModelRequest
from models.messages import Delta, Usage

_LONGEST = 256 * 1024 * 1024


class Load(Struct, frozen=True, tag="load"):
    """The model to load, and how."""

    path: str
    n_ctx: int
    """Tokens that one request may have, prompt and answer together."""
    n_gpu_layers: int
    threads: int
    mmap: bool
    mlock: bool
    embed: bool
    slots: int = 1
    """Requests that are worked on at once."""
    cells: int = 0
    """Tokens that the key-value cache holds for all requests together; 0: `n_ctx`."""
    image_pixels: int = 25_000_000
    """Pixels that a picture may have."""
    projector: str = ""
    """The file that turns pictures into what the model understands; empty: the model cannot see."""
    repack: bool = True
    """Whether llama.cpp may rearrange the weights for this CPU (its "extra buffer types": AMX and others)."""


class Chat(Struct, frozen=True, tag="chat"):
    """Asks for an answer."""

    id: int
    request: ModelRequest


class Embed(Struct, frozen=True, tag="embed"):
    """Asks for vectors."""

    id: int
    inputs: tuple[str, ...]
    dimensions: int | None = None


class Cancel(Struct, frozen=True, tag="cancel"):
    """Nobody waits for this request any more."""

    id: int


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    context: int


class Unloadable(Struct, frozen=True, tag="unloadable"):
    """The model cannot be loaded; the process ends."""

    message: str


class Report(Struct, frozen=True, tag="report"):
    """What the engine does now, and what it has done since it was loaded: every second while it works, and at rest."""

    slots: int
    active: int
    """Requests in slots."""
    waiting: int
    cells: int
    """Tokens that the key-value cache can hold."""
    cells_used: int
    """Of these, the ones that hold a token, for requests under way or remembered from earlier ones."""
    prompt_tokens: int
    cached_tokens: int
    """The share of `prompt_tokens` that was not computed again."""
    generated_tokens: int
    steps: int
    """Batches that llama.cpp computed."""
    computing: float
    """Seconds that these took inside llama.cpp."""
    overhead: float
    """Seconds that were spent between them while there was work: sampling, text, sockets."""


class Started(Struct, frozen=True, tag="started"):
    """Work on a request begins."""

    id: int


class Piece(Struct, frozen=True, tag="piece"):
    """The next piece of an answer."""

    id: int
    delta: Delta


class Done(Struct, frozen=True, tag="done"):
    """The answer is complete, or was cancelled."""

    id: int


class Vectors(Struct, frozen=True, tag="vectors"):
    """The vectors asked for."""

    id: int
    vectors: list[list[float]]
    usage: Usage


class Refused(Struct, frozen=True, tag="refused"):
    """The request cannot be served as asked."""

    id: int
    message: str
    param: str | None
    code: str | None


class TooLong(Struct, frozen=True, tag="too_long"):
    """The prompt does not fit."""

    id: int
    limit: int
    tokens: int


class Broke(Struct, frozen=True, tag="broke"):
    """The engine failed on this request, and goes on."""

    id: int
    message: str


ToEngine = Load | Chat | Embed | Cancel
Reply = Started | Piece | Done | Vectors | Refused | TooLong | Broke
FromEngine = Ready | Unloadable | Report | Reply
Send = Callable[[FromEngine], None]

# Not MessagePack: a seed or a bound in a schema may have more than 64 bits.
_encoder = msgspec.json.Encoder()
_to_engine: msgspec.json.Decoder[ToEngine] = msgspec.json.Decoder(ToEngine)
_from_engine: msgspec.json.Decoder[FromEngine] = msgspec.json.Decoder(FromEngine)


def frame(message: ToEngine | FromEngine) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def read(file: BinaryIO) -> ToEngine | None:
    """The server's next message, in the engine; None when the server is gone."""
    head = file.read(4)
    body = file.read(int.from_bytes(head, "big"))
    return _to_engine.decode(body) if body else None


async def receive(reader: StreamReader) -> FromEngine:
    """The engine's next message, in the server. Raises EOFError when the engine is gone."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > _LONGEST:
        raise EOFError("a message of impossible length")
    return _from_engine.decode(await reader.readexactly(length))
