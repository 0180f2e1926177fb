"""What models' own templates put around thoughts and calls: `<think>`, `<tool_call>`, `[TOOL_CALLS]`, channels."""

# ruff: noqa: RUF001 (the tokens of DeepSeek have wide bars)

import re
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from agents.actions.values import whole_characters

_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
# Only at the end of a line: within a text it is a text about tokens.
_END_OF_TURN = re.compile(
    r"(?:<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end_of_turn|END_OF_TURN_TOKEN)\|>|<end_of_turn>|</s>|<｜end▁of▁sentence｜>"
    r"|<\|end\|>|<bot_end>)(?=\s*$|\s*<\|(?:im_start|start_header_id|user|assistant)|\s*<start_of_turn>)",
    re.MULTILINE,
)
_THINKING = (
    r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis|\|START_THINKING\||\|channel>thought)"
)
_THOUGHT_BEGINS = re.compile(rf"\s*(?:<{_THINKING}>|\[THINK\]|◁think▷|<\|channel>thought)\n?", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<channel\|>",
    re.IGNORECASE,
)
_ORPHAN_END = re.compile(r"^[ \t]*</think(?:ing)?>|</think(?:ing)?>(?=[ \t]*$)", re.MULTILINE)

_CALL_TOKENS = re.compile(
    r"(?:<[|｜]?(?:\w{2,12}:|DSML[|｜])?(?P<word>tool_calls?|toolcalls?|tool_use|tool_uses|tool_code|tools?|function_calls?|functioncall"
    r"|functions?|action|actions|tool_call_start|tool_call_begin|tool_calls_begin|tool_calls_section_begin|python_tag"
    r"|plugin|action_start|start_action|tool▁calls▁begin|tool▁call▁begin|function_call_begin)[|｜]?>"
    r"|\[(?P<bracket>TOOL_CALLS?|Calling tool:?|Tool call:?)\s?\]?|✿FUNCTION✿\s*:?|\bfunctools(?=\[)|>>>(?=\w+\n)"
    r"|(?=<function\s*=|<(?:｜DSML｜)?invoke\s|<tool_name>|<function\s+name))\s*",
    re.IGNORECASE,
)
_ANSWER_TAGS = re.compile(
    r"<(?P<tag>final_answer|final_response|finalanswer|answer|response|\|START_RESPONSE\|)>", re.IGNORECASE
)
_OBSERVATION_TAGS = re.compile(
    r"</?(?:observation|tool_response|tool_result|tool_results|tool_output|function_results?|function_response|result)>"
    r"|<[|｜]?(?:tool▁outputs?▁begin|tool_response|START_TOOL_RESULT|start_header_id\|>\s*(?:ipython|user)|observation)[|｜]?>?"
    r"|\[TOOL_RESULTS\]|✿RESULT✿|<\|im_start\|>|```tool_outputs?\b",
    re.IGNORECASE,
)

MarkupKind = Literal["call", "final", "observation"]


class Markup(Struct, frozen=True):
    """The beginning of something that a template marks."""

    kind: MarkupKind
    start: int
    content: int
    word: str = ""


class Message(Struct, frozen=True):
    """A message in the format of gpt-oss ("harmony")."""

    channel: str
    recipient: str
    text: str
    ended: bool


def clean(text: str) -> str:
    """The text with line breaks of one kind, up to the first end of a turn, without marks that nobody can see."""
    text = _INVISIBLE.sub("", whole_characters(text).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " "))
    end = _END_OF_TURN.search(text)
    return text[: end.start()] if end else text


def split_thought(text: str) -> tuple[str, str, bool]:
    """What a model thought before it spoke, what it said, and whether its thought never ended."""
    thoughts: list[str] = []
    at = 0
    while begins := _THOUGHT_BEGINS.match(text, at):
        ends = _THOUGHT_ENDS.search(text, begins.end())
        if ends is None:
            return "\n".join(thoughts), text[begins.end() :], True
        thoughts.append(text[begins.end() : ends.start()].strip())
        at = ends.end()
    # The template itself may have opened the thought: then the model only closes it.
    if orphan := _ORPHAN_END.search(text, at):
        thoughts.append(text[at : orphan.start()].strip())
        at = orphan.end()
    return "\n".join(thoughts), text[at:], False


def marks(text: str) -> Iterator[Markup]:
    """The calls, answers and tool results that are marked in a text, in their order."""
    found = [
        Markup("call", each.start(), each.end(), (each["word"] or "").lower()) for each in _CALL_TOKENS.finditer(text)
    ]
    found += [Markup("final", each.start(), each.end(), each["tag"]) for each in _ANSWER_TAGS.finditer(text)]
    found += [Markup("observation", each.start(), each.end()) for each in _OBSERVATION_TAGS.finditer(text)]
    return iter(sorted(found, key=lambda each: each.start))


_HEADER = re.compile(r"<\|message\|>")
_TERMINATOR = re.compile(r"<\|(?:end|call|return|start|channel)\|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([\w.\-]+)")


def harmony(text: str) -> list[Message]:
    """The messages of a text in the format of gpt-oss; none where it has another one."""
    messages: list[Message] = []
    at = 0
    if not _CHANNEL.search(text):
        return messages
    while header := _HEADER.search(text, at):
        terminator = _TERMINATOR.search(text, header.end())
        finish = terminator.start() if terminator else len(text)
        head = text[at : header.start()]
        channel = _CHANNEL.search(head)
        recipient = _RECIPIENT.search(head)
        messages.append(
            Message(
                channel[1] if channel else "final",
                recipient[1] if recipient else "",
                text[header.end() : finish].strip(),
                terminator is not None,
            )
        )
        at = finish
    return messages
