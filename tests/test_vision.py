"""Pictures for the llama.cpp engine: what comes in, what the projector makes of it, and which projector is whose."""

import base64
import io
import struct
import zlib
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from models.backend import ContextTooLong, InvalidRequest, ModelRequest, Sampling, Unsupported
from models.llama_cpp import LlamaCpp
from models.llama_cpp.context import Context, Part, StopFlag, Stopped, Unloadable
from models.llama_cpp.library import Library
from models.llama_cpp.pictures import PictureFile, look
from models.llama_cpp.protocol import Load
from models.llama_cpp.vision import Picture, Projector
from models.messages import Image, Message, Text, Usage
from tests.mmproj_gguf import TOKENS, write_mmproj

pytestmark = pytest.mark.anyio

TINY = Path(__file__).parents[1] / "models/builtin/tiny.gguf"
WIDTH = 192
PROMPT = "<|im_start|>user\n"
QUESTION = "Hello<|im_end|>\n<|im_start|>assistant\n"


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def part(data: bytes) -> Image:
    """A file as it stands in a message."""
    return Image(base64.b64encode(data).decode(), "image/png")


def looked(data: bytes) -> PictureFile:
    return look(part(data), 1)


def noise(seed: int, width: int = 48, height: int = 32) -> Pillow.Image:
    """A picture unlike all others."""
    return Pillow.fromarray(numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), numpy.uint8))


# Files

RED_BLUE = Pillow.fromarray(numpy.array([[[255, 0, 0], [0, 0, 255]]], numpy.uint8))


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (encoded(RED_BLUE), [[[255, 0, 0], [0, 0, 255]]]),
        (encoded(RED_BLUE, "WEBP", lossless=True), [[[255, 0, 0], [0, 0, 255]]]),
        (encoded(RED_BLUE, "GIF", save_all=True, append_images=[noise(1, 2, 1)]), [[[255, 0, 0], [0, 0, 255]]]),
        (encoded(Pillow.new("RGBA", (1, 1), (0, 0, 0, 0))), [[[255, 255, 255]]]),
        (encoded(Pillow.new("RGBA", (1, 1), (255, 0, 0, 128))), [[[255, 127, 127]]]),
        (encoded(Pillow.new("L", (1, 1), 7)), [[[7, 7, 7]]]),
        (encoded(Pillow.fromarray(numpy.array([[256 * 200]], numpy.uint16))), [[[200, 200, 200]]]),
    ],
    ids=["png", "webp", "first frame", "transparent", "half transparent", "grey", "16 bits"],
)
def test_a_picture_becomes_rgb(data: bytes, pixels: list[list[list[int]]]) -> None:
    assert looked(data).pixels().tolist() == pixels


def test_a_jpeg_is_turned_upright() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    lying = Pillow.new("RGB", (16, 8), "black")
    lying.paste("white", (0, 0, 8, 8))
    picture = looked(encoded(lying, "JPEG", exif=exif))
    assert (picture.width, picture.height) == (8, 16)
    assert [picture.pixels()[row, 0, 0] > 128 for row in (0, 15)] == [True, False]


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says to have that many pixels, and has what `data` gives."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


WEBP_BOMB = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0e\x00\x00\x00/\xdf\xee\xb7\x0b\x07\x10\x11\xfd\x0fDD\xff\x03"
UNREADABLE = "Picture 1 cannot be read; it must be a whole PNG, JPEG, WebP or GIF."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", UNREADABLE),
        (encoded(RED_BLUE, "BMP"), UNREADABLE),
        (encoded(RED_BLUE)[:30], UNREADABLE),
        (encoded(noise(1), "JPEG", progressive=True) + b"\xff\xda" * 100, UNREADABLE),
        (bytes(20 * 1024 * 1024 + 1), "Picture 1 has 20971521 bytes; at most 20971520 are allowed."),
        (png(6000, 6000), "Picture 1 has 6000 x 6000 pixels; at most 25000000 are allowed."),
        (png(10_000, 10_000), "Picture 1 has 10000 x 10000 pixels; at most 25000000 are allowed."),
        (png(2**31 - 1, 2**31 - 1), "Picture 1 has too many pixels; at most 25000000 are allowed."),
        (WEBP_BOMB, "Picture 1 has 12000 x 12000 pixels; at most 25000000 are allowed."),
        (png(1, 201), "Picture 1 has 1 x 201 pixels; one side may be 200 times the other at most."),
    ],
    ids=["text", "bmp", "head only", "scans", "bytes", "pixels", "warned of", "bomb", "34 bytes", "thin"],
)
def test_what_may_not_be_decoded(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        looked(data)
    assert (caught.value.message, caught.value.param, caught.value.code) == (message, "messages", "invalid_image")


def test_the_limit_of_pixels_can_be_set_and_the_picture_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"^Picture 3 has 48 x 32 pixels; at most 1535 are allowed\.$"):
        look(part(encoded(noise(1))), 3, max_pixels=1535)


