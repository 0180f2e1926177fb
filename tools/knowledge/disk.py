"""Files that are there whole or not at all, and tell when they were damaged."""

import os
import zlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Damaged(Exception):
    """A file is missing, cut off, or not what was written."""


def write(path: Path, data: Any) -> None:
    """Puts bytes at a path, in place of what is there; after a crash there is the one or the other.

    Args:
        path: where to; the folder exists.
        data: an object with the bytes.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, value: msgspec.Struct) -> None:
    """Writes a value with its check sum."""
    body = msgspec.msgpack.encode(value)
    write(path, zlib.crc32(body).to_bytes(4, "big") + body)


def load(path: Path, kind: type[T]) -> T:
    """The value that was saved.

    Raises:
        Damaged: it is not there, or not as it was written.
    """
    try:
        data = path.read_bytes()
        if zlib.crc32(data[4:]) != int.from_bytes(data[:4], "big"):
            raise Damaged(str(path))
        return msgspec.msgpack.decode(data[4:], type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise Damaged(str(path)) from error
