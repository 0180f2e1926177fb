"""Reads what a GGUF file says of itself: the key-values at its start, without weights and without llama.cpp."""

import os
from pathlib import Path
from struct import Struct
from typing import BinaryIO

Scalar = str | int | float | bool

_UINT32, _STRING, _ARRAY, _UINT64 = 4, 8, 9, 10

_NUMBERS = {
    kind: Struct("<" + letter)
    for kind, letter in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}


class NotGguf(Exception):
    """The file is not a GGUF file that can be read; the text says why."""


def read_metadata(path: Path) -> dict[str, Scalar]:
    """The key-values of a GGUF file, without arrays such as the vocabulary."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise NotGguf("it does not begin with the letters GGUF")
        version = _number(file, _UINT32)
        if version not in (2, 3):
            raise NotGguf(f"its GGUF version is {version}, and only 2 and 3 can be read")
        _number(file, _UINT64)  # how many tensors follow
        return _pairs(file, int(_number(file, _UINT64)))


def _pairs(file: BinaryIO, count: int) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for _ in range(count):
        key = _text(file)
        kind = int(_number(file, _UINT32))
        if kind == _ARRAY:
            _skip_array(file)
        else:
            found[key] = _text(file) if kind == _STRING else _number(file, kind)
    return found


def _skip_array(file: BinaryIO) -> None:
    kind = int(_number(file, _UINT32))
    count = int(_number(file, _UINT64))
    if kind == _STRING:
        for _ in range(count):
            _skip(file, int(_number(file, _UINT64)))
    else:
        _skip(file, count * _format(kind).size)


def _text(file: BinaryIO) -> str:
    return _take(file, int(_number(file, _UINT64))).decode("utf-8", "replace")


def _number(file: BinaryIO, kind: int) -> int | float | bool:
    form = _format(kind)
    (value,) = form.unpack(_take(file, form.size))
    return value  # type: ignore[no-any-return]


def _format(kind: int) -> Struct:
    if kind not in _NUMBERS:
        raise NotGguf(f"it holds a value of the unknown type {kind}")
    return _NUMBERS[kind]


def _take(file: BinaryIO, count: int) -> bytes:
    # A length comes from the file: it is compared before memory is asked for.
    data = file.read(count) if count <= _size(file) else b""
    if len(data) < count:
        raise NotGguf("it is cut short")
    return data


def _skip(file: BinaryIO, count: int) -> None:
    if count > _size(file):
        raise NotGguf("it is cut short")
    file.seek(count, os.SEEK_CUR)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