def test_a_file_that_is_cut_short_is_noticed_when_it_is_decoded() -> None:
    with pytest.raises(InvalidRequest, match=r"^Picture 1 cannot be read"):
        looked(encoded(noise(1))[:-300]).pixels()


# The projector


@pytest.fixture(scope="module")
def stop() -> StopFlag:
    return StopFlag()


@pytest.fixture(scope="module")
def context(stop: StopFlag) -> Context:
    # Without rearranged weights, which crash on machines with AMX if GCC 12 compiled llama.cpp.
    load = Load(str(TINY), 256, 0, 1, mmap=True, mlock=False, embed=False, slots=4, cells=512, repack=False)
    return Context(load, stop)


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmproj(tmp_path_factory.mktemp("mmproj") / "mmproj.gguf")


@pytest.fixture
def projector(context: Context, mmproj: Path) -> Iterator[Projector]:
    with closing(opened(context, mmproj)) as projector:
        yield projector


def opened(context: Context, path: Path, **options: int) -> Projector:
    return Projector(str(path), context.model, threads=1, gpu=False, **options)


def picture_of(projector: Projector, data: bytes) -> Picture:
    (picture,) = (item for item in projector.items(looked(data)) if isinstance(item, Picture))
    return picture


def test_a_picture_stands_between_its_marks(context: Context, projector: Projector) -> None:
    begin, picture, end = (
        context.vocabulary.tokens("<start_of_image>", special=True),
        picture_of(projector, encoded(noise(1))),
        context.vocabulary.tokens("<end_of_image>", special=True),
    )
    assert projector.items(looked(encoded(noise(1)))) == [*begin, picture, *end]
    assert (picture.tokens, picture.positions) == (TOKENS, TOKENS)
    assert projector.batch == TOKENS


def test_a_picture_is_known_by_its_file(projector: Projector) -> None:
    first, again, other = (picture_of(projector, encoded(noise(seed))) for seed in (1, 1, 2))
    assert (first, first.number) == (again, again.number)
    assert first != other
    assert len({first.number, other.number, -1, 0}) == 4


def test_a_picture_is_encoded_once(projector: Projector) -> None:
    first, again, other = (projector.encode(picture_of(projector, encoded(noise(seed)))) for seed in (1, 1, 2))
    assert first is again
    assert first.shape == (TOKENS, WIDTH)
    assert not numpy.allclose(first, other, atol=0.01)


def test_embeddings_are_forgotten_when_there_are_too_many(context: Context, mmproj: Path) -> None:
    with closing(opened(context, mmproj, remembered=2 * TOKENS * WIDTH * 4)) as projector:
        pictures = [picture_of(projector, encoded(noise(seed))) for seed in (1, 2, 3)]
        first, second = (projector.encode(picture) for picture in pictures[:2])
        assert projector.encode(pictures[0]) is first
        projector.encode(pictures[2])
        assert projector.encode(pictures[0]) is first
        assert projector.encode(pictures[1]) is not second


def test_a_broken_file_is_noticed_when_it_is_encoded(projector: Projector) -> None:
    broken = picture_of(projector, encoded(noise(1))[:-300])
    with pytest.raises(InvalidRequest, match=r"^Picture 1 cannot be read"):
        projector.encode(broken)


def answer(context: Context, projector: Projector, data: bytes, sequence: int) -> list[int]:
    """The likeliest tokens after a prompt with a picture in it."""
    picture = picture_of(projector, data)
    start, question = (array("i", context.vocabulary.tokens(text, special=True)) for text in (PROMPT, QUESTION))
    context.decode([Part(sequence, 0, start, drawn=False)])
    place = projector.decode(context.pointer, picture, projector.encode(picture), sequence, len(start))
    assert place == len(start) + TOKENS
    tokens = question
    written: list[int] = []
    for _ in range(8):
        context.decode([Part(sequence, place, tokens)])
        place += len(tokens)
        tokens = array("i", [int(context.logits(1)[0].argmax())])
        written += tokens
    context.cut(sequence, 0)
    return written


def test_the_model_sees_the_picture_in_any_sequence(context: Context, projector: Projector) -> None:
    one, two = (encoded(noise(seed)) for seed in (1, 2))
    answers = [answer(context, projector, *given) for given in ((one, 3), (two, 3), (one, 0))]
    assert answers[0] == answers[2] != answers[1]


