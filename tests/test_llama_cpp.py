"""The llama.cpp backend on the built-in model: real inference in real engine processes."""

import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from models.backend import (
    ContextTooLong,
    Health,
    InvalidRequest,
    JsonOutput,
    ModelError,
    ModelInfo,
    ModelNotFound,
    ModelRequest,
    NamedTool,
    Sampling,
    TextOutput,
    ToolSpec,
    Unavailable,
    Unsupported,
)
from models.llama_cpp import LlamaCpp
from models.messages import CallDelta, Delta, Image, Message, Text, ToolCall, TopLogprob, Usage
from tests.llama_gguf import write_variant

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
TINY = ROOT / "models/builtin/tiny.gguf"
GREETING = "Hello! I am a tiny demonstration model. How can I help?"
PYTHON = ToolSpec(
    "python", "Runs Python.", {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
)
GREEDY = Sampling(temperature=0.0)
ENDLESS = Sampling(temperature=1.0, seed=1, logit_bias={1418: -1000.0, 1420: -1000.0})
"""Without the tokens that end an answer."""


@pytest.fixture(scope="module")
async def llama(anyio_backend: str) -> AsyncIterator[LlamaCpp]:
    backend = LlamaCpp([], None, TINY, threads=1)
    yield backend
    await backend.close()


def user(text: str) -> Message:
    return Message("user", text)


def request(
    *messages: Message | str, model: str = "drover-tiny", sampling: Sampling = GREEDY, **more: Any
) -> ModelRequest:
    turns = tuple(user(message) if isinstance(message, str) else message for message in messages)
    return ModelRequest(model, turns, sampling, **more)


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream, folded."""

    text: str = ""
    thought: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish: str | None = None


async def ask(backend: LlamaCpp, asked: ModelRequest) -> tuple[Reply, list[Delta]]:
    deltas = [delta async for delta in backend.chat(asked)]
    return folded(deltas), deltas


def folded(deltas: list[Delta]) -> Reply:
    return Reply(
        "".join(delta.text for delta in deltas),
        "".join(delta.thought for delta in deltas),
        joined(call for delta in deltas for call in delta.calls),
        deltas[-1].finish,
    )


def joined(pieces: Iterable[CallDelta]) -> tuple[CallDelta, ...]:
    """Calls that came in pieces."""
    calls: dict[int, CallDelta] = {}
    for piece in pieces:
        begun = calls.get(piece.index, CallDelta(piece.index))
        calls[piece.index] = CallDelta(piece.index, begun.name + piece.name, begun.arguments + piece.arguments)
    return tuple(calls.values())


async def refusal(backend: LlamaCpp, asked: ModelRequest) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await ask(backend, asked)
    return caught.value


def facts(error: ModelError) -> tuple[type[ModelError], str, str | None, str | None]:
    return type(error), error.message, error.param, error.code


# The demonstration model


def test_the_shipped_file_is_the_one_that_these_tests_pin() -> None:
    digest = hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert digest == "51600b82ab98799023d4dafa549426e7ebb64763dacb8386b7d8e39cc41c04ca"


async def test_a_greeting(llama: LlamaCpp) -> None:
    reply, deltas = await ask(llama, request("Hello"))
    assert reply == Reply(GREETING, finish="stop")
    assert deltas[-1] == Delta(finish="stop", usage=Usage(11, 22, 0, 0))


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Say banana", "banana"),
        (
            "who are you?",
            "I am a tiny demonstration model. I was trained only on synthetic data, so I know very little.",
        ),
        (
            "What is the capital of France?",
            "I am only a tiny demonstration model and I do not know that."
            " Please configure a larger model for real answers.",
        ),
    ],
)
async def test_picked_prompts(llama: LlamaCpp, prompt: str, answer: str) -> None:
    reply, _ = await ask(llama, request(prompt))
    assert reply == Reply(answer, finish="stop")


async def test_a_tool_call_and_the_answer_from_its_result(llama: LlamaCpp) -> None:
    question = user("What is 81 * 34?")
    reply, _ = await ask(llama, request(question, tools=(PYTHON,)))
    assert reply == Reply(calls=(CallDelta(0, "python", '{"code": "print(81*34)"}'),), finish="tool_calls")
    called = Message("assistant", tool_calls=(ToolCall("call_1", "python", reply.calls[0].arguments),))
    result = Message("tool", "2754", tool_call_id="call_1", name="python")
    reply, _ = await ask(llama, request(question, called, result, tools=(PYTHON,)))
    assert reply == Reply("81 * 34 = 2754.", finish="stop")


# How tokens are drawn


async def test_the_same_seed_gives_the_same_text_whatever_was_asked_between(llama: LlamaCpp) -> None:
    asked = request("Tell me a story", sampling=Sampling(temperature=1.5, seed=7, max_tokens=60))
    first, _ = await ask(llama, asked)
    await ask(llama, request("Tell me a joke"))
    second, _ = await ask(llama, asked)
    third, _ = await ask(llama, asked)
    assert first == second == third


async def test_seeds_differ(llama: LlamaCpp) -> None:
    seeds = [-1, 0, 1, 2**32 - 1, 2**63, 2**70]
    texts = set()
    for seed in seeds:
        sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed, max_tokens=30)
        texts.add((await ask(llama, request("Hello", sampling=sampling)))[0].text)
    assert len(texts) >= 5  # 0 and 2**32 - 1 are folded into one.


async def test_max_tokens_cut_the_answer(llama: LlamaCpp) -> None:
    reply, deltas = await ask(llama, request("Hello", sampling=Sampling(temperature=0.0, seed=1, max_tokens=5)))
    assert reply.finish == "length"
    assert GREETING.startswith(reply.text)
    assert deltas[-1].usage == Usage(11, 5, 0, 0)


async def test_a_full_context_ends_the_answer(llama: LlamaCpp) -> None:
    reply, deltas = await ask(llama, request("Hello", sampling=ENDLESS, num_ctx=100))
    assert reply.finish == "length"
    assert deltas[-1].usage == Usage(11, 89, 0, 0)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("iny demonst",), "Hello! I am a t"),
        (("model", "am a"), "Hello! I "),
        (("?",), GREETING.removesuffix("?")),
        (("zebra", ""), GREETING),
        (("H",), ""),
    ],
)
async def test_stop_strings_are_never_shown(llama: LlamaCpp, stop: tuple[str, ...], text: str) -> None:
    reply, _ = await ask(llama, request("Hello", sampling=Sampling(temperature=0.0, stop=stop)))
    assert reply == Reply(text, finish="stop")


async def test_logprobs_tell_each_token_with_its_bytes_and_rivals(llama: LlamaCpp) -> None:
    sampling = Sampling(temperature=0.0, logprobs=True, top_logprobs=2)
    reply, deltas = await ask(llama, request("Hello", sampling=sampling))
    logprobs = [entry for delta in deltas for entry in delta.logprobs]
    assert "".join(entry.token for entry in logprobs) == reply.text == GREETING
    assert len(logprobs) == 21
    for entry in logprobs:
        rivals = entry.top_logprobs
        assert bytes(entry.bytes or ()).decode() == entry.token
        assert rivals[0] == TopLogprob(entry.token, entry.logprob, entry.bytes)
        assert len(rivals) == 2
        assert 0 >= rivals[0].logprob >= rivals[1].logprob


async def test_a_biased_token_is_taken_and_a_banned_one_is_not(llama: LlamaCpp) -> None:
    forced = Sampling(temperature=1.0, max_tokens=3, logit_bias={1412: 1000.0})
    assert (await ask(llama, request("Hello", sampling=forced)))[0].text == " bot bot bot"
    wrong = Sampling(logit_bias={1427: 1.0})
    assert facts(await refusal(llama, request("Hello", sampling=wrong))) == (
        InvalidRequest,
        "Token 1427 is not in the vocabulary of this model, which has 1427 tokens.",
        "logit_bias",
        "invalid_value",
    )


async def test_the_file_s_own_sampling_is_the_default(tmp_path: Path) -> None:
    path = write_variant(TINY, tmp_path / "greedy.gguf", general__sampling__top_k=1)
    backend = LlamaCpp([path], None, None, threads=1)
    reply, _ = await ask(backend, request("Hello", model="greedy", sampling=Sampling()))
    await backend.close()
    assert reply == Reply(GREETING, finish="stop")


# Constrained answers

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,12}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "tags", "home"],
    "additionalProperties": False,
    "$defs": {"place": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}},
}


@pytest.mark.parametrize("seed", range(5))
async def test_a_schema_holds_at_any_temperature(llama: LlamaCpp, seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    reply, _ = await ask(llama, request("Who are you?", sampling=sampling, output=JsonOutput(PERSON)))
    assert reply.finish == "stop"
    value = json.loads(reply.text)
    jsonschema.validate(value, PERSON)
    assert reply.text == msgspec.json.encode(value).decode()


async def test_an_enum_is_answered_by_one_of_its_values(llama: LlamaCpp) -> None:
    output = JsonOutput({"enum": ["react", "plan", "debate"]})
    reply, _ = await ask(llama, request("Which?", sampling=Sampling(temperature=2.0, seed=1), output=output))
    assert reply.text in ('"react"', '"plan"', '"debate"')
    assert reply.finish == "stop"


async def test_without_a_schema_the_answer_is_some_object(llama: LlamaCpp) -> None:
    brief = Sampling(temperature=1.0, seed=3, logit_bias={1: 10.0, 92: 10.0})  # The tokens " and }.
    reply, _ = await ask(llama, request("Hello", sampling=brief, output=JsonOutput()))
    assert isinstance(json.loads(reply.text), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (TextOutput(regex=r"[0-9]{2}/[a-c]+ \(x|y\)"), r"[0-9]{2}/[a-c]+ \(x|y\)"),
        (TextOutput(choice=('say "yes"', "n/o", "<|im_end|>")), r'say "yes"|n/o|<\|im_end\|>'),
        (TextOutput(grammar='start: "<" word ("," word)* ">"\nword: /[a-z]{3}/'), r"<[a-z]{3}(,[a-z]{3})*>"),
        (TextOutput(grammar='root ::= "a" digit digit\ndigit ::= [0-9]'), r"a[0-9][0-9]"),
    ],
)
async def test_a_text_has_the_form_that_is_asked_for(llama: LlamaCpp, form: TextOutput, pattern: str) -> None:
    for seed in range(3):
        free = Sampling(temperature=1.5, seed=seed, max_tokens=60)
        reply, _ = await ask(llama, request("Hello", text_output=form, sampling=free))
        assert reply.finish == "length" or re.fullmatch(pattern, reply.text), reply


@pytest.mark.parametrize(
    "form", [TextOutput(regex="a("), TextOutput(regex="(?=a)"), TextOutput(grammar="a"), TextOutput(grammar="}\n}")]
)
async def test_a_form_that_cannot_be_enforced(llama: LlamaCpp, form: TextOutput) -> None:
    error = await refusal(llama, request("Hello", text_output=form))
    assert (type(error), error.param) == (InvalidRequest, "structured_outputs")


async def test_json_that_does_not_fit_is_reported_as_cut(llama: LlamaCpp) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=4)
    reply, _ = await ask(llama, request("Hello", sampling=sampling, output=JsonOutput(PERSON)))
    assert reply.finish == "length"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "banana"}, "Invalid type: banana"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"$ref": "#/$defs/nowhere"}, "Pointer '/$defs/nowhere' does not exist"),
    ],
)
async def test_a_schema_that_cannot_be_enforced(llama: LlamaCpp, schema: dict[str, Any], reason: str) -> None:
    assert facts(await refusal(llama, request("Hello", output=JsonOutput(schema)))) == (
        InvalidRequest,
        f"The schema cannot be enforced: {reason}",
        "response_format",
        "invalid_value",
    )


ADD = ToolSpec(
    "add",
    "Adds.",
    {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
)


@pytest.mark.parametrize("seed", range(3))
async def test_a_required_tool_is_called_with_valid_arguments(llama: LlamaCpp, seed: int) -> None:
    asked = request(
        "Hello",
        sampling=Sampling(temperature=1.0, seed=seed),
        tools=(ADD, ToolSpec("now")),
        tool_choice="required",
        parallel_tool_calls=False,
    )
    reply, _ = await ask(llama, asked)
    (call,) = reply.calls
    assert reply == Reply(calls=(CallDelta(0, call.name, call.arguments),), finish="tool_calls")
    schemas: dict[str, Any] = {"add": ADD.parameters, "now": {"type": "object", "maxProperties": 0}}
    jsonschema.validate(json.loads(call.arguments), schemas[call.name])


async def test_a_named_tool_is_called(llama: LlamaCpp) -> None:
    choice = NamedTool("add")
    reply, _ = await ask(llama, request("Hello", tools=(PYTHON, ADD), tool_choice=choice, parallel_tool_calls=False))
    assert [call.name for call in reply.calls] == ["add"]
    error = await refusal(llama, request("Hello", tools=(PYTHON,), tool_choice=choice))
    assert facts(error) == (InvalidRequest, "There is no tool `add` in tools.", "tool_choice", "invalid_value")


async def test_characters_are_never_split(llama: LlamaCpp) -> None:
    text = "Grüße, 世界 👩‍👩‍👧 नमस्ते"
    each = Sampling(temperature=0.0, logprobs=True)  # Otherwise what leaves no choice comes in one piece.
    reply, deltas = await ask(llama, request("Hello", output=JsonOutput({"const": text}), sampling=each))
    assert reply.text == json.dumps(text, ensure_ascii=False)
    assert not any("\ufffd" in delta.text for delta in deltas)
    assert len(deltas) > len(text) / 2


# What does not work, and says so


async def test_a_prompt_that_does_not_fit(llama: LlamaCpp) -> None:
    error = await refusal(llama, request("a " * 3000))
    assert isinstance(error, ContextTooLong)
    assert facts(error) == (
        ContextTooLong,
        "This model's maximum context length is 2048 tokens. However, your messages resulted in 6008 tokens."
        " (context_length_exceeded)",
        "messages",
        "context_length_exceeded",
    )


async def test_pictures_and_wider_contexts_are_not_supported(llama: LlamaCpp) -> None:
    picture = Message("user", (Text("What is this?"), Image("aGk=", "image/png")))
    assert [facts(await refusal(llama, asked)) for asked in (request(picture), request("Hi", num_ctx=4096))] == [
        (Unsupported, "image_url is not supported by this model", "messages", "unsupported_parameter"),
        (Unsupported, "This model is run with a context of 2048 tokens.", "num_ctx", "unsupported_parameter"),
    ]


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "cut.gguf").write_bytes(TINY.read_bytes()[:5000])
    (tmp_path / "half.gguf").write_bytes(TINY.read_bytes()[:1_000_000])
    backend = LlamaCpp([tmp_path / "gone.gguf"], tmp_path, TINY, threads=1)
    errors = {
        model: await refusal(backend, request("Hi", model=model)) for model in ("gone", "text", "cut", "half", "no")
    }
    half = errors.pop("half")
    models = {info.id for info in await backend.models()}
    health = await backend.check()
    await backend.close()
    assert {model: (type(error), error.message) for model, error in errors.items()} == {
        "gone": (
            Unavailable,
            "The model `gone` cannot be used: the file gone.gguf cannot be opened: No such file or directory.",
        ),
        "text": (
            Unavailable,
            "The model `text` cannot be used: the file text.gguf is not a usable GGUF file:"
            " it does not begin with the letters GGUF.",
        ),
        "cut": (
            Unavailable,
            "The model `cut` cannot be used: the file cut.gguf is not a usable GGUF file: it is cut short.",
        ),
        "no": (ModelNotFound, "The model `no` does not exist or you do not have access to it."),
    }
    assert isinstance(half, Unavailable)
    assert half.message.startswith("The model `half` cannot be loaded: llama.cpp cannot load half.gguf: ")
    assert "corrupted or incomplete" in half.message
    assert models == {"drover-tiny", "half"}
    assert health.ok
    assert f"gone.gguf cannot be opened: No such file or directory ({tmp_path}/gone.gguf)" in health.detail
    assert health.hint


# The catalog


async def test_the_models_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    os.link(TINY, tmp_path / "deep" / "one.gguf")
    os.link(TINY, tmp_path / "big-00001-of-00002.gguf")
    os.link(TINY, tmp_path / "big-00002-of-00002.gguf")
    os.link(TINY, tmp_path / "one-mmproj-f16.gguf")
    write_variant(TINY, tmp_path / "vectors.gguf", llama__pooling_type=1)
    backend = LlamaCpp([], tmp_path, TINY, n_ctx=1024)
    created = int(TINY.stat().st_mtime)
    infos = {info.id: info for info in await backend.models()}
    assert infos.pop("vectors").capabilities == frozenset({"embed"})
    assert infos == {
        model: ModelInfo(model, "llama_cpp", created, owner, frozenset({"chat", "tools"}), 1024, False)
        for model, owner in {"big": "", "one": "", "drover-tiny": "drover"}.items()
    }
    (tmp_path / "deep" / "one.gguf").unlink()
    assert {info.id for info in await backend.models()} == {"big", "vectors", "drover-tiny"}
    assert await backend.check() == Health(True, "3 models")


async def test_health_without_any_model() -> None:
    assert await LlamaCpp([], None, None).check() == Health(False, "0 models", "Name GGUF files, or a folder of them.")


# Templates


async def test_a_tool_with_another_name(llama: LlamaCpp) -> None:
    parameters = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
    weather = ToolSpec("get_weather", "Tells the weather.", parameters)
    reply, _ = await ask(llama, request("What is the weather in Paris?", tools=(weather,)))
    assert reply == Reply(calls=(CallDelta(0, "get_weather", '{"location": "Paris"}'),), finish="tool_calls")


async def test_what_people_write_never_becomes_a_control_token(llama: LlamaCpp) -> None:
    async def prompt_tokens(text: str) -> int:
        _, deltas = await ask(llama, request(text, sampling=Sampling(max_tokens=1)))
        usage = deltas[-1].usage
        assert usage
        return usage.prompt_tokens

    assert await prompt_tokens("<|im_end|>") > await prompt_tokens("x") + 3


async def test_templates_of_other_files(tmp_path: Path) -> None:
    refusing = write_variant(TINY, tmp_path / "refusing.gguf", tokenizer__chat_template="{{ raise_exception('No.') }}")
    bare = write_variant(TINY, tmp_path / "bare.gguf", tokenizer__chat_template="")
    backend = LlamaCpp([refusing, bare], None, None, threads=1)
    assert facts(await refusal(backend, request("Hello", model="refusing"))) == (
        InvalidRequest,
        "The model's chat template refuses these messages: No.",
        "messages",
        "invalid_value",
    )
    assert (await ask(backend, request("Hello", model="bare")))[0] == Reply(GREETING, finish="stop")
    error = await refusal(backend, request("Hello", model="bare", tools=(PYTHON,)))
    assert facts(error) == (
        Unsupported,
        "This model's chat template has no place for tools.",
        "tools",
        "unsupported_parameter",
    )
    await backend.close()


async def test_an_answer_can_be_continued(llama: LlamaCpp) -> None:
    begun = Message("assistant", "Hello! I am a tiny")
    reply, _ = await ask(llama, request("Hello", begun, continue_final_message=True))
    assert begun.text + reply.text == GREETING


# Embeddings


async def test_vectors(tmp_path: Path, llama: LlamaCpp) -> None:
    path = write_variant(TINY, tmp_path / "vectors.gguf", llama__pooling_type=1)
    backend = LlamaCpp([path], None, None, threads=1)
    full = await backend.embed("vectors", ["Hello", "Hello you", "Hello"])
    short = await backend.embed("vectors", ["Hello"], 8)
    with pytest.raises(InvalidRequest) as too_wide:
        await backend.embed("vectors", ["Hello"], 1000)
    with pytest.raises(InvalidRequest) as too_long:
        await backend.embed("vectors", ["a " * 3000])
    for inputs in ([], ["Hello", ""]):
        with pytest.raises(InvalidRequest, match="none without tokens"):
            await backend.embed("vectors", inputs)
    chat = await refusal(backend, request("Hello", model="vectors"))
    await backend.close()
    with pytest.raises(InvalidRequest) as no_vectors:
        await llama.embed("drover-tiny", ["Hello"])
    assert full.usage == Usage(10)
    assert full.vectors[0] == pytest.approx(full.vectors[2], abs=1e-6)
    assert full.vectors[0] != pytest.approx(full.vectors[1], abs=1e-3)
    for vector in [*full.vectors, *short.vectors]:
        assert sum(number * number for number in vector) == pytest.approx(1.0, abs=1e-5)
    assert [len(vector) for vector in [*full.vectors, *short.vectors]] == [192, 192, 192, 8]
    assert [facts(error) for error in (too_wide.value, too_long.value, chat, no_vectors.value)] == [
        (InvalidRequest, "This model's vectors have 192 dimensions.", "dimensions", "invalid_value"),
        (
            InvalidRequest,
            "This model's maximum context length is 2048 tokens. However, an input has 6000 tokens.",
            "input",
            "context_length_exceeded",
        ),
        (InvalidRequest, "The model `vectors` does not support chat completions.", "model", "invalid_value"),
        (InvalidRequest, "The model `drover-tiny` does not support embeddings.", "model", "invalid_value"),
    ]


# Cancelling


async def test_a_closed_answer_makes_place_at_once(llama: LlamaCpp) -> None:
    async with aclosing(llama.chat(request("Hello", sampling=ENDLESS))) as answer:
        await anext(answer)
    start = time.monotonic()
    assert (await ask(llama, request("Hello")))[0].text == GREETING
    assert time.monotonic() - start < 1  # The rest of the first answer would take two seconds more.
