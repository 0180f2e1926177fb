"""A loaded model and llama.cpp's context for it: batches in, logits or vectors out."""

import ctypes
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy
from msgspec import Struct
from numpy.typing import NDArray

from models.llama_cpp.cache import Tokens
from models.llama_cpp.protocol import Load
from models.llama_cpp.scheduler import BATCH
from models.llama_cpp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from models.llama_cpp.vision import Picture, Projector

_NO_ROOM, _ABORTED = 1, 2
_SLICE = 128
"""Tokens of a batch that a CPU computes at once: with more, the memory for attention grows, and nothing is faster."""
_MOST_SEQUENCES = 256
"""llama.cpp's own limit, LLAMA_MAX_SEQ."""

_strlen = ctypes.CDLL(None).strlen


class Unloadable(Exception):
    """The model cannot be loaded."""


class Stopped(Exception):
    """The computation was stopped on request."""


class NoRoom(Exception):
    """The cache has no cells for a batch."""


class DecodeFailed(Exception):
    """llama.cpp could not compute a batch."""


class StopFlag:
    """Ends a computation between two operations on tensors, once all requests that it is for were cancelled."""

    def __init__(self) -> None:
        # llama.cpp calls back after every operation: C's strlen, of a text that is empty or not, needs no Python.
        self._text = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(_strlen, llama_cpp.ggml_abort_callback)
        self.argument = ctypes.cast(self._text, ctypes.c_void_p)
        self._lock = Lock()
        self._wanted: set[int] = set()

    @contextmanager
    def watching(self, numbers: Iterable[int]) -> Iterator[None]:
        """Says for which requests the computation within is."""
        with self._lock:
            self._wanted = set(numbers)
        try:
            yield
        finally:
            with self._lock:
                self._wanted.clear()
                self._text.value = b""

    def cancel(self, number: int) -> None:
        """Nobody waits for a request any more; called in another thread."""
        with self._lock:
            if number in self._wanted:
                self._wanted.remove(number)
                if not self._wanted:
                    self._text.value = b"x"

    @property
    def is_set(self) -> bool:
        """Whether the computation is to end."""
        return bool(self._text.value)


class Part(Struct, frozen=True):
    """What a batch computes of one sequence."""

    sequence: int
    position: int
    """Of the first of the tokens."""
    tokens: Tokens
    drawn: bool = True
    """Whether the logits after the last token are wanted."""


Embeddings = NDArray[numpy.float32]
"""What stands for a picture in place of tokens, in the shape (tokens, width of the model's input)."""


class Seen(Struct, frozen=True):
    """A picture with what the projector makes of it."""

    picture: "Picture"
    embeddings: Embeddings


