"""Pictures for a model that has a projector (mmproj), by llama.cpp's mtmd. In the engine process only."""

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

import llama_cpp
import numpy
from llama_cpp import mtmd_cpp as mtmd
from numpy.typing import NDArray

from models.backend import InvalidRequest
from models.llama_cpp.cache import Tokens
from models.llama_cpp.context import DecodeFailed, Embeddings, NoRoom, Stopped, Unloadable
from models.llama_cpp.pictures import PictureFile

REMEMBERED = 256 * 1024 * 1024
"""Bytes of embeddings that are kept, so that a picture of an earlier turn is not encoded again."""

_NO_ROOM, _ABORTED = 1, 2
_LARGE = 4096
"""Pixels of a side: more than any projector looks at."""
_NUMBERED = 10_000
"""Pictures that keep their number."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Picture:
    """A picture in a prompt, or one of the pieces into which a projector cuts a large one. Equal if the key is."""

    key: str
    """The same for the same piece of the same file."""
    number: int = field(compare=False)
    """Below -1, so that it is no token and can stand for one where prompts are compared. Never that of another key."""
    tokens: int = field(compare=False)
    """Cells of the key-value cache that it takes."""
    positions: int = field(compare=False)
    """By how much the position of the next token is higher: with M-RoPE the longer side, else `tokens`."""
    file: PictureFile = field(compare=False, repr=False)
    chunk: int = field(compare=False, repr=False)
    """mtmd's own description of it, without pixels; freed with this object."""


Item = int | Picture
"""What a prompt consists of: tokens and pictures."""


