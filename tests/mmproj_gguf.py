"""Writes a projector (mmproj) of Gemma 3's kind with weights drawn at random, small enough for a test."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray

Value = str | int | float | bool | tuple[float, ...]
Tensor = NDArray[numpy.float32]

SIDE, PATCH, MERGE = 32, 4, 4
"""Pixels of a side of what the projector sees, of a patch of it, and patches that become one token."""
TOKENS = (SIDE // PATCH // MERGE) ** 2
_WIDTH, _FEED_FORWARD, _HEADS = 32, 64, 2
_ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9


def write_mmproj(path: Path, *, width: int = 192, **changes: Value) -> Path:
    """Writes a projector for a model with embeddings of that width; `__` in the name of a change stands for a dot."""
    pairs = _pairs(width) | {key.replace("__", "."): value for key, value in changes.items()}
    tensors = dict(_tensors(width))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(_text(key) + _value(value) for key, value in pairs.items())
    infos, data = b"", b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _padded(tensor.tobytes())
    path.write_bytes(_padded(head + infos) + data)
    return path


def _pairs(width: int) -> dict[str, Value]:
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.projector.scale_factor": MERGE,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": _FEED_FORWARD,
        "clip.vision.projection_dim": width,
        "clip.vision.block_count": 1,
        "clip.vision.attention.head_count": _HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_mean": (0.5, 0.5, 0.5),
        "clip.vision.image_std": (0.5, 0.5, 0.5),
    }


def _tensors(width: int) -> Iterator[tuple[str, Tensor]]:
    random = numpy.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        return random.normal(0, 0.1, shape).astype(numpy.float32)

    def layer(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", drawn(outputs, inputs)
        yield f"{name}.bias", drawn(outputs)

    def norm(name: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", numpy.ones(_WIDTH, numpy.float32)
        yield f"{name}.bias", numpy.zeros(_WIDTH, numpy.float32)

    yield "v.patch_embd.weight", drawn(_WIDTH, 3, PATCH, PATCH)
    yield "v.patch_embd.bias", drawn(_WIDTH)
    yield "v.position_embd.weight", drawn((SIDE // PATCH) ** 2, _WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        yield from layer(f"v.blk.0.{name}", _WIDTH, _WIDTH)
    yield from layer("v.blk.0.ffn_up", _FEED_FORWARD, _WIDTH)
    yield from layer("v.blk.0.ffn_down", _WIDTH, _FEED_FORWARD)
    yield from norm("v.blk.0.ln1")
    yield from norm("v.blk.0.ln2")
    yield from norm("v.post_ln")
    yield "mm.input_projection.weight", drawn(_WIDTH, width)
    yield "mm.soft_emb_norm.weight", numpy.ones(_WIDTH, numpy.float32)


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case tuple():
            return struct.pack(f"<IIQ{len(value)}f", _ARRAY, _FLOAT32, len(value), *value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
