"""Writes a GGUF model of any size with random weights: it says nothing, at the speed of a real one.

    uv run benchmarks/random_gguf.py model.gguf [--size 135m] [--layers 30 --embd 576 …] [--vocab FILE.gguf]

The vocabulary and the chat template are those of Drover's built-in model. `--vocab` takes another vocabulary, such as
the `ggml-vocab-*.gguf` in llama.cpp's folder `models`; `--vocab-size` fills it up with made-up words, since the size of
the output layer decides much of a small model's speed.
"""

import argparse
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, TokenType, quants
from numpy.typing import NDArray

BUILTIN = Path(__file__).resolve().parent.parent / "models" / "builtin" / "tiny.gguf"
SEED = 1
CONTEXT = 32768
MARKS = {
    "<|im_start|>": TokenType.CONTROL,
    "<|im_end|>": TokenType.CONTROL,
    "<tool_call>": TokenType.USER_DEFINED,
    "</tool_call>": TokenType.USER_DEFINED,
}
"""What the chat template needs, added to a vocabulary without it."""
ROWS = 64
"""A vocabulary's size is a multiple of this, as in real models: other sizes keep llama.cpp from its fast paths."""
UNLIKELY = 0.05
"""Scale of the embeddings of tokens that are no text by themselves: greedy, they are never chosen."""


@dataclass(frozen=True)
class Shape:
    """The size of a model of the architecture `llama`, embeddings tied."""

    layers: int
    embd: int
    heads: int
    kv_heads: int
    ffn: int
    vocab_size: int
    """At least; 0: what the vocabulary has."""

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.layers}x{self.embd}-h{self.heads}.{self.kv_heads}-f{self.ffn}-v{self.vocab_size}"


SIZES = {
    "tiny": Shape(layers=5, embd=192, heads=4, kv_heads=4, ffn=512, vocab_size=0),
    "135m": Shape(layers=30, embd=576, heads=9, kv_heads=3, ffn=1536, vocab_size=49152),
    "360m": Shape(layers=32, embd=960, heads=15, kv_heads=5, ffn=2560, vocab_size=49152),
    "0.5b": Shape(layers=24, embd=896, heads=14, kv_heads=2, ffn=4864, vocab_size=151936),
    "1.7b": Shape(layers=24, embd=2048, heads=32, kv_heads=32, ffn=8192, vocab_size=49152),
}
"""SmolLM2's three and Qwen 2.5's smallest, besides the built-in model's."""


@dataclass
class Words:
    """A vocabulary: the tokens in llama.cpp's byte-level spelling, what kind each is, and the merges."""

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    splitter: str
    """llama.cpp's name for how text is cut before it is tokenised."""

    def place(self, token: str) -> int:
        """A token's number."""
        return self.tokens.index(token)


def write(target: Path, shape: Shape, vocabulary: Path = BUILTIN) -> Path:
    """Writes the model, all of it or nothing."""
    words = read_words(vocabulary)
    add_marks(words)
    fill_up(words, shape.vocab_size)
    shape = replace(shape, vocab_size=len(words.tokens))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    writer = GGUFWriter(unfinished, "llama")
    _describe(writer, shape)
    _add_words(writer, words)
    for name, weights in _weights(shape, _scales(words)):
        quantised = weights.ndim == 2
        data = quants.quantize(weights, GGMLQuantizationType.Q8_0) if quantised else weights
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.Q8_0 if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.rename(target)


def read_words(path: Path) -> Words:
    """The vocabulary in a GGUF file; only byte-level ones ("gpt2") can be taken."""
    fields = GGUFReader(path).fields
    if (kind := fields["tokenizer.ggml.model"].contents()) != "gpt2":
        raise SystemExit(f"{path.name}: its vocabulary is of the kind {kind!r}; only 'gpt2' can be taken")
    names = ("tokens", "token_type", "merges", "pre")
    return Words(*(fields[f"tokenizer.ggml.{name}"].contents() for name in names))


