"""Writes variants of a GGUF file: the same weights under other key-values."""

import struct
from pathlib import Path

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = 32


def write_variant(source: Path, target: Path, **changes: str | int) -> Path:
    """Copies a GGUF file with some key-values changed or added; `__` in a name stands for a dot."""
    data = source.read_bytes()
    version, tensors, pairs = struct.unpack_from("<IQQ", data, 4)
    records, place = _records(data, 24, pairs)
    records |= {key.replace("__", "."): _record(key.replace("__", "."), value) for key, value in changes.items()}
    end = _end_of_tensor_infos(data, place, tensors)
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, len(records)) + b"".join(records.values())
    target.write_bytes(_padded(header + data[place:end]) + data[len(_padded(data[:end])) :])
    return target


def _records(data: bytes, place: int, count: int) -> tuple[dict[str, bytes], int]:
    records = {}
    for _ in range(count):
        start = place
        key, place = _string(data, place)
        (kind,) = struct.unpack_from("<I", data, place)
        place = _after_value(data, place + 4, kind)
        records[key] = data[start:place]
    return records, place


def _after_value(data: bytes, place: int, kind: int) -> int:
    if kind == _STRING:
        return _string(data, place)[1]
    if kind != _ARRAY:
        return place + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", data, place)
    place += 12
    if inner != _STRING:
        return int(place + count * _SIZES[inner])
    for _ in range(count):
        place = _string(data, place)[1]
    return place


def _end_of_tensor_infos(data: bytes, place: int, count: int) -> int:
    for _ in range(count):
        _, place = _string(data, place)
        (dimensions,) = struct.unpack_from("<I", data, place)
        place += 4 + 8 * dimensions + 4 + 8
    return place


def _string(data: bytes, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, place)
    end = place + 8 + length
    return data[place + 8 : end].decode("utf-8", "replace"), end


def _record(key: str, value: str | int) -> bytes:
    if isinstance(value, int):
        return _text(key) + struct.pack("<II", _UINT32, value)
    return _text(key) + struct.pack("<I", _STRING) + _text(value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
