"""A loaded model, and the tokens whose computation it remembers."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy
from numpy.typing import NDArray

from models.llama_cpp.protocol import Load
from models.llama_cpp.vocabulary import Vocabulary

BATCH = 512
"""Tokens of a prompt that are computed at once."""
CHUNK = 64
"""The same, where the outcome must not depend on what was remembered."""

_ABORTED = 2

_strlen = ctypes.CDLL(None).strlen


class Unloadable(Exception):
    """The model cannot be loaded."""


class Stopped(Exception):
    """The computation was stopped on request."""


class DecodeFailed(Exception):
    """llama.cpp could not compute a batch."""


class StopFlag:
    """Set by one thread, ends the computation of another between two operations on tensors."""

    def __init__(self) -> None:
        # llama.cpp calls back after every operation: C's strlen, of a text that is empty or not, needs no Python.
        self._text = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(_strlen, llama_cpp.ggml_abort_callback)
        self.argument = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        """Stops the computation that runs, or the next."""
        self._text.value = b"x"

    def clear(self) -> None:
        """Lets computations run again."""
        self._text.value = b""

    @property
    def is_set(self) -> bool:
        """Whether computations are to stop."""
        return bool(self._text.value)


class Context:
    """A model in memory with its key-value cache, for one conversation at a time."""

    def __init__(self, load: Load, stop: StopFlag) -> None:
        self._stop = stop
        self._model = _load_model(load)
        self.metadata = _metadata(self._model)
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self._model))
        self.limit = load.n_ctx or int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._context = _open(self._model, load, self.limit)
        self._memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_set_abort_callback(self._context, stop.callback, stop.argument)
        self._tokens: list[int] = []
        self._exact = 0
        self._warm_up()

    @property
    def logits(self) -> NDArray[numpy.float32]:
        """What the model expects next: one number per token, in llama.cpp's own memory, which the sampler will read."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        return numpy.ctypeslib.as_array(pointer, shape=(self.vocabulary.size,))

    @property
    def pointer(self) -> int:
        """llama.cpp's context."""
        return self._context

    def prompt(self, tokens: Sequence[int], *, exact: bool) -> int:
        """Takes in a prompt and returns how many of its tokens were remembered from before.

        A batch of another size rounds otherwise. With `exact`, the prompt is computed in chunks of a fixed size and
        only whole chunks of such are reused, so that the outcome does not depend on earlier requests.
        """
        shared = min(_common_prefix(self._tokens, tokens), len(tokens) - 1)
        reused = self._keep(min(shared, self._exact) // CHUNK * CHUNK if exact else shared)
        size = CHUNK if exact else BATCH
        for start in range(reused, len(tokens), size):
            self.extend(tokens[start : start + size])
        if exact:
            self._exact = len(tokens) // CHUNK * CHUNK
        return reused

    def extend(self, tokens: Sequence[int]) -> None:
        """Computes further tokens. Raises `Stopped`, and then remembers none of them."""
        if self._stop.is_set:  # A GPU does not call back.
            raise Stopped
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        code = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        if code == 0:
            self._tokens.extend(tokens)
            return
        self._keep(len(self._tokens))
        if code == _ABORTED:
            raise Stopped
        raise DecodeFailed(f"llama_decode returned {code} for {len(tokens)} tokens after {len(self._tokens)}")

    def embed(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        """The pooled vector of a text, of length 1."""
        self.forget()
        self.extend(tokens)
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, 0)
        size = int(llama_cpp.llama_model_n_embd_out(self._model))
        vector = numpy.ctypeslib.as_array(pointer, shape=(size,)).copy()
        return normalized(vector)

    def forget(self) -> None:
        """Remembers nothing any more."""
        self._keep(0)

    def _keep(self, count: int) -> int:
        """Remembers the first `count` tokens only. Some architectures cannot cut, and forget all."""
        if self._memory and not llama_cpp.llama_memory_seq_rm(self._memory, 0, count, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            count = 0
        del self._tokens[count:]
        self._exact = min(self._exact, count)
        return count

    def _warm_up(self) -> None:
        """Two tokens run the code for batches once, so that what crashes does so before a request is at work."""
        self.extend([0, 0])
        self.forget()


def normalized(vector: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """The vector at length 1; the zero vector as it is."""
    length = float(numpy.linalg.norm(vector))
    return vector / numpy.float32(length) if length else vector


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


def _open(model: int, load: Load, limit: int) -> int:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = limit
    # An encoder sees its whole input at once.
    parameters.n_batch = parameters.n_ubatch = limit if load.embed else min(BATCH, limit)
    parameters.n_threads = parameters.n_threads_batch = load.threads
    parameters.embeddings = load.embed
    parameters.no_perf = True
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise Unloadable(f"there is not enough memory for a context of {limit} tokens with {Path(load.path).name}")
    return context  # type: ignore[no-any-return]


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


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