class Context:
    """A model in memory with its key-value cache, which any number of sequences share."""

    def __init__(self, load: Load, stop: StopFlag) -> None:
        self._stop = stop
        self.model = _load_model(load)
        self.metadata = _metadata(self.model)
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self.model))
        self.limit = load.n_ctx or int(llama_cpp.llama_model_n_ctx_train(self.model))
        self.cells = max(load.cells, self.limit)
        self.divisible = not _keeps_states(self.model)
        self._window = int(llama_cpp.llama_model_n_swa(self.model))
        self.compact = not _uses_gpu(load)
        """Whether cells of others slow a step down; flash attention passes over them."""
        self.sequences = min(_MOST_SEQUENCES, 4 * load.slots if self.divisible else load.slots + 2)
        self.dimensions = int(llama_cpp.llama_model_n_embd_out(self.model))
        """Of the vectors of an embedding model."""
        self.projector = _load_projector(load, self.model)
        self.pointer = self._open(load)
        self.batch = int(llama_cpp.llama_n_batch(self.pointer))
        self._batch = _Batch(self.batch)
        self._row = ctypes.c_float * self.vocabulary.size
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        llama_cpp.llama_set_abort_callback(self.pointer, stop.callback, stop.argument)
        self._warm_up()

    def decode(self, parts: Sequence[Part]) -> None:
        """Computes a batch. Raises `Stopped`, `NoRoom` or `DecodeFailed`, and then nothing of it is kept."""
        if self._stop.is_set:  # A GPU does not call back.
            raise Stopped
        code = llama_cpp.llama_decode(self.pointer, self._batch.fill(parts))
        if code == 0:
            return
        for part in parts:
            self.cut(part.sequence, part.position)
        if code == _ABORTED:
            raise Stopped
        if code == _NO_ROOM:
            raise NoRoom
        raise DecodeFailed(f"llama_decode returned {code} for {sum(len(part.tokens) for part in parts)} tokens")

    def show(self, seen: Seen, sequence: int, position: int) -> None:
        """Adds a picture to a sequence, in batches of its own. Raises what `decode` does, keeping nothing then."""
        assert self.projector
        if self._stop.is_set:
            raise Stopped
        try:
            self.projector.decode(self.pointer, seen.picture, seen.embeddings, sequence, position)
        except (Stopped, NoRoom, DecodeFailed):
            self.cut(sequence, position)
            raise

    def position(self, tokens: Tokens, index: int) -> int:
        """The position of the token at an index of a prompt, in which pictures may take fewer positions than tokens."""
        return self.projector.position(tokens, index) if self.projector else index

    def save(self, sequence: int) -> NDArray[numpy.uint8]:
        """What a sequence holds, so that it can be restored."""
        saved = numpy.empty(llama_cpp.llama_state_seq_get_size(self.pointer, sequence), numpy.uint8)
        llama_cpp.llama_state_seq_get_data(self.pointer, _pointer(saved, ctypes.c_uint8), saved.size, sequence)
        return saved

    def restore(self, sequence: int, saved: NDArray[numpy.uint8]) -> bool:
        """Gives an empty sequence what another one held; whether that was possible."""
        pointer = _pointer(saved, ctypes.c_uint8)
        return bool(llama_cpp.llama_state_seq_set_data(self.pointer, pointer, saved.size, sequence))

    def logits(self, count: int) -> NDArray[numpy.float32]:
        """What the model expects next: a row for each of the `count` parts of the last batch whose logits were wanted.

        The rows are llama.cpp's own memory, which its samplers read.
        """
        first = llama_cpp.llama_get_logits(self.pointer).contents
        rows: Any = (self._row * count).from_address(ctypes.addressof(first))
        return numpy.frombuffer(rows, numpy.float32).reshape(count, -1)

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Lets a sequence share the cells of another from one position to before another."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, end)

    def reaches(self, sequence: int, position: int) -> bool:
        """Whether a sequence still holds all that a token at a position looks back at.

        Of layers with a sliding window llama.cpp overwrites what is behind the window of a sequence's last token,
        `swa_full` or not.
        """
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))
        return first <= max(0, position - self._window)

    def cut(self, sequence: int, position: int) -> None:
        """Frees what a sequence holds from a position on. Where a model's state cannot be cut, all of it goes."""
        if self._memory and not llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def embed(self, inputs: Sequence[Tokens]) -> NDArray[numpy.float32]:
        """The pooled vectors of texts, of length 1, as the rows of a matrix: one batch, one sequence for each text."""
        self.decode([Part(sequence, 0, tokens) for sequence, tokens in enumerate(inputs)])
        pointers = [llama_cpp.llama_get_embeddings_seq(self.pointer, sequence) for sequence in range(len(inputs))]
        if not all(pointers):
            raise DecodeFailed("llama.cpp gives no vector")
        rows = [numpy.ctypeslib.as_array(pointer, shape=(self.dimensions,)).copy() for pointer in pointers]
        for sequence in range(len(inputs)):
            self.cut(sequence, 0)
        return normalized(numpy.stack(rows))

    def _open(self, load: Load) -> int:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = self.cells
        # An encoder sees its whole input at once.
        size = self.limit if load.embed else max(BATCH, self.projector.batch if self.projector else 0)
        parameters.n_batch = parameters.n_ubatch = min(size, self.cells)
        if not (load.embed or _uses_gpu(load)):
            # On a CPU llama.cpp's flash attention is good for prompts only. Without it a token after 1,000 others takes
            # 17 ms instead of 24, eight take 41 instead of 113 (135 M parameters, 2 cores), and prompts 20 % longer.
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.n_ubatch = min(max(_SLICE, self.projector.batch if self.projector else 0), self.cells)
        parameters.n_seq_max = self.sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = load.threads
        parameters.embeddings = load.embed
        parameters.no_perf = True
        pointer = llama_cpp.llama_init_from_model(self.model, parameters)
        if not pointer:
            name = Path(load.path).name
            raise Unloadable(f"there is not enough memory for a context of {self.cells} tokens with {name}")
        return pointer  # type: ignore[no-any-return]

    def _warm_up(self) -> None:
        """Two tokens run the code for batches once, so that what crashes does so before a request is at work."""
        self.decode([Part(0, 0, array("i", [0, 0]))])
        self.cut(0, 0)


