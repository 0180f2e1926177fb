"""Text ↔ tokens, by the vocabulary in the model's file."""

import ctypes
from collections.abc import Collection
from functools import cached_property

import llama_cpp

_HIDDEN = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN


class Vocabulary:
    """The vocabulary of a loaded model."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.size = int(llama_cpp.llama_vocab_n_tokens(pointer))
        self._pieces: dict[int, bytes] = {}

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text; with `special`, the names of control tokens in it become those tokens."""
        return self._split(text, marks=False, special=special)

    def input(self, text: str) -> list[int]:
        """The tokens of a text as an embedding model wants it, with its marks of begin and end."""
        return self._split(text, marks=True, special=False)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; those of a control token are its name."""
        if token not in self._pieces:
            self._pieces[token] = self._read_piece(token)
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """Whether a token ends the answer."""
        return bool(llama_cpp.llama_vocab_is_eog(self.pointer, token))

    def is_hidden(self, token: int) -> bool:
        """Whether a token is for control and not part of the text."""
        return bool(llama_cpp.llama_vocab_get_attr(self.pointer, token) & _HIDDEN)

    @cached_property
    def ends(self) -> list[int]:
        """All tokens that end an answer."""
        return [token for token in range(self.size) if self.is_end(token)]

    @cached_property
    def control_names(self) -> Collection[str]:
        """The names of the control tokens, such as `<|im_end|>`."""
        control = (token for token in range(self.size) if llama_cpp.llama_vocab_is_control(self.pointer, token))
        names = {self.piece(token).decode("utf-8", "replace") for token in control}
        return frozenset(name for name in names if len(name) > 1)

    @cached_property
    def first(self) -> int | None:
        """The token that begins every prompt, where the vocabulary wants one."""
        return self._bos if llama_cpp.llama_vocab_get_add_bos(self.pointer) and self._bos >= 0 else None

    @property
    def bos_name(self) -> str:
        """The name of the beginning token, for the chat template."""
        return self._name(self._bos)

    @property
    def eos_name(self) -> str:
        """The name of the ending token, for the chat template."""
        return self._name(int(llama_cpp.llama_vocab_eos(self.pointer)))

    @property
    def _bos(self) -> int:
        return int(llama_cpp.llama_vocab_bos(self.pointer))

    def _split(self, text: str, *, marks: bool, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        found = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.pointer, data, len(data), found, len(found), marks, special)
        return found[:count]

    def _name(self, token: int) -> str:
        return self.piece(token).decode("utf-8", "replace") if token >= 0 else ""

    def _read_piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, True)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, True)
        return buffer.raw[:size]