def test_other_sequences_do_not_see_it(context: Context, projector: Projector) -> None:
    tokens = array("i", context.vocabulary.tokens(PROMPT + QUESTION, special=True))
    picture = picture_of(projector, encoded(noise(1)))

    def expected() -> NDArray[numpy.float32]:
        context.decode([Part(1, 0, tokens)])
        logits = numpy.array(context.logits(1)[0])
        context.cut(1, 0)
        return logits

    alone = expected()
    projector.decode(context.pointer, picture, projector.encode(picture), 2, 0)
    assert numpy.allclose(expected(), alone, atol=1e-3)
    context.cut(2, 0)


def test_taking_in_a_picture_can_be_stopped(context: Context, projector: Projector, stop: StopFlag) -> None:
    picture = picture_of(projector, encoded(noise(1)))
    embeddings = projector.encode(picture)
    with stop.watching([7]), pytest.raises(Stopped):
        stop.cancel(7)
        projector.decode(context.pointer, picture, embeddings, 3, 0)
    context.cut(3, 0)
    assert projector.decode(context.pointer, picture, embeddings, 3, 0) == TOKENS
    context.cut(3, 0)


def text_file(path: Path) -> Path:
    path.write_text("no weights")
    return path


@pytest.mark.parametrize("write", [text_file, lambda path: write_mmproj(path, width=64)], ids=["text", "other width"])
def test_a_projector_that_cannot_be_loaded(context: Context, tmp_path: Path, write: object) -> None:
    assert callable(write)
    with pytest.raises(Unloadable, match=r"^llama\.cpp cannot load the projector other\.gguf with this model$"):
        opened(context, write(tmp_path / "other.gguf"))


# Which projector belongs to which model

GEMMA = "gemma-3-4b-it-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("model", "others", "found"),
    [
        (GEMMA, ["mmproj-gemma-3-4b-it-f16.gguf"], "mmproj-gemma-3-4b-it-f16.gguf"),
        (GEMMA, ["gemma-3-4b-it.mmproj-Q8_0.gguf"], "gemma-3-4b-it.mmproj-Q8_0.gguf"),
        (GEMMA, ["gemma-3-4b-it-Q4_K_M.mmproj.gguf"], "gemma-3-4b-it-Q4_K_M.mmproj.gguf"),
        (GEMMA, ["mmproj-gemma-3-4b.gguf", "mmproj-gemma-3-4b-it.gguf"], "mmproj-gemma-3-4b-it.gguf"),
        (GEMMA, ["mmproj-gemma-3-4.gguf", "mmproj-gemma-3-12b-it.gguf"], None),
        (GEMMA, ["mmproj-model-f16.gguf"], "mmproj-model-f16.gguf"),
        (GEMMA, ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (GEMMA, ["mmproj-F16.gguf", "gemma-3-4b-it-UD-Q2_K_XL.gguf"], "mmproj-F16.gguf"),
        (GEMMA, ["mmproj-F16.gguf", "qwen3-8b-Q4_K_M.gguf"], None),
        (GEMMA, ["mmproj-F16.gguf", "mmproj-gemma-3-4b-it.gguf"], "mmproj-gemma-3-4b-it.gguf"),
        (GEMMA, ["projector.gguf"], None),
        ("Big-00001-of-00002.gguf", ["Big-00002-of-00002.gguf", "mmproj-big.gguf"], "mmproj-big.gguf"),
    ],
)
def test_a_projector_is_found_beside_its_model(
    tmp_path: Path, model: str, others: list[str], found: str | None
) -> None:
    for name in others:
        write_mmproj(tmp_path / name)
    for name in (model, *(name for name in others if "mmproj" not in name)):
        (tmp_path / name).write_bytes(TINY.read_bytes())
    (file,) = Library([tmp_path / model], None, None).scan().values()
    assert file.projector == (tmp_path / found if found else None)
    assert file.capabilities == {"chat", "tools"} | ({"vision"} if found else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"general__architecture": "llama"},
        {"clip__has_vision_encoder": False, "clip__has_audio_encoder": True},
        {"clip__vision__projection_dim": 64},
    ],
    ids=["a model", "for sound", "other width"],
)
def test_a_projector_that_cannot_be_the_models(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_mmproj(tmp_path / "mmproj.gguf", **changes)
    (tmp_path / "m.gguf").write_bytes(TINY.read_bytes())
    assert Library([], tmp_path, None).scan()["m"].projector is None


def test_an_old_projector_may_say_another_width(tmp_path: Path) -> None:
    write_mmproj(tmp_path / "mmproj.gguf", clip__vision__projection_dim=64, general__type="")
    (tmp_path / "m.gguf").write_bytes(TINY.read_bytes())
    assert Library([], tmp_path, None).scan()["m"].projector == tmp_path / "mmproj.gguf"


def test_a_projector_that_comes_later_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(TINY.read_bytes())
    library = Library([], tmp_path, None)
    assert library.scan()["m"].projector is None
    write_mmproj(tmp_path / "mmproj.gguf")
    assert library.scan()["m"].projector == tmp_path / "mmproj.gguf"


def test_a_projector_is_no_model(tmp_path: Path) -> None:
    projector = write_mmproj(tmp_path / "clip.gguf")
    assert Library([projector], None, None).scan()["clip"].problem == (
        "the file clip.gguf is a projector, and no model by itself"
    )


# Through the backend

ANSWER = Sampling(temperature=0.0, max_tokens=8)
MARKS = 17
"""Tokens for `<start_of_image>` and `<end_of_image>`, which the vocabulary of the tiny model does not have."""


@pytest.fixture(scope="module")
async def llama(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCpp]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "seeing.gguf").write_bytes(TINY.read_bytes())
    write_mmproj(folder / "mmproj-seeing.gguf")
    backend = LlamaCpp([], folder, TINY, threads=1)
    yield backend
    await backend.close()