class Projector:
    """The part of a model that sees. `model` is llama.cpp's pointer to the model for which it was made.

    `items` may be called in any thread, `encode` in one at a time, and `decode` in that of the context only.
    """

    def __init__(self, path: str, model: int, *, threads: int, gpu: bool, remembered: int = REMEMBERED) -> None:
        parameters = mtmd.mtmd_context_params_default()
        parameters.use_gpu = gpu
        parameters.n_threads = threads
        parameters.print_timings = False
        self._context = mtmd.mtmd_init_from_file(path.encode(), model, parameters)
        if not self._context:
            raise Unloadable(f"llama.cpp cannot load the projector {Path(path).name} with this model")
        if not mtmd.mtmd_support_vision(self._context):
            self.close()
            raise Unloadable(f"the projector {Path(path).name} is for sound and not for pictures")
        self._width = int(llama_cpp.llama_model_n_embd_inp(model))
        self._encoded = _Memory(remembered)
        self._numbers: dict[str, int] = {}
        self._unused = count(-2, -1)
        self._sizes: dict[int, tuple[int, int]] = {}
        """Tokens and positions of each picture of which they differ, by its number."""

    def close(self) -> None:
        """Gives back llama.cpp's memory."""
        mtmd.mtmd_free(self._context)

    @property
    def batch(self) -> int:
        """Tokens that a batch of the context (`n_ubatch`) must hold: a model may have to see a picture at once."""
        if not mtmd.mtmd_decode_use_non_causal(self._context, None):
            return 1
        with ExitStack() as stack:
            return max(_tokens(chunk) for chunk in self._chunks(stack, _LARGE, _LARGE, None) if _is_image(chunk))

    def items(self, file: PictureFile) -> list[Item]:
        """A picture as it stands in a prompt: between the tokens for its begin and end, in one or more pieces.

        Its pixels are not decoded yet. Raises `InvalidRequest` where the projector cannot take it.
        """
        with ExitStack() as stack:
            try:
                return [*self._items(file, self._chunks(stack, file.width, file.height, None))]
            except ValueError as error:
                text = f"{file.name} with {file.width} x {file.height} pixels is nothing that this model can see."
                raise InvalidRequest(text, "messages", "invalid_image") from error

    def encode(self, picture: Picture) -> Embeddings:
        """The embeddings of a picture; computed, with those of its other pieces, if they are not remembered.

        Raises `InvalidRequest` where the file turns out to be broken, and `DecodeFailed`. It cannot be stopped.
        """
        known = self._encoded.get(picture.key)
        if known is not None:
            return known
        pieces = self._encode_file(picture.file)
        for key, embeddings in pieces.items():
            self._encoded.put(key, embeddings)
        return pieces[picture.key]

    def decode(self, context: int, picture: Picture, embeddings: Embeddings, sequence: int, position: int) -> int:
        """Adds a picture to a sequence of llama.cpp's context, from a position on; returns the next position.

        It goes outside the batch of the other sequences, in batches of its own of the context's `n_batch` tokens, and
        leaves no logits. Raises `Stopped`, `NoRoom` or `DecodeFailed`: then some of its tokens may be in the sequence.
        """
        assert embeddings.shape == (picture.tokens, self._width)
        size = int(llama_cpp.llama_n_batch(context))
        if mtmd.mtmd_decode_use_non_causal(self._context, picture.chunk):
            size = int(llama_cpp.llama_n_ubatch(context))
            if picture.tokens > size:  # llama.cpp would end the process.
                raise DecodeFailed(f"a picture of {picture.tokens} tokens does not fit into a batch of {size}")
        values = embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        after = llama_cpp.llama_pos(position)
        code = mtmd.mtmd_helper_decode_image_chunk(
            self._context,
            context,
            picture.chunk,
            values,
            position,
            sequence,
            size,
            ctypes.byref(after),
            mtmd.mtmd_helper_post_decode_callback(),
            None,
        )
        if code == _ABORTED:
            raise Stopped
        if code == _NO_ROOM:
            raise NoRoom
        if code:
            raise DecodeFailed(f"mtmd returned {code} for a picture of {picture.tokens} tokens at {position}")
        return int(after.value)

    def position(self, tokens: Tokens, index: int) -> int:
        """The position of the token at an index of a prompt in which each picture has its number for each token."""
        if not self._sizes:
            return index
        before = numpy.frombuffer(tokens, numpy.int32)[:index]
        for number, count_of in zip(*numpy.unique(before[before < -1], return_counts=True), strict=True):
            size, positions = self._sizes.get(int(number), (1, 1))
            index -= int(count_of) // size * (size - positions)
        return index

    def _items(self, file: PictureFile, chunks: list[int]) -> Iterator[Item]:
        for index, chunk in enumerate(chunks):
            if not _is_image(chunk):
                yield from _text(chunk)
                continue
            key, copy = _key(file, index), _made(mtmd.mtmd_input_chunk_copy(chunk))
            positions = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
            picture = Picture(key, self._number(key), _tokens(chunk), positions, file, copy)
            if picture.positions != picture.tokens:
                self._sizes[picture.number] = (picture.tokens, picture.positions)
            weakref.finalize(picture, mtmd.mtmd_input_chunk_free, copy).atexit = False
            yield picture

    def _number(self, key: str) -> int:
        if len(self._numbers) >= _NUMBERED:
            self._numbers.clear()
        return self._numbers.setdefault(key, next(self._unused))

    def _encode_file(self, file: PictureFile) -> dict[str, Embeddings]:
        pixels = file.pixels()
        height, width, _ = pixels.shape
        with ExitStack() as stack:
            chunks = self._chunks(stack, width, height, pixels)
            return {_key(file, index): self._encode(chunk) for index, chunk in enumerate(chunks) if _is_image(chunk)}

    def _encode(self, chunk: int) -> Embeddings:
        if code := mtmd.mtmd_encode_chunk(self._context, chunk):
            raise DecodeFailed(f"mtmd_encode_chunk returned {code}")
        pointer = mtmd.mtmd_get_output_embd(self._context)
        return numpy.ctypeslib.as_array(pointer, (_tokens(chunk), self._width)).copy()

    def _chunks(self, stack: ExitStack, width: int, height: int, pixels: NDArray[numpy.uint8] | None) -> list[int]:
        """mtmd's chunks for a picture, for as long as the stack is open. Without pixels they cannot be encoded."""
        data = None if pixels is None else numpy.ascontiguousarray(pixels).ctypes.data_as(_BYTES)
        bitmap = _kept(stack, mtmd.mtmd_bitmap_init(width, height, data), mtmd.mtmd_bitmap_free)
        chunks = _kept(stack, mtmd.mtmd_input_chunks_init(), mtmd.mtmd_input_chunks_free)
        part = ctypes.pointer(mtmd.mtmd_input_part(bitmap=bitmap))
        parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(part)
        if code := mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False):
            raise ValueError(f"mtmd_tokenize_from_parts returned {code}")
        return [_made(mtmd.mtmd_input_chunks_get(chunks, i)) for i in range(mtmd.mtmd_input_chunks_size(chunks))]


class _Memory:
    """The embeddings used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._kept: OrderedDict[str, Embeddings] = OrderedDict()

    def get(self, key: str) -> Embeddings | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, embeddings: Embeddings) -> None:
        self._left -= embeddings.nbytes
        if key in self._kept:
            self._left += self._kept.pop(key).nbytes
        self._kept[key] = embeddings
        while self._left < 0:
            _, oldest = self._kept.popitem(last=False)
            self._left += oldest.nbytes


_BYTES = ctypes.POINTER(ctypes.c_uint8)


def _key(file: PictureFile, index: int) -> str:
    return f"{file.key}/{index}"


def _is_image(chunk: int) -> bool:
    return bool(mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE)


def _tokens(chunk: int) -> int:
    return int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))


def _text(chunk: int) -> list[int]:
    size = ctypes.c_size_t()
    tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
    return list(tokens[: size.value])


def _kept(stack: ExitStack, pointer: Made | None, free: Callable[[Made], object]) -> Made:
    """What mtmd made, and is to free at the end."""
    made = _made(pointer)
    stack.callback(free, made)
    return made


def _made(pointer: Made | None) -> Made:
    if pointer is None:
        raise MemoryError("mtmd made nothing")
    return pointer
