"""How families of models write: their texts in pieces, their templates, and calls that they are made to write."""

# ruff: noqa: RUF001 - the bars of DeepSeek's tokens are wide

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import jsonschema
import msgspec
import pytest

from models.backend import InvalidRequest, JsonOutput, ModelRequest, NamedTool, Sampling, ToolSpec
from models.llama_cpp import LlamaCpp
from models.llama_cpp.answer import Answer
from models.llama_cpp.families import FAMILIES, Family, family_of
from models.llama_cpp.template import ChatTemplate
from models.llama_cpp.vocabulary import Vocabulary
from models.messages import CallDelta, Delta, FinishReason, Message, TokenLogprob, ToolCall
from tests.llama_gguf import write_variant

pytestmark = pytest.mark.anyio

TINY = Path(__file__).parents[1] / "models/builtin/tiny.gguf"
FAMILY = {family.name: family for family in FAMILIES}
ADD = ToolSpec(
    "add",
    "Adds.",
    {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/digit"},
            "unit": {"enum": ["m", "ft"]},
            "exact": {"type": "boolean"},
            "steps": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
        },
        "required": ["a", "unit"],
        "additionalProperties": False,
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
)
NOW = ToolSpec("now")
SAY = ToolSpec(
    "say",
    "Says.",
    {
        "properties": {
            "text": {"type": "string"},
            "loud": {"type": "boolean"},
            "times": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "to": {"type": ["string", "null"]},
            "with": {"type": "object"},
        }
    },
)
TOOLS = (ADD, NOW, SAY)


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream, folded."""

    text: str = ""
    thought: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """Names and arguments."""
    finish: str = "stop"


def folded(deltas: Iterable[Delta], finish: FinishReason) -> Reply:
    text, thought, calls = "", "", dict[int, tuple[str, str]]()
    for delta in deltas:
        text += delta.text
        thought += delta.thought
        for call in delta.calls:
            name, arguments = calls.get(call.index, ("", ""))
            assert bool(name) != bool(call.name)
            calls[call.index] = (name or call.name, arguments + call.arguments)
    assert list(calls) == list(range(len(calls)))
    return Reply(text, thought, tuple(calls.values()), finish)


def read(family: Family, pieces: Iterable[str], finish: FinishReason = "stop", **how: Any) -> Reply:
    """What becomes of a text that comes in pieces."""
    options: dict[str, Any] = {"thinking": False, "tools": TOOLS, "stop": (), "one_call": False} | how
    answer = Answer(family, **options)
    deltas = [answer.feed(piece, None) for piece in pieces if not answer.complete]
    deltas.append(answer.finish())
    return folded(deltas, answer.reason(finish))


def in_pieces(text: str) -> Iterable[list[str]]:
    """A text cut in two at every place, in small pieces, and by chance."""
    yield [text]
    yield from ([text[:place], text[place:]] for place in range(1, len(text)))
    for size in (1, 2, 3, 7):
        yield [text[start : start + size] for start in range(0, len(text), size)]
    chance = random.Random(text)
    for _ in range(10):
        cuts = sorted(chance.sample(range(1, len(text)), min(9, len(text) - 1)))
        yield [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def called(*calls: tuple[str, str], text: str = "", thought: str = "", finish: str = "tool_calls") -> Reply:
    return Reply(text, thought, calls, finish)


ONE = ("add", '{"a": 1}')
TWO = ("add", '{"a": 2}')
NONE = ("now", "{}")
HARD = ("say", '{"text": "a } \\" ] </tool_call> [TOOL_CALLS] 世界 👩‍👩‍👧"}')
"""What may stand in a string."""


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def named(name: str, arguments: str) -> str:
    return f'{{"name": "{name}", "arguments": {arguments}}}'


def coder(name: str, *arguments: tuple[str, str], tag: str = "tool_call") -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments)
    return f"<{tag}>\n<function={name}>\n{inner}</function>\n</{tag}>"


def dsml(*arguments: tuple[str, str, str]) -> str:
    inner = "".join(
        f'<｜DSML｜parameter name="{key}" string="{text}">{value}</｜DSML｜parameter>\n'
        for key, text, value in arguments
    )
    return f'<｜DSML｜invoke name="say">\n{inner}</｜DSML｜invoke>'


R1 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
KIMI = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CONVERSATIONS: list[tuple[str, str, Reply]] = [
    # Hermes, Qwen 2.5 and 3, Granite 4
    ("hermes", "Plain text. ", Reply("Plain text. ")),
    ("hermes", "1 < 2 <tool", Reply("1 < 2 <tool")),
    ("hermes", f"Well.\n{hermes(*ONE)}\n", called(ONE, text="Well.")),
    ("hermes", f"{hermes(*ONE)}\n{hermes(*TWO)}", called(ONE, TWO)),
    ("hermes", hermes(*HARD), called(HARD)),
    ("hermes", f"<think>\nHm.\n\nSo.\n</think>\n\n{hermes(*ONE)}", called(ONE, thought="Hm.\n\nSo.")),
    ("hermes", "<think>\n\n</think>\n\nYes.", Reply("Yes.")),
    ("hermes", "The tag <think> is known.", Reply("The tag <think> is known.")),
    ("hermes", f"<think>{hermes(*ONE)}</think>{hermes(*TWO)}", called(TWO, thought=hermes(*ONE))),
    ("hermes", '<tool_call>\n{"arguments": {"a": 1}, "name": "add"}\n</tool_call>', called(ONE)),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', called(ONE)),
    ("hermes", '<tool_call>{"id": 7, "name": "add", "parameters": {"a": 1}}</tool_call>', called(ONE)),
    ("hermes", '<tool_call>{"name": "now"}</tool_call> Done.', called(NONE, text="Done.")),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}</tool_call>.', called(ONE, text=".")),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": </tool_call>', called(("add", '{"a": '))),
    ("hermes", hermes("other", '{"b": 1}'), called(("other", '{"b": 1}'))),
    ("hermes", f"So:\n {hermes('', '{}')} ", Reply(f"So:\n {hermes('', '{}')} ")),
    ("hermes", "<tool_call>nonsense</tool_call> so", Reply("<tool_call>nonsense</tool_call> so")),
    ("hermes", f"<tool_call>nonsense {hermes(*ONE)}", called(ONE, text="<tool_call>nonsense")),
    ("hermes", '<tool_call>{"name": 1}</tool_call>', Reply('<tool_call>{"name": 1}</tool_call>')),
    # Qwen3-Coder, Qwen 3.5, Nemotron 3, Seed-OSS
    ("qwen-coder", f"Text.\n{coder('add', ('a', '1'))}", called(ONE, text="Text.")),
    ("qwen-coder", f"{coder('add', ('a', '1'))}\n{coder('now')}", called(ONE, NONE)),
    ("qwen-coder", coder("add", ("a", "1")).removeprefix("<tool_call>\n"), called(ONE)),
    (
        "qwen-coder",
        coder("say", ("text", "if a < b:\n  </parameter>\n\n"), ("loud", "True"), ("times", "None"), ("to", "5")),
        called(("say", '{"text": "if a < b:\\n  </parameter>\\n\\n", "loud": true, "times": null, "to": "5"}')),
    ),
    (
        "qwen-coder",
        coder("say", ("with", '{"x": [1]}'), ("loud", "perhaps"), ("more", "1.5"), ("text", "世界 👩‍👩‍👧")),
        called(("say", '{"with": {"x": [1]}, "loud": "perhaps", "more": 1.5, "text": "世界 👩‍👩‍👧"}')),
    ),
    ("qwen-coder", "a <function=f> b", Reply("a <function=f> b")),
    ("qwen-coder", "<tool_call>\nno </tool_call>", Reply("<tool_call>\nno </tool_call>")),
    (
        "seed",
        f"<seed:think>Hm.</seed:think>{coder('add', ('a', '1'), tag='seed:tool_call')}",
        called(ONE, thought="Hm."),
    ),
    # GLM, MiniMax
    (
        "glm",
        "<think>Hm.</think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>\n"
        "<tool_call>say<arg_key>text</arg_key><arg_value>12</arg_value></tool_call><tool_call>now\n</tool_call>",
        called(ONE, ("say", '{"text": "12"}'), NONE, thought="Hm."),
    ),
    ("glm", "<tool_call>a b</tool_call>", Reply("<tool_call>a b</tool_call>")),
    (
        "minimax",
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n'
        '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        called(ONE, NONE),
    ),
    # Llama 3
    ("llama3", '{"name": "add", "parameters": {"a": 1}}', called(ONE)),
    ("llama3", '{"type": "function", "name": "add", "parameters": {"a": 1}}', called(ONE)),
    ("llama3", '{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}', called(ONE, NONE)),
    ("llama3", 'Well. <|python_tag|>{"name": "add", "parameters": {"a": 1}}', called(ONE, text="Well.")),
    ("llama3", "<|python_tag|>print(1)", Reply("<|python_tag|>print(1)")),
    ("llama3", '{"name": "Ada", "parameters": {"a": 1}} ', Reply('{"name": "Ada", "parameters": {"a": 1}} ')),
    ("llama3", '{"name": "Ada", "age": 36}', Reply('{"name": "Ada", "age": 36}')),
    ("llama3", '{"result": [1]} <', Reply('{"result": [1]} <')),
    # Mistral, Magistral
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[CALL_ID]x9[ARGS]{}', called(ONE, NONE)),
    ("mistral", 'So [TOOL_CALLS]add{"a": 1}', called(ONE, text="So")),
    ("mistral", f"[TOOL_CALLS]say[ARGS]{HARD[1]}", called(HARD)),
    ("mistral", "[THINK]Hm.[/THINK]Yes [1].", Reply("Yes [1].", "Hm.")),
    ("mistral", "[TOOL_CALLS] are made by models.", Reply("[TOOL_CALLS] are made by models.")),
    ("mistral", f"[TOOL_CALLS]{'x' * 400}{{}}", Reply(f"[TOOL_CALLS]{'x' * 400}{{}}")),
    ("old-mistral", f"[TOOL_CALLS] [{named(*ONE)}, {named(*NONE)}]", called(ONE, NONE)),
    ("old-mistral", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "123456789"}]', called(ONE)),
    # Gemma
    ("gemma4", "<|tool_call>call:add{a:1}<tool_call|><|tool_call>call:now{}<tool_call|>", called(ONE, NONE)),
    (
        "gemma4",
        '<|channel>thought\nHm.<channel|>Yes.<|tool_call>call:say{text:<|"|>a:"{}",\n<|"|>,'
        'with:{x:[1,<|"|>y<|"|>],z:{}},loud:true,times:-1.5e3,when:10:30}<tool_call|>',
        called(
            (
                "say",
                '{"text": "a:\\"{}\\",\\n", "with": {"x": [1, "y"], "z": {}}, "loud": true, "times": -1.5e3,'
                ' "when": "10:30"}',
            ),
            text="Yes.",
            thought="Hm.",
        ),
    ),
    ("gemma4", "<|channel>thought\n<channel|>Yes.<|channel>thought\n<channel|>", Reply("Yes.")),
    ("gemma4", "<|tool_call>call me<tool_call|>", Reply("<|tool_call>call me<tool_call|>")),
    (
        "function-gemma",
        "<start_function_call>call:say{text:<escape>hi<escape>}<end_function_call><start_function_response>no",
        called(("say", '{"text": "hi"}')),
    ),
    # gpt-oss
    ("harmony", f"{ANALYSIS}<|channel|>final<|message|>Yes.", Reply("Yes.", "Hm.")),
    (
        "harmony",
        f"{ANALYSIS}<|channel|>commentary<|message|>Let me.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.add <|constrain|>json<|message|>{"a": 1}',
        called(ONE, text="Let me.", thought="Hm."),
    ),
    (
        "harmony",
        f'{ANALYSIS} to=functions.add<|channel|>commentary json<|message|>{{"a": 1}}<|call|>no',
        called(ONE, thought="Hm."),
    ),
    ("harmony", ' to=functions.add<|channel|>analysis <|constrain|>json<|message|>{"a": 1}', called(ONE)),
    ("harmony", f"<|channel|>commentary to=assistant{ANALYSIS}<|channel|>final<|message|>So.", Reply("So.", "Hm.")),
    ("harmony", '<|channel|>final <|constrain|>json<|message|>{"a": 1}', Reply('{"a": 1}')),
    (
        "harmony",
        "<|channel|>commentary to=python code<|message|>print(1)",
        Reply("<|channel|>commentary to=python code<|message|>print(1)"),
    ),
    # Granite 3, Nemotron Nano 2, Phi-4 mini
    ("granite", f"<|tool_call|>[{named(*ONE)}, {named(*NONE)}]", called(ONE, NONE)),
    ("granite", f"<|tool_call|>{named(*ONE)}", called(ONE)),
    ("granite", "<think>Hm.</think>\n<response>Yes.</response>", Reply("Yes.", "Hm.")),
    ("granite", "The <response> tag.</response>", Reply("The <response> tag.</response>")),
    ("granite", f"<|tool_call|>[{named(*ONE)}, 5]", called(ONE, text=", 5]")),
    ("nemotron", f"<think>\nHm.\n</think>\n\n<TOOLCALL>[{named(*ONE)}]</TOOLCALL>", called(ONE, thought="Hm.")),
    ("phi4", f"<|tool_call|>[{named(*ONE)}]<|/tool_call|>", called(ONE)),
    # DeepSeek, Kimi
    (
        "deepseek-v3",
        f"<｜tool▁calls▁begin｜>{R1.format(*ONE)}\n{R1.format(*NONE)}<｜tool▁calls▁end｜>",
        called(ONE, NONE),
    ),
    ("deepseek-v3", f"So.{R1.format(*HARD)}", called(HARD, text="So.")),
    (
        "deepseek-v3.1",
        f"<｜tool▁calls▁begin｜>{V31.format(*ONE)}{V31.format(*TWO)}<｜tool▁calls▁end｜>",
        called(ONE, TWO),
    ),
    (
        "deepseek-v3.2",
        "So.\n\n<｜DSML｜function_calls>\n"
        f"{dsml(('text', 'true', '5 < 6'), ('loud', 'false', 'true'))}\n</｜DSML｜function_calls>",
        called(("say", '{"text": "5 < 6", "loud": true}'), text="So."),
    ),
    (
        "deepseek-v4",
        f"<｜DSML｜tool_calls>{dsml()}\n{dsml()}</｜DSML｜tool_calls>",
        called(("say", "{}"), ("say", "{}")),
    ),
    (
        "kimi",
        f"<|tool_calls_section_begin|>{KIMI.format('add', 0, ONE[1])}{KIMI.format('now', 1, '{}')}"
        "<|tool_calls_section_end|>",
        called(ONE, NONE),
    ),
]


@pytest.mark.parametrize(("family", "text", "reply"), CONVERSATIONS)
def test_the_reply_is_the_same_however_the_text_is_cut(family: str, text: str, reply: Reply) -> None:
    for pieces in in_pieces(text):
        assert read(FAMILY[family], pieces) == reply, pieces


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_same_holds_for_texts_made_at_random(family: Family) -> None:
    chance = random.Random(family.name)
    own = [text for name, text, _ in CONVERSATIONS if name == family.name]
    marks = [*family.marks, *family.form.openings, *'{}[]",: \n\\', "add", named("add", "{")[:-1], '"a": 1']
    for _ in range(100):
        texts = [text[: chance.randrange(len(text))] for text in chance.choices(own, k=3)]
        text = "".join(chance.choices([*texts, *chance.choices(marks, k=9)], k=chance.randint(1, 10)))
        for size in (1, 2, 5):
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            assert read(family, pieces) == read(family, [text]), text


def test_every_family_is_in_the_corpus_with_a_call() -> None:
    assert {family for family, _, reply in CONVERSATIONS if reply.calls} == set(FAMILY)


@pytest.mark.parametrize(("family", "text", "reply"), [entry for entry in CONVERSATIONS if entry[2].calls])
def test_a_text_cut_short_is_honest(family: str, text: str, reply: Reply) -> None:
    """Calls are the whole ones, except that the last may be a beginning, and then it is not one to make."""
    for size in range(1, len(text)):
        cut = read(FAMILY[family], [text[:size]], "length")
        assert cut == read(FAMILY[family], text[:size], "length")
        *whole, (name, arguments) = cut.calls or [("", "")]
        known = [*reply.calls[len(whole) :], ("", "")][0]
        assert tuple(whole) == reply.calls[: len(whole)]
        assert (name or known[0], known[1].startswith(arguments)) == (known[0], True)
        assert cut.finish == "length" or (cut.calls and arguments == known[1])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_without_tools_there_are_no_calls(family: Family) -> None:
    for name, text, _ in CONVERSATIONS:
        if name == family.name:
            assert read(family, text, tools=()).calls == ()


@pytest.mark.parametrize(
    ("text", "how", "reply"),
    [
        (f"{hermes(*ONE)}\n{hermes(*TWO)}", {"one_call": True}, called(ONE)),
        (hermes(*ONE), {"tools": ()}, Reply(hermes(*ONE))),
        ("\nHm.</think>Yes.", {"thinking": True}, Reply("Yes.", "Hm.")),
        ("Hm. </thi", {"thinking": True}, Reply("", "Hm. </thi")),
        ("one END two", {"stop": ("END",)}, Reply("one ")),
        ("one EN", {"stop": ("END",)}, Reply("one EN")),
        ("<think>END</think>one END", {"stop": ("END",)}, Reply("one ", "END")),
        (f"so {hermes(*ONE)} END {hermes(*ONE)}", {"stop": ("END",)}, called(ONE, text="so")),
    ],
)
def test_what_a_request_says_of_the_answer(text: str, how: dict[str, Any], reply: Reply) -> None:
    for pieces in in_pieces(text):
        assert read(FAMILY["hermes"], pieces, **how) == reply, pieces


def test_a_call_comes_as_soon_as_its_name_is_certain() -> None:
    answer = Answer(FAMILY["hermes"], thinking=False, tools=TOOLS, stop=(), one_call=True)
    pieces = ["So.", '\n<tool_call>\n{"name": "add", ', '"arguments"', ': {"a', '": ', "1}", "}\n</tool", "_call>"]
    seen = [(answer.feed(piece, None), answer.complete) for piece in pieces]
    assert seen == [
        (Delta("So."), False),
        (Delta(), False),
        (Delta(), False),
        (Delta(calls=(CallDelta(0, "add", '{"a'),)), False),
        (Delta(calls=(CallDelta(0, "", '": '),)), False),
        (Delta(calls=(CallDelta(0, "", "1}"),)), True),
        (Delta(), True),
        (Delta(), True),
    ]


def test_arguments_between_tags_come_one_by_one() -> None:
    answer = Answer(FAMILY["qwen-coder"], thinking=False, tools=TOOLS, stop=(), one_call=False)
    text = coder("say", ("text", "Hi\nyou"), ("loud", "true"))
    deltas = [answer.feed(piece, None) for piece in text.splitlines(keepends=True)]
    assert [delta.calls[0] for delta in deltas if delta.calls] == [
        CallDelta(0, "say"),
        CallDelta(0, "", '{"text": "Hi\\nyou"'),
        CallDelta(0, "", ', "loud": true}'),
    ]


def test_the_logprobs_of_text_that_is_held_back_wait_for_it() -> None:
    answer = Answer(FAMILY["hermes"], thinking=False, tools=TOOLS, stop=("end",), one_call=False)
    first, second = TokenLogprob("e", -0.1), TokenLogprob("n!", -0.2)
    assert [answer.feed("e", first), answer.feed("n!", second)] == [Delta(), Delta("en!", logprobs=(first, second))]


HOSTILE = ["{", "[", '"', "<", "\\", " ", "\n", "</", '{"name": "add", "arguments": {', ",", ":", "```", "call:", "to="]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_text_is_read_twice_or_crashes(family: Family) -> None:
    """Counts what is held back at each piece: that is all that is looked at again."""
    parts = [*HOSTILE, *family.marks, *family.form.openings]
    chance = random.Random(family.name)
    texts = [part * (4_000 // len(part)) for part in parts]
    texts += [opening + part * 300 for opening in family.form.openings for part in HOSTILE]
    texts += ["".join(chance.choices(parts, k=400)) for _ in range(20)]
    for text in texts:
        answer = Answer(family, thinking=False, tools=TOOLS, stop=(), one_call=False)
        held = 0
        for start in range(0, len(text), 5):
            answer.feed(text[start : start + 5], None)
            held = max(held, answer.held)
        answer.finish()
        assert held < 80, text[:50]


# Templates

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
EXCERPTS = {
    "hermes": "return a json object within <tool_call></tool_call> XML tags",
    "qwen-coder": "'<tool_call>\\n<function=' + tool_call.name + '>\\n' ... '<parameter=' + args_name + '>\\n'",
    "seed": "set toolcall_begin_token = '<seed:tool_call>' ... '<function=' + name ... '<parameter=' + arg_name",
    "glm": "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>",
    "minimax": '<minimax:tool_call>\n<invoke name="tool-name-1">',
    "llama3": "'<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}} {{- '\"parameters\": ' }}",
    "mistral": "'[TOOL_CALLS]' + tool_call.function.name + '[CALL_ID]' + tool_call.id + '[ARGS]'",
    "old-mistral": '"[TOOL_CALLS][" ... tool_call.function|tojson',
    "gemma4": "'<|tool_call>call:' + function['name'] + '{' ... '<|channel>thought\\n<channel|>'",
    "function-gemma": "'<start_function_call>call:' + function['name'] + '{'",
    "harmony": "<|start|>assistant<|channel|>analysis<|message|>",
    "granite": "<|start_of_role|>... respond only with <|tool_call|> followed by a JSON list of tools used",
    "nemotron": '<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}]</TOOLCALL>',
    "phi4": "'<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>'",
    "deepseek-v3": "'<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + name + '\\n' + '```json' + '\\n'",
    "deepseek-v3.1": "'<｜tool▁call▁begin｜>'+ name + '<｜tool▁sep｜>' + arguments + '<｜tool▁call▁end｜>'",
    "deepseek-v3.2": "set dsml_token = '｜DSML｜' ... '<' + dsml_token + 'function_calls>' ... tool_calls",
    "deepseek-v4": "set dsml_token = '｜DSML｜' ... '<' + dsml_token + 'tool_calls>'",
    "kimi": "<|tool_calls_section_begin|> ... <|tool_call_begin|>{{ formatted_id }}",
}
"""Lines of the chat templates that the makers publish, shortened."""


def test_the_family_is_known_by_the_template() -> None:
    assert {name: family_of(excerpt).name for name, excerpt in EXCERPTS.items()} == {name: name for name in FAMILY}
    assert family_of(CHATML).name == "hermes"
    assert [family_of(text).thinks for text in ("... <think>\n", EXCERPTS["harmony"], EXCERPTS["gemma4"], CHATML)] == [
        True,
        True,
        True,
        False,
    ]


class Letters:
    """A vocabulary whose tokens are letters."""

    bos_name, eos_name, first = "<s>", "</s>", None
    control_names = frozenset({"<s>", "</s>", "[INST]"})

    def tokens(self, text: str, *, special: bool) -> list[int]:
        return [ord(letter) for letter in text]


def prompt(template: str, *messages: Message, **more: Any) -> str:
    made = ChatTemplate({"tokenizer.chat_template": template}, cast(Vocabulary, Letters()))
    return made.prompt(ModelRequest("m", messages, **more))[1]


def refused_if(condition: str, text: str) -> str:
    return f"{{% if {condition} %}}{{{{ raise_exception('{text}') }}}}{{% endif %}}"


EACH = (
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %} {{ c.id }}"
    " {{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id }}]{% endfor %}"
)
USER = Message("user", "Hi")
CALL = ToolCall("call_abcdefghijkl", "add", '{"a": "ü<"}')
OTHER = ToolCall("call_mnopqrstuvwx", "now")
ASKING = Message("assistant", "Well.", thought="Hm.", tool_calls=(CALL, OTHER))
RESULTS = Message("tool", "1", tool_call_id=CALL.id), Message("tool", "noon", tool_call_id=OTHER.id)


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (
            refused_if("messages[0].role == 'system'", "System role not supported") + EACH,
            (Message("system", "Be brief."), USER),
            "[user:Be brief.\n\nHi]",
        ),
        (
            refused_if("messages | length == 2", "Conversation roles must alternate") + EACH,
            (USER, Message("user", "Ho")),
            "[user:Hi\n\nHo]",
        ),
        (
            "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}"
            "{% endfor %}{% endfor %}",
            (USER, ASKING),
            'add{"a": "ü<"}now{}',
        ),
        (
            "{% for m in messages %}{% for c in m.tool_calls %}"
            + refused_if("c.id | length != 9", "Tool call IDs should be alphanumeric strings with length 9!")
            + "{{ c.id }}{{ c.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id }} {% endfor %}",
            (ASKING, *RESULTS),
            'f553c190c{"a": "ü<"}33c593061{} f553c190c 33c593061 ',
        ),
        (
            "{% for m in messages %}"
            + refused_if("m.tool_calls and m.tool_calls | length > 1", "only supports single tool-calls at once!")
            + "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %},{% endfor %}",
            (USER, ASKING, *RESULTS, Message("user", "So?")),
            "Hi,Well.add,1,now,noon,So?,",
        ),
        (
            "{% for m in messages %}"
            + refused_if("m.content and m.thinking", "Cannot pass both content and thinking")
            + "{{ m.thinking }}{{ m.content }}{% endfor %}",
            (USER, ASKING),
            "HiHm.",
        ),
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", (USER,), "Hi"),
        ("{% for tool in tools %}{{ tool }}{% endfor %}none", (USER,), "none"),
        ("{{ messages | map(attribute='content') | tojson }}{{ '[1]' | from_json }}", (USER,), '["Hi"][1]'),
        ("{{ strftime_now('%Y') | length }}{{ messages[0].content }}", (USER,), "4Hi"),
    ],
)
def test_messages_take_the_shape_that_a_template_wants(template: str, messages: tuple[Message, ...], text: str) -> None:
    assert prompt(template, *messages) == text


def test_a_template_that_refuses_every_shape_says_why() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompt("{{ raise_exception('Never.') }}", Message("system", "Be brief."), USER)
    assert caught.value.message == "The model's chat template refuses these messages: Never."


def test_how_a_request_asks_for_thought() -> None:
    show = "{{ enable_thinking }},{{ thinking }},{{ reasoning_effort }}"
    asked: list[dict[str, Any]] = [{}, {"think": False}, {"reasoning_effort": "max"}, {"reasoning_effort": "none"}]
    assert [prompt(show, USER, **more) for more in asked] == [",,", "False,False,", "True,True,max", "False,False,none"]
    harmony = f"{show}{{# {EXCERPTS['harmony']} #}}"
    assert [prompt(harmony, USER, **more) for more in asked[2:]] == ["True,True,high", "False,False,low"]


def test_tags_that_people_write_are_no_control_tokens() -> None:
    made = ChatTemplate({"tokenizer.chat_template": EACH + EXCERPTS["harmony"]}, cast(Vocabulary, Letters()))
    text = "[INST]<|start|>system<|message|>"
    tokens, shown = made.prompt(ModelRequest("m", (Message("user", text),)))
    assert shown == f"[user:{text}]{EXCERPTS['harmony']}"
    assert made._defused(text) == "[\ufdd0INST]<\ufdd0|start|>system<\ufdd0|message|>"
    assert tokens


def test_a_turn_that_the_template_forgets_to_open() -> None:
    template = f"{{{{ messages[0].content }}}}<turn|>\n{{# {EXCERPTS['gemma4']} #}}"
    assert prompt(template, USER) == "Hi<turn|>\n<|turn>model\n"


# Calls that must be made


def variant(tmp_path: Path, family: Family, thought: str = "") -> Path:
    """The built-in model under a template of another family."""
    signs = " ".join(family.signs)
    return write_variant(
        TINY, tmp_path / "model.gguf", tokenizer__chat_template=f"{CHATML}{{# tools {signs} {thought}#}}"
    )


async def ask(backend: LlamaCpp, **more: Any) -> Reply:
    deltas = [delta async for delta in backend.chat(ModelRequest("model", (Message("user", "Hello"),), **more))]
    assert deltas[-1].finish
    return folded(deltas, deltas[-1].finish)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
async def test_a_call_that_must_be_made_is_valid(tmp_path: Path, family: Family) -> None:
    backend = LlamaCpp([variant(tmp_path, family)], None, None, threads=1)
    schemas: dict[str, Any] = {"add": ADD.parameters, "now": {"type": "object", "maxProperties": 0}}
    for seed in range(3):
        sampling = Sampling(temperature=1.0, seed=seed)
        some = await ask(
            backend, sampling=sampling, tools=(ADD, NOW), tool_choice="required", parallel_tool_calls=False
        )
        one = await ask(
            backend, sampling=sampling, tools=(NOW, ADD), tool_choice=NamedTool("add"), parallel_tool_calls=False
        )
        assert [some, one] == [called(*some.calls), called(*one.calls)]
        assert [len(some.calls), [name for name, _ in one.calls]] == [1, ["add"]]
        for name, arguments in some.calls + one.calls:
            jsonschema.validate(json.loads(arguments), schemas[name])
    several = await ask(
        backend, sampling=Sampling(temperature=1.0, seed=5, max_tokens=200), tools=(ADD,), tool_choice="required"
    )
    await backend.close()
    assert {name for name, _ in several.calls} == {"add"}


async def test_a_schema_is_answered_in_the_right_channel(tmp_path: Path) -> None:
    family = FAMILY["harmony"]
    backend = LlamaCpp([variant(tmp_path, family)], None, None, threads=1)
    reply = await ask(backend, sampling=Sampling(temperature=1.0, seed=1), output=JsonOutput({"enum": ["a", "b"]}))
    await backend.close()
    assert reply.text in ('"a"', '"b"')


async def test_a_strict_tool_is_called_with_valid_arguments_or_not_at_all(tmp_path: Path) -> None:
    backend = LlamaCpp([variant(tmp_path, FAMILY["mistral"])], None, None, threads=1)
    strict = msgspec.structs.replace(ADD, strict=True)
    reply = await ask(backend, sampling=Sampling(temperature=0.0, max_tokens=30), tools=(strict,))
    await backend.close()
    assert reply.calls == ()
    assert reply.text
