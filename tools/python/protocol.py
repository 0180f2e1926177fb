"""What server, zygote and workers say to each other.

Server and zygote send whole datagrams (SOCK_SEQPACKET) with descriptors attached. Server and worker send frames over a
stream: four bytes of length, then MessagePack. Whatever a worker sends after its first cell may be forged: every frame
is of bounded length, of a known type, and carries the number of the call that it answers.
"""

from typing import Any

import msgspec
from msgspec import Struct

from tools.python.plan import Confined, Plan

LONGEST = 1024**2
"""Bytes of a frame, and of a datagram."""
PIECE = 256 * 1024
"""Bytes of a result that a frame carries."""


class Spawn(Struct, frozen=True, tag="spawn"):
    """To the zygote: fork a worker. With its socket, and the file that it is to read where there is one."""

    id: int
    plan: Plan


class Ready(Struct, frozen=True, tag="ready"):
    """From the zygote: all is loaded."""

    libraries: tuple[str, ...]
    """What a worker must be able to read."""
    absent: tuple[str, ...]
    """Packages that were to be loaded and cannot be, each with the reason."""


class Spawned(Struct, frozen=True, tag="spawned"):
    """From the zygote: a worker is there. With a descriptor of its process, pidfd_open(2)."""

    id: int


class NotSpawned(Struct, frozen=True, tag="not_spawned"):
    """From the zygote: a worker could not be forked."""

    id: int
    reason: str


class Exited(Struct, frozen=True, tag="exited"):
    """From the zygote: a worker has ended."""

    id: int
    status: int
    """As waitpid(2) gives it."""
    cpu: float
    """Seconds."""


class Hello(Struct, frozen=True, tag="hello"):
    """From a worker, first of all: it is confined."""

    confined: Confined


class Unfit(Struct, frozen=True, tag="unfit"):
    """From a worker: it cannot be confined as it must, and ends."""

    layer: str
    reason: str


class Run(Struct, frozen=True, tag="run"):
    """To a worker: run a cell."""

    number: int
    code: str
    seconds: float
    """After which it is interrupted."""
    output: int
    """Characters of output that are wanted."""


class Call(Struct, frozen=True, tag="call"):
    """To a worker that will see nothing else: call a function of ours, outside of the language layer."""

    module: str
    function: str
    options: dict[str, Any]


class Printed(Struct, frozen=True, tag="printed"):
    """From a worker: a piece of output."""

    number: int
    text: str


class Ran(Struct, frozen=True, tag="ran"):
    """From a worker: a cell has ended."""

    number: int
    value: str = ""
    error: str | None = None
    interrupted: bool = False
    """Whether it was stopped for its time."""
    dropped: int = 0
    """Characters of output that were too many."""


class Piece(Struct, frozen=True, tag="piece"):
    """From a worker: the next bytes of a function's result, as JSON."""

    data: bytes


class Called(Struct, frozen=True, tag="called"):
    """From a worker: a function has ended."""

    error: str | None = None


FromServer = Run | Call
FromWorker = Hello | Unfit | Printed | Ran | Piece | Called
FromZygote = Ready | Spawned | NotSpawned | Exited

HEAD = 4
"""Bytes of the length before a frame."""
_from_worker = msgspec.msgpack.Decoder(FromWorker)

encode = msgspec.msgpack.Encoder().encode


class Forged(Exception):
    """What came is not what a worker sends."""


def frame(message: Struct) -> bytes:
    """A message with its length before it."""
    data = encode(message)
    return len(data).to_bytes(HEAD, "big") + data


def length(head: bytes | bytearray) -> int:
    """The length that four bytes tell. Raises Forged where no frame has such."""
    value = int.from_bytes(head, "big")
    if value > LONGEST:
        raise Forged(f"a frame of {value} bytes")
    return value


def take(received: bytearray) -> FromWorker | None:
    """Takes the first message off what a worker has sent; None where it is not complete yet. Raises Forged."""
    if len(received) < HEAD or len(received) < HEAD + (size := length(received[:HEAD])):
        return None
    data = bytes(received[HEAD : HEAD + size])
    del received[: HEAD + size]
    try:
        message: FromWorker = _from_worker.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Forged(str(error)) from error
    return message
