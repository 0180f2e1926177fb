"""The parser of actions: a corpus of what models write, and what must hold for any text at all.

tests/data/actions.jsonl: the tools first, then one case a line, in families, with what is expected of it.
"""

# ruff: noqa: RUF001 (models write wide colons)

import json
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.actions import Act, Action, Final, Malformed, Said, match_tool, read_action, read_error
from models.backend import ToolSpec

LINES = [json.loads(line) for line in (Path(__file__).parent / "data" / "actions.jsonl").read_text().splitlines()]
TOOLS = [ToolSpec(**each) for each in LINES[0]["tools"]]
CASES = LINES[1:]
ACTING = [case for case in CASES if "act" in case["expect"] and "cut_off" not in case["expect"]]


def told(action: Action) -> dict[str, Any]:
    """An action as the corpus tells of it."""
    match action:
        case Act(tool, arguments, thought, corrected):
            return {"act": tool, "arguments": arguments, "thought": thought, "corrected": corrected}
        case Final(text, thought):
            return {"final": text, "thought": thought}
        case Malformed(thought, _):
            return {"malformed": True, "thought": thought}
        case Said(text, thought):
            return {"said": text, "thought": thought}


def read(case: dict[str, Any]) -> dict[str, Any]:
    """What is read, as far as the case says anything of it; its kind in any case."""
    expected = case["expect"]
    found = told(read_action(case["text"], TOOLS, cut_off=expected.get("cut_off", False)))
    kinds = {"act", "final", "malformed", "said"}
    return {key: value for key, value in found.items() if key in expected or key in kinds}


def wanted(case: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case["expect"].items() if key != "cut_off"}


def test_corpus_is_read_exactly() -> None:
    failures = [(case["id"], read(case), wanted(case)) for case in CASES if read(case) != wanted(case)]
    for identity, found, expected in failures:
        print(f"{identity}: expected {expected}, read {found}")
    assert len(CASES) >= 320
    assert len(failures) <= 0.02 * len(CASES)


def test_corpus_has_no_false_final_and_no_act_that_was_not_meant() -> None:
    """Whatever else may fail: these two are never wrong."""
    wrong = [
        case["id"]
        for case in CASES
        for found in [read(case)]
        if ("final" in found and "final" not in case["expect"]) or ("act" in found and "act" not in case["expect"])
    ]
    assert wrong == []


MADE_UP = '\nObservation: done\nThought: more\nAction: list_files\nAction Input: {"all": true}\nFinal Answer: done'


@pytest.mark.parametrize("family", sorted({case["id"].rpartition("-")[0] for case in ACTING}))
def test_what_follows_the_first_action_changes_nothing(family: str) -> None:
    for case in ACTING:
        if case["id"].startswith(family):
            found = read_action(case["text"] + MADE_UP, TOOLS)
            assert isinstance(found, Act), case["id"]
            assert (found.tool, found.arguments) == (case["expect"]["act"], case["expect"]["arguments"]), case["id"]


def test_an_action_that_was_cut_off_is_done_whole_or_not_at_all() -> None:
    """At every place where a text may end: no half of an argument is taken for the whole."""
    for case in ACTING:
        whole = case["expect"]["arguments"]
        if case["id"].startswith("thinking"):  # A draft within a thought may end there, and be what is meant.
            continue
        for end in range(len(case["text"])):
            found = read_action(case["text"][:end], TOOLS, cut_off=True)
            if isinstance(found, Act):
                assert found.tool == case["expect"]["act"], (case["id"], end)
                assert {**whole, **found.arguments} == whole, (case["id"], end)


BRACED = ("plain", "json", "tags", "inside", "languages")


def test_an_object_is_done_whole_or_not_at_all_even_if_nobody_says_that_it_was_cut_off() -> None:
    for case in ACTING:
        if case["id"].startswith(BRACED) and '"' in case["text"]:
            whole = case["expect"]["arguments"]
            for end in range(case["text"].index('"'), len(case["text"])):
                found = read_action(case["text"][:end], TOOLS)
                if isinstance(found, Act):
                    assert {**whole, **found.arguments} == whole, (case["id"], end)