def turn(*parts: Image | Text) -> Message:
    return Message("user", parts)


async def ask(backend: LlamaCpp, *messages: Message, model: str = "seeing") -> tuple[str, Usage]:
    request = ModelRequest(model, messages, ANSWER)
    deltas = [delta async for delta in backend.chat(request)]
    assert deltas[-1].usage
    return "".join(delta.text for delta in deltas), deltas[-1].usage


async def test_a_model_with_a_projector_is_listed_as_seeing(llama: LlamaCpp) -> None:
    seeing = {info.id for info in await llama.models() if "vision" in (info.capabilities or ())}
    assert seeing == {"seeing"}


async def test_a_model_without_a_projector_refuses_pictures(llama: LlamaCpp) -> None:
    with pytest.raises(Unsupported):
        await ask(llama, turn(part(encoded(noise(1)))), model="drover-tiny")


async def test_a_picture_counts_as_its_tokens_and_marks(llama: LlamaCpp) -> None:
    _, without = await ask(llama, turn(Text("Hello")))
    _, usage = await ask(llama, turn(part(encoded(noise(1))), Text("Hello")))
    assert usage.prompt_tokens == without.prompt_tokens + TOKENS + MARKS


async def test_the_answer_depends_on_the_pictures_and_their_order(llama: LlamaCpp) -> None:
    one, two = (part(encoded(noise(seed))) for seed in (1, 2))
    answers = [await ask(llama, turn(*shown, Text("Hello"))) for shown in ((one, two), (two, one), (one, two))]
    texts = [text for text, _ in answers]
    assert texts[0] == texts[2] != texts[1]


async def test_a_picture_of_an_earlier_turn_is_remembered(llama: LlamaCpp) -> None:
    seen = turn(part(encoded(noise(5))), Text("Hello"))
    text, first = await ask(llama, seen)
    _, second = await ask(llama, seen, Message("assistant", text), turn(Text("And now?")))
    assert second.cached_tokens >= first.prompt_tokens - 1


@pytest.mark.parametrize("mark", ["<__media__>", "\ufdd1"])
async def test_nobody_can_write_a_picture(llama: LlamaCpp, mark: str) -> None:
    _, plain = await ask(llama, turn(part(encoded(noise(1))), Text("Hello")))
    _, marked = await ask(llama, turn(part(encoded(noise(1))), Text(f"Hello{mark}")))
    assert 0 <= marked.prompt_tokens - plain.prompt_tokens < len("<__media__>")


async def test_a_picture_that_cannot_be_read_is_the_callers_fault(llama: LlamaCpp) -> None:
    with pytest.raises(InvalidRequest, match=r"^Picture 2 cannot be read") as caught:
        await ask(llama, turn(part(encoded(noise(1))), part(b"no picture"), Text("Hello")))
    assert (caught.value.param, caught.value.code) == ("messages", "invalid_image")


async def test_pictures_that_do_not_fit_into_the_context(llama: LlamaCpp) -> None:
    pictures = [part(encoded(noise(seed))) for seed in range(100)]
    with pytest.raises(ContextTooLong):
        await ask(llama, turn(*pictures, Text("Hello")))