class _Batch:
    """The arrays of a llama_batch, filled anew for each step."""

    def __init__(self, size: int) -> None:
        self._tokens, self._positions, self._sequences = (numpy.zeros(size, numpy.int32) for _ in range(3))
        self._counts = numpy.ones(size, numpy.int32)
        self._drawn = numpy.zeros(size, numpy.int8)
        # llama.cpp wants a pointer for each token, to the sequences that the token is for: here always one.
        addresses = self._sequences.ctypes.data + 4 * numpy.arange(size, dtype=numpy.uintp)
        self._pointers = addresses
        self._batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._drawn, ctypes.c_int8),
        )

    def fill(self, parts: Sequence[Part]) -> llama_cpp.llama_batch:
        """The batch of these parts."""
        end = 0
        for part in parts:
            start, end = end, end + len(part.tokens)
            self._tokens[start:end] = part.tokens
            self._positions[start:end] = numpy.arange(part.position, part.position + len(part.tokens))
            self._sequences[start:end] = part.sequence
            self._drawn[start:end] = 0
            self._drawn[end - 1] = part.drawn
        self._batch.n_tokens = end
        return self._batch


def normalized(vectors: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """The rows at length 1; those of zeros as they are."""
    lengths: NDArray[numpy.float32] = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return vectors / lengths


def _pointer(values: NDArray[Any], kind: type) -> Any:
    return values.ctypes.data_as(ctypes.POINTER(kind))


def _keeps_states(model: int) -> bool:
    """Whether the model is of those that keep a state in the place of a cell for each token."""
    return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))


def _uses_gpu(load: Load) -> bool:
    return load.n_gpu_layers != 0 and bool(llama_cpp.llama_supports_gpu_offload())


def _load_model(load: Load) -> int:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = load.n_gpu_layers
    parameters.use_mmap = load.mmap
    parameters.use_mlock = load.mlock
    parameters.use_extra_bufts = load.repack
    model = llama_cpp.llama_model_load_from_file(load.path.encode(), parameters)
    if not model:
        raise Unloadable(f"llama.cpp cannot load {Path(load.path).name}")
    return model  # type: ignore[no-any-return]


def _load_projector(load: Load, model: int) -> "Projector | None":
    if not load.projector:
        return None
    # Only here, since few models see.
    from models.llama_cpp.vision import Projector

    return Projector(load.projector, model, threads=load.threads, gpu=load.n_gpu_layers != 0)


def _metadata(model: int) -> dict[str, str]:
    keys = (
        _string(llama_cpp.llama_model_meta_key_by_index, model, index)
        for index in range(llama_cpp.llama_model_meta_count(model))
    )
    values = (
        _string(llama_cpp.llama_model_meta_val_str_by_index, model, index)
        for index in range(llama_cpp.llama_model_meta_count(model))
    )
    return dict(zip(keys, values, strict=True))


def _string(read, model: int, index: int) -> str:  # type: ignore[no-untyped-def]
    size = read(model, index, ctypes.create_string_buffer(1), 1)
    buffer = ctypes.create_string_buffer(size + 1)
    read(model, index, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")