PIECES = (
    *(
        "Action:",
        "\nAction: ",
        "\nAction Input: ",
        "\nObservation: ",
        "\nFinal Answer: ",
        "Thought:",
        "python",
        "{",
        "}",
    ),
    *(
        '{"name": "',
        '"arguments": ',
        '"',
        "'",
        "\\",
        "```",
        "\n```python\n",
        "<tool_call>",
        "</tool_call>",
        "[",
        "]",
        "(",
    ),
    *(
        "<think>",
        "</think>",
        "<function=",
        "<parameter=code>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|channel|>",
        "<|message|>",
        ")",
    ),
    *(
        "\ud83d",
        "\ufeff",
        "\u200b",
        "：",
        "\0",
        "\r\n",
        "“",
        "1e999",
        "9" * 400,
        ",",
        ":",
        "/*",
        "//",
        "#",
        "✿FUNCTION✿: ",
    ),
)


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 5)):
        at, until = sorted(chance.randint(0, len(text)) for _ in range(2))
        match chance.randrange(4):
            case 0:
                text = text[:at] + text[until:]
            case 1:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 2:
                text = text[:until] + text[at:until] + text[until:]
            case _:
                text = text[at:until] + chance.choice(PIECES) + text[:at]
    return text


@pytest.mark.fuzz
def test_no_text_breaks_it() -> None:
    chance = random.Random(20261121)
    names = {tool.name for tool in TOOLS}
    for _ in range(3000):
        text = mutated(chance.choice(CASES)["text"], chance)
        found = read_action(text, TOOLS, cut_off=chance.random() < 0.2)
        msgspec.json.encode(found)
        assert not isinstance(found, Act) or found.tool in names
        error = read_error(refused(text), TOOLS)
        assert isinstance(error, Act | Malformed), text


@pytest.mark.parametrize("before", ["", 'Action: python\nAction Input: {"code": "', "Final Answer: "])
def test_long_text_takes_no_longer_than_it_should(before: str) -> None:
    """A hundred kilobytes in a fraction of a second, whatever is repeated in them."""
    slow = {}
    for piece in (
        *PIECES,
        "Action: python\n",
        "Action: None\n",
        "\npython(",
        '\n{"a":"',
        "\n{/*",
        "x. Action: ",
        "1,",
        "\n",
    ):
        text = (before + piece * 100_000)[:100_000]
        began = time.process_time()
        read_action(text, TOOLS)
        if (took := time.process_time() - began) > 2:
            slow[piece] = took
    assert slow == {}