def add_marks(words: Words) -> None:
    """Gives a vocabulary the tokens of the chat template, in the place of control tokens that nothing uses."""
    spare = [number for number, kind in enumerate(words.kinds) if kind == TokenType.CONTROL]
    spare = [number for number in spare if words.tokens[number] not in (*MARKS, "<|endoftext|>")]
    for mark, kind in MARKS.items():
        if mark in words.tokens:
            continue
        if spare:
            number = spare.pop(0)
            words.tokens[number], words.kinds[number] = mark, kind
        else:
            _append(words, mark, kind)


def fill_up(words: Words, size: int) -> None:
    """Adds made-up words: the model may say them, no text is split into them."""
    chance, known = random.Random(SEED), set(words.tokens)
    size = -(-max(size, len(words.tokens)) // ROWS) * ROWS
    while len(words.tokens) < size:
        word = "Ġ" + "".join(chance.choices(string.ascii_lowercase, k=chance.randint(3, 9)))
        if word not in known:
            known.add(word)
            _append(words, word, TokenType.NORMAL)


def _append(words: Words, token: str, kind: int) -> None:
    words.tokens.append(token)
    words.kinds.append(kind)


def _scales(words: Words) -> NDArray[numpy.float32]:
    """How likely each token is to be said: text of letters, or not."""
    plain = [
        kind == TokenType.NORMAL and token.removeprefix("Ġ").isascii() and "<" not in token
        for token, kind in zip(words.tokens, words.kinds, strict=True)
    ]
    return numpy.where(plain, numpy.float32(1), numpy.float32(UNLIKELY))


def _weights(shape: Shape, scales: NDArray[numpy.float32]) -> Iterator[tuple[str, NDArray[numpy.float32]]]:
    """All tensors. The embeddings are small beside what the layers add, or the model would repeat its last token."""
    chance = numpy.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> NDArray[numpy.float32]:
        return chance.standard_normal((rows, columns), numpy.float32) * numpy.float32(columns**-0.5)

    ones = numpy.ones(shape.embd, numpy.float32)
    kv = shape.embd // shape.heads * shape.kv_heads
    yield "token_embd.weight", matrix(shape.vocab_size, shape.embd) * scales[:, None]
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight", ones
        yield f"blk.{layer}.attn_q.weight", matrix(shape.embd, shape.embd)
        yield f"blk.{layer}.attn_k.weight", matrix(kv, shape.embd)
        yield f"blk.{layer}.attn_v.weight", matrix(kv, shape.embd)
        yield f"blk.{layer}.attn_output.weight", matrix(shape.embd, shape.embd)
        yield f"blk.{layer}.ffn_norm.weight", ones
        yield f"blk.{layer}.ffn_gate.weight", matrix(shape.ffn, shape.embd)
        yield f"blk.{layer}.ffn_up.weight", matrix(shape.ffn, shape.embd)
        yield f"blk.{layer}.ffn_down.weight", matrix(shape.embd, shape.ffn)


def _describe(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name(f"random {shape.key}")
    writer.add_description("Random weights, to measure speed with.")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.embd)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.embd // shape.heads)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)


def _add_words(writer: GGUFWriter, words: Words) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.splitter)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    writer.add_eos_token_id(words.place("<|im_end|>"))
    writer.add_bos_token_id(words.place("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(GGUFReader(BUILTIN).fields["tokenizer.chat_template"].contents())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what to write."""
    parser.add_argument("--size", choices=SIZES, default="135m", help="default: 135m, the shape of SmolLM2-135M")
    for name in ("layers", "embd", "heads", "kv-heads", "ffn", "vocab-size"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help="in the place of the size's own")
    parser.add_argument("--vocab", type=Path, default=BUILTIN, metavar="FILE", help="a GGUF file with a vocabulary")


def shape_of(options: argparse.Namespace) -> Shape:
    """The shape that the options ask for."""
    shape = SIZES[options.size]
    asked = {name: getattr(options, name) for name in shape.__dataclass_fields__}
    return replace(shape, **{name: number for name, number in asked.items() if number is not None})


def main() -> None:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    add_options(parser)
    options = parser.parse_args()
    print(write(options.target, shape_of(options), options.vocab))


if __name__ == "__main__":
    main()
