"""A model's text with what is known of it before it is read: its labels, its marks, and where it begins to make up."""

# ruff: noqa: RUF001 (models write curly quotes and wide bars)

import bisect
import re
from collections.abc import Sequence

from agents.actions.labels import Label, labels
from agents.actions.markup import marks
from agents.actions.names import fold, properties, same_tool
from agents.actions.values import Steps
from models.backend import ToolSpec

MOST_TRIES = 100
"""Places at which a call, or the end of one, is looked for: no answer has as many."""

HEAD = re.compile(r"[`*\"'“‘\[<_ \t]*(?P<name>[^\n({\[\]<>:|,;=`\"'*]{1,100})[`*\"'”’\]>_]*")
"""The name of a tool after the label of an action."""

_CLOSERS = re.compile(r"(?:[\s`~*\])}]|</?[\w:]{1,40}>|<[|｜][^<>|｜]{1,40}[|｜]?>)*")
_STRAY_TAG = re.compile(r"</?(?:thought|thoughts|thinking|think)>")
_TRAILING_FENCE = re.compile(r"```\w*\Z")


class Fault(Exception):
    """What makes an action one that cannot be done. The text is for the model."""


class Page:
    """One text that is being read.

    Args:
        text: without the thought that its template marks.
        tools: those that the model may call.
        thought: that thought.
        cut_off: whether the text was stopped for its length.
    """

    def __init__(self, text: str, tools: Sequence[ToolSpec], thought: str, *, cut_off: bool) -> None:
        self.text = text
        self.tools = tools
        self.thought = thought
        self.cut_off = cut_off
        self.steps = Steps(cut_off=cut_off)
        self.labels = list(labels(text))
        self.marks = list(marks(text))
        walls = [label.start for label in self.labels if label.kind == "observation"]
        self.walls = sorted(walls + [mark.start for mark in self.marks if mark.kind == "observation"])
        """Where the model makes up what only a tool can know. Nothing after the first one counts."""

    def tool(self, name: str) -> ToolSpec:
        """The tool of that very name."""
        return next(tool for tool in self.tools if tool.name == name)

    def closes(self, at: int) -> bool:
        """Whether nothing of the model's own follows, up to what it made up as a result."""
        return _CLOSERS.fullmatch(self.text, at, self.wall(at)) is not None

    def wall(self, at: int) -> int:
        """Where after a place the model begins to make up a tool's result; the end of the text where it does not."""
        number = bisect.bisect_left(self.walls, at)
        return self.walls[number] if number < len(self.walls) else len(self.text)

    def following(self, number: int) -> Label | None:
        """The label after an action's own; a thought between the action and its input does not count."""
        rest = self.labels[number + 1 : number + 3]
        if len(rest) == 2 and rest[0].kind == "thought" and rest[1].kind == "input":
            return rest[1]
        return rest[0] if rest else None

    def boundary(self, at: int, action: Label, tool: ToolSpec) -> int:
        """Where an argument without brackets ends at the latest: at the next label in the dress of the action's own.

        A word that is one of the tool's parameters is no label here.
        """
        own = {fold(name) for name in properties(tool)}
        number = bisect.bisect_left(self.labels, at, key=lambda label: label.start)
        for label in self.labels[number : number + MOST_TRIES]:
            word = fold(self.text[label.start : label.content])
            plain = label.dress in ("", action.dress) and not label.inline and word not in own
            if plain and (label.kind not in ("action", "input") or self.names_tool(label)):
                return label.start
        return len(self.text)

    def names_tool(self, label: Label) -> bool:
        """Whether a label is that of an action, and a tool stands after it."""
        head = HEAD.match(self.text, label.content, self.line_end(label.content, len(self.text)))
        return label.kind == "action" and head is not None and same_tool(head["name"].strip(), self.tools) is not None

    def line_end(self, at: int, end: int) -> int:
        """Where the line ends, at `end` at the latest."""
        found = self.text.find("\n", at, end)
        return found if found >= 0 else end

    def before(self, end: int, start: int = 0) -> str:
        """What the model thought before a place, without the label."""
        pieces = []
        for label in self.labels:
            if label.start >= end:
                break
            if label.kind == "thought" and label.start >= start:
                pieces.append(self.text[start : label.start])
                start = label.content
        pieces.append(self.text[start:end])
        said = _STRAY_TAG.sub("", "\n".join(piece.strip() for piece in pieces if piece.strip()))
        said = _TRAILING_FENCE.sub("", said.strip()).strip().removeprefix("```").strip()
        return "\n".join(filter(None, (self.thought, said)))

    def first(self, kind: str) -> int:
        """Where the first label of a kind stands; the end of the text where there is none."""
        return next((label.start for label in self.labels if label.kind == kind), len(self.text))


def skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where the text goes on after what the pattern finds at a place, if it does."""
    found = pattern.match(text, at)
    return found.end() if found else at