@pytest.mark.parametrize("piece", ["{", "Action:", "[", "\n{", "<think>", '{"a":'])
def test_a_megabyte_is_no_danger(piece: str) -> None:
    assert isinstance(read_action(piece * (1_000_000 // len(piece)), TOOLS), Said | Malformed)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("python", "python"),
        ("Python()", "python"),
        ("functions.python", "python"),
        ("functions.web_search:0", "web_search"),
        ("web search", "web_search"),
        ("WebSearch", "web_search"),
        ("web\\_search", "web_search"),
        ("get_current_weather", "get-current-weather"),
        ("notes_write", "notes.write"),
        ("mcp__notes__write", "notes.write"),
        ("the `read_file` tool", "read_file"),
        ("knowledge", "knowledge_search"),
        ("web", None),
        ("py", None),
        ("pyhton", None),
        ("python_interpreter", None),
        ("search_web", None),
        ("", None),
        ("   ", None),
        ("p" * 10_000, None),
    ],
)
def test_match_tool(name: str, tool: str | None) -> None:
    assert match_tool(name, TOOLS) == tool


def test_a_name_that_fits_two_tools_fits_none() -> None:
    tools = [ToolSpec("read_file"), ToolSpec("readFile"), ToolSpec("a.list"), ToolSpec("b.list")]
    assert [match_tool(name, tools) for name in ("read_file", "ReadFile", "list", "a.list")] == [
        "read_file",
        None,
        None,
        "a.list",
    ]


def test_a_schema_of_any_shape_is_no_danger() -> None:
    """A client's tools come with what it likes."""
    odd: list[Any] = [None, {}, {"properties": 3, "required": "x"}, {"properties": {"a": 5}, "required": [1, "a"]}]
    for schema in odd:
        found = read_action("Action: odd\nAction Input: some text", [ToolSpec("odd", "", schema)])
        assert found in (Act("odd", {}), Act("odd", {"a": "some text"}))


WRITE = ToolSpec(
    "write",
    "",
    {"properties": {"path": {"type": "string"}, "content": {"type": "string"}}, "required": ["path", "content"]},
)
SHELL = ToolSpec("shell", "", {"properties": {"command": {"type": "string"}}, "required": ["command"]})
PATCH = ToolSpec("patch", "", {"properties": {"input": {"type": "string"}}, "required": ["input"]})


def refused(raw: str, why: str = "invalid character") -> str:
    """What Ollama says of a call that it cannot read."""
    return f"error parsing tool call: raw='{raw}', err={why}"


@pytest.mark.parametrize(
    ("message", "tools", "expected"),
    [
        # ollama#17638: a bracket too many.
        (
            refused('{"input":"*** Begin Patch\\n-  total($rate)\\n*** End Patch"}]', ""),
            [PATCH, SHELL],
            Act("patch", {"input": "*** Begin Patch\n-  total($rate)\n*** End Patch"}),
        ),
        # ollama#12064: a square bracket in the place of the brace.
        (
            refused('{"path":"a.py","content":"x = [1]\\n"]', "invalid character ']' after object key:value pair"),
            [WRITE, SHELL],
            Act("write", {"path": "a.py", "content": "x = [1]\n"}),
        ),
        # ollama#12884: the whole call where its arguments should be, and something after it.
        (
            refused('{"name":"write","parameters":{"path":"a.ts","content":"/** it\'s */\\n{}"}} ok'),
            [WRITE, SHELL],
            Act("write", {"path": "a.ts", "content": "/** it's */\n{}"}),
        ),
        # Line breaks that are not escaped; the message as JSON, as the server sends it.
        (json.dumps({"error": refused('{"command":"ls\npwd"}')}), [WRITE, SHELL], Act("shell", {"command": "ls\npwd"})),
        # continue#10221: no JSON at all, and only one tool that it can be for.
        (refused("ls -R\n"), [SHELL], Act("shell", {"command": "ls -R"})),
        (
            'Failed to parse input at pos 0: <tool_call>{"name": "shell", "arguments": {"command": "ls"}}</tool_call>',
            [WRITE, SHELL],
            Act("shell", {"command": "ls"}),
        ),
        ("model requires more system memory (5.6 GiB) than is available", [SHELL], None),
        ("", [SHELL], None),
    ],
)
def test_a_call_is_rescued_from_an_error(message: str, tools: list[ToolSpec], expected: Act | None) -> None:
    assert read_error(message, tools) == expected


@pytest.mark.parametrize(
    "message",
    [
        refused("ls -R\n"),
        refused('{"path": "a.py", "content": "half of', "unexpected end of JSON input"),
        refused('{"colour": 3}'),
        "failed to parse JSON: unexpected end of JSON input",
        "XML syntax error on line 115: unexpected EOF",
        "element <parameter> closed by </function>",
    ],
)
def test_a_call_that_cannot_be_rescued_is_told_of(message: str) -> None:
    found = read_error(message, [WRITE, SHELL])
    assert isinstance(found, Malformed)
    assert "write, shell" in found.why


def test_the_model_is_told_what_to_do_instead() -> None:
    unknown = read_action("Thought: sums\nAction: calculator\nAction Input: 2+2", [SHELL])
    assert isinstance(unknown, Malformed)
    assert unknown.thought == "sums"
    assert unknown.why.startswith("There is no tool 'calculator'. The tools are: shell.")
    many = [ToolSpec(f"tool{number}") for number in range(200)]
    lost = read_action("Action: other\nAction Input: {}", many)
    assert isinstance(lost, Malformed)
    assert len(lost.why) < 800


def test_without_tools_there_is_only_text() -> None:
    assert read_action("Hello", []) == Said("Hello")
    assert read_action("Final Answer: 4", []) == Final("4")
    assert isinstance(read_action('Action: python\nAction Input: {"code": "1"}', []), Malformed)
