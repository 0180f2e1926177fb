"""Finds the first action, or the answer, in what a model wrote."""

# ruff: noqa: RUF001 (models write curly quotes and wide bars)

import bisect
import itertools
import re
from collections.abc import Sequence

from msgspec import Struct

from agents.actions.action import Act, Action, Final, Malformed, Said
from agents.actions.arguments import answer_text, is_given, to_arguments
from agents.actions.calls import Call, finishes, is_nothing, read_call
from agents.actions.labelled import given_call, labelled_call, unnamed_call
from agents.actions.labels import Label
from agents.actions.markup import Markup, Message, clean, harmony, split_thought
from agents.actions.names import fold, match_tool, required, same_tool
from agents.actions.page import MOST_TRIES, Fault, Page
from agents.actions.values import Unreadable
from models.backend import ToolSpec

MOST_GUESSES = 64
"""Places without any mark at which a call is looked for."""
MOST_NAMES = 40
"""Tools that a model is told of when it has to choose again."""

FORM = (
    'Write "Action:" and the name of one tool, on the next line "Action Input:" and a JSON object, and then stop; '
    'or write "Final Answer:" and the answer.'
)


def read_action(text: str, tools: Sequence[ToolSpec], *, cut_off: bool = False) -> Action:
    """What a model's text asks for.

    Args:
        text: what it wrote, all of it.
        tools: those that it may call.
        cut_off: it was stopped for the length of its text: then an argument that nothing closes is not whole.
    """
    text = clean(text)
    if messages := harmony(text):
        return _read_messages(messages, tools, cut_off)
    thought, body, endless = split_thought(text)
    return _Reading(Page(body, tools, thought, cut_off=cut_off), endless=endless).action()


def listing(tools: Sequence[ToolSpec]) -> str:
    """The tools, for a model that named another."""
    if not tools:
        return "There are no tools."
    names = ", ".join(tool.name for tool in tools[:MOST_NAMES])
    return f"The tools are: {names}{', …' if len(tools) > MOST_NAMES else ''}."


_FENCE_LINE = re.compile(r"^[ ]{0,3}(?:```|~~~)", re.MULTILINE)
_GUESS = re.compile(
    r"^[ \t]*(?:[-*] )?(?=[{\[]|[A-Za-z_][\w.]{0,63}\()|(?<=[:.!?)`])[ \t]*`?(?=\{\s*[\"'][\w ]{2,20}[\"']\s*:)",
    re.MULTILINE,
)
_CALL_BEGINS = re.compile(r"\s*(?:```\w*\s*)?(?:[\[{<]|call:|[\w.\-]+\s*[({\[])")
_JSON_BEGINS = re.compile(r"\{|\[\s*(?:\{|\])")
_NAME_ALONE = re.compile(r"\s*([\w.\-]{1,64})\s*(?:</|<[|｜]|\Z)")
_NAMED_CALL = re.compile(
    r"[\[\s]*\{\s*[\"'“](?:name|tool|tool_name|action|function)[\"'”]\s*:\s*[\"'“](?P<key>[^\"'”\n]{1,64})"
    r"|\[?\s*(?P<plain>[A-Za-z_][\w.\-]{0,63})\("
)
_NOTHING_BEFORE = re.compile(r"(?:\A|```\w{0,16})\s*\Z")
_PYTHONS = ("python", "codeinterpreter", "pythoninterpreter", "ipython", "runpython", "executepython")
_NESTED_LABEL = re.compile(r"\A\s*(?:Final )?Answer[:\uff1a]\s*", re.IGNORECASE)
_WHOLE_FENCE = re.compile(r"```(?:markdown|text|md|plaintext)?[ \t]*\n((?:(?!```).)*?)\n?```", re.DOTALL)
_CLOSING_TAG = re.compile(r"(?:</?(?:final_answer|answer|response|s)>|<\|END_RESPONSE\|>)\s*\Z")


class _Spot(Struct, frozen=True):
    """A place in the text where something begins that may matter."""

    start: int
    mark: Label | Markup | None
    """None: a place where a call is only guessed."""
    label: int = -1
    """The index of a label among the labels."""


class _Reading:
    """One text that is being read."""

    def __init__(self, page: Page, *, endless: bool = False) -> None:
        self._page = page
        self._endless = endless
        """Whether it is a thought that never ended: then only an action with which it ends is meant."""
        self._final: _Spot | None = None
        self._empty: Act | Malformed | None = None
        """A call that lacks its arguments: it may have been none, if an answer follows."""
        self._refused = False
        """Whether the model wrote that it wants no tool."""

    def action(self) -> Action:
        """What the text asks for: its first action, else its answer, else that there is neither."""
        at = tries = 0
        for spot in self._spots():
            kind = spot.mark.kind if spot.mark else "guess"
            if spot.start < at or kind in ("thought", "result") or (kind == "question" and not self._final):
                continue
            if kind in ("observation", "question") or tries == MOST_TRIES:
                break
            if kind == "final":
                self._final = self._final or spot
                continue
            tries += 1
            found: Act | Final | Malformed | None
            try:
                call = self._call(spot)
                found = self._judged(call, spot.start) if call else None
                at = call.end if call else at
            except (Fault, Unreadable) as error:
                if self._final or self._endless:
                    continue
                found = Malformed(self._page.before(spot.start), f"{_reason(error)} {listing(self._page.tools)} {FORM}")
            if found:
                return self._empty or found
        if self._final and (answer := self._answer(self._final)):
            return answer
        return self._empty or self._no_action()

    def _judged(self, call: Call, start: int) -> Act | Final | None:
        """The action that a call is; None where it is none after all."""
        name = match_tool(call.name, self._page.tools)
        if name is None and is_nothing(call.name):
            self._refused = True
            return None
        if name and required(self._page.tool(name)) and not is_given(call.given):
            self._empty = self._empty or self._without_arguments(name, call, start)
            return None
        found = self._settled(call, start)
        if (self._endless and not self._page.closes(call.end)) or (self._final and isinstance(found, Final)):
            return None
        return found

    def _spots(self) -> list[_Spot]:
        spots = [_Spot(label.start, label, number) for number, label in enumerate(self._page.labels)]
        spots += [_Spot(mark.start, mark) for mark in self._page.marks]
        spots += [
            _Spot(found.end(), None) for found in itertools.islice(_GUESS.finditer(self._page.text), MOST_GUESSES)
        ]
        # At the same place a label tells more than a mark, and a mark more than a guess.
        return sorted(spots, key=lambda spot: (spot.start, spot.mark is None, spot.label < 0))

    def _call(self, spot: _Spot) -> Call | None:
        """The call that begins at a place; None where none does, or where it is not meant."""
        if isinstance(spot.mark, Label):
            call = (
                labelled_call(self._page, spot.label)
                if spot.mark.kind == "action"
                else unnamed_call(self._page, spot.mark)
            )
        elif spot.mark:
            call = self._marked(spot.mark)
        else:
            call = None if self._final else self._guessed(spot.start)
        if call and self._final and not self._overrules(spot, call, self._final):
            return None
        return call

    def _overrules(self, spot: _Spot, call: Call, final: _Spot) -> bool:
        """Whether a call after the answer counts: it must be one without doubt, and no example in the answer."""
        fences = sum(1 for _ in _FENCE_LINE.finditer(self._page.text, final.start, spot.start))
        at_line_start = not self._page.text[self._page.text.rfind("\n", 0, spot.start) + 1 : spot.start].strip()
        known = same_tool(call.name, self._page.tools) is not None
        return known and at_line_start and fences % 2 == 0 and is_given(call.given)

    def _settled(self, call: Call, start: int) -> Act | Final:
        """The action that a call is, with the tool's own name and its arguments."""
        thought = "\n".join(filter(None, (self._page.before(start), call.thought)))
        name = match_tool(call.name, self._page.tools)
        if name is None:
            if finishes(call.name):
                text = answer_text(call.given)
                if not text:
                    raise Fault("The answer was empty.")
                return Final(text, thought)
            raise Fault(f"There is no tool {_quoted(call.name)}.")
        if self._page.cut_off and not call.closed and self._page.closes(call.end):
            raise Fault(f"The text was too long: the arguments of {name} were cut off.")
        try:
            arguments = to_arguments(call.given, self._page.tool(name), self._page.steps)
        except Unreadable as error:
            raise Fault(f"The arguments of {name} could not be read: {error}.") from error
        return Act(name, arguments, thought, call.name if call.name != name else "")

    def _without_arguments(self, name: str, call: Call, start: int) -> Act | Malformed:
        """A call that was given nothing although the tool needs something: said so, or only forgotten."""
        if call.given is None:
            needs = ", ".join(required(self._page.tool(name))[:MOST_NAMES])
            return Malformed(self._page.before(start), f"{name} was given no arguments: it needs {needs}. {FORM}")
        return Act(name, {}, self._page.before(start), call.name if call.name != name else "")

    def addressed(self, name: str) -> Act | Final | Malformed:
        """What is asked by a message to a tool: the whole text is for it."""
        try:
            call = given_call(self._page, name, 0, Label("action", 0, 0), len(self._page.text))
            return self._settled(call, 0)
        except (Fault, Unreadable) as error:
            return Malformed(self._page.thought, f"{_reason(error)} {listing(self._page.tools)}")

    def _marked(self, mark: Markup) -> Call | None:
        """The call within the tags or after the token of a model's template."""
        wall = self._page.wall(mark.content)
        try:
            call = read_call(self._page.text, mark.content, wall, self._page.tools, self._page.steps)
        except Unreadable as error:
            if _CALL_BEGINS.match(self._page.text, mark.content):
                raise Fault(f"The tool call could not be read: {error}.") from error
            return None
        if call:
            return call
        name = _NAME_ALONE.match(self._page.text, mark.content)
        if name and match_tool(name[1], self._page.tools):
            return Call(name[1], None, name.end())
        if mark.word == "python_tag" and (
            tool := next((t for t in self._page.tools if fold(t.name) in _PYTHONS), None)
        ):
            code = self._page.text[mark.content : wall].strip()
            return Call(tool.name, code, wall, closed=wall < len(self._page.text)) if code else None
        return None

    def _guessed(self, at: int) -> Call | None:
        """A call that nothing announces: JSON that names a tool, or a line that is `name(…)`."""
        wall = self._page.wall(at)
        alone = _NOTHING_BEFORE.search(self._page.text, max(0, at - 64), at) is not None
        try:
            call = read_call(self._page.text, at, wall, self._page.tools, self._page.steps)
        except Unreadable as error:
            if self._looks_like_call(at, alone):
                raise Fault(f"The tool call could not be read: {error}.") from error
            return None
        if call is None:
            return None
        if _JSON_BEGINS.match(self._page.text, at):
            return call if alone or same_tool(call.name, self._page.tools) or finishes(call.name) else None
        if self._page.text[at] == "[":
            return call if same_tool(call.name, self._page.tools) else None
        fenced = sum(1 for _ in _FENCE_LINE.finditer(self._page.text, 0, at)) % 2 == 1
        rest = self._page.text[
            call.end : self._page.text.find("```", call.end) if fenced else self._page.line_end(call.end, wall)
        ]
        return call if same_tool(call.name, self._page.tools) and not rest.strip(" \n`)];") else None

    def _looks_like_call(self, at: int, alone: bool) -> bool:
        named = _NAMED_CALL.match(self._page.text, at)
        if named is None:
            return False
        name = named["key"] or named["plain"]
        return same_tool(name, self._page.tools) is not None or (alone and named["key"] is not None)

    # What is no call

    def _answer(self, final: _Spot) -> Final | None:
        """The answer; None where it is empty."""
        mark = final.mark
        assert mark is not None
        if isinstance(mark, Markup):
            closing = self._page.text.find("</" if mark.word[:1] != "|" else "<|", mark.content)
            text = self._page.text[mark.content : closing if closing >= 0 else len(self._page.text)]
            dress = ""
        else:
            text = self._page.text[mark.content : self._answer_end(mark)]
            dress = mark.dress
        text = _without_fence(_NESTED_LABEL.sub("", text, count=1)).strip()
        if dress[-2:] in ("**", "__") and text.endswith(dress[-2:]) and text.count(dress[-2:]) % 2:
            text = text[:-2].rstrip()
        text = _CLOSING_TAG.sub("", text).strip()
        return Final(text, self._page.before(final.start)) if text else None

    def _answer_end(self, final: Label) -> int:
        """Where the model goes on with its own labels, in the dress of the answer's."""
        number = bisect.bisect_right(self._page.labels, final.content, key=lambda label: label.start)
        for label in itertools.islice(self._page.labels, number, None):
            if label.kind in ("thought", "observation") and label.dress == final.dress:
                return label.start
            if label.kind == "question" and label.dress == final.dress and self._goes_on(label):
                return label.start
            if (
                label.kind == "action"
                and label.dress == final.dress
                and is_nothing(self._page.text[label.content :][:64])
            ):
                return label.start
        return len(self._page.text)

    def _goes_on(self, question: Label) -> bool:
        """Whether a question is one that the model asks itself to go on: a thought follows it."""
        number = bisect.bisect_right(self._page.labels, question.start, key=lambda label: label.start)
        return number < len(self._page.labels) and self._page.labels[number].kind in ("thought", "action")

    def _no_action(self) -> Malformed | Said:
        kinds = {label.kind for label in self._page.labels}
        thinks = "thought" in kinds
        if self._final:
            return Malformed(self._page.before(self._final.start), f"The answer was empty. {FORM}")
        if self._refused:
            return Malformed(self._page.before(self._page.first("action")), f"No tool was named. {FORM}")
        if self._page.walls and (thinks or kinds & {"action", "final"}):
            why = "Observations come from the tools: do not write them yourself."
            return Malformed(self._page.before(self._page.walls[0]), f"{why} {FORM}")
        if thinks and "action" in kinds:
            why = f"The action did not name a tool. {listing(self._page.tools)} {FORM}"
            return Malformed(self._page.before(self._page.first("action")), why)
        if self._endless:
            return Said("", self._page.before(len(self._page.text)))
        if thinks:
            first = self._page.first("thought")
            return Said(self._page.text[:first].strip(" \n`*"), self._page.before(len(self._page.text), first))
        return Said(_without_fence(self._page.text).strip(), self._page.thought)


def _reason(error: Fault | Unreadable) -> str:
    return str(error) if isinstance(error, Fault) else f"The action could not be read: {error}."


def _quoted(name: str) -> str:
    return repr(" ".join(name.split())[:60])


def _without_fence(text: str) -> str:
    """A text without a fence around it, or the end of one that began before it."""
    text = text.strip()
    if whole := _WHOLE_FENCE.fullmatch(text):
        return whole[1]
    return text[:-3] if text.endswith("```") and text.count("```") % 2 else text


def _read_messages(messages: Sequence[Message], tools: Sequence[ToolSpec], cut_off: bool) -> Action:
    """What the messages of gpt-oss ask for: the first that is for a tool, else the answer."""
    thought = "\n".join(message.text for message in messages if message.channel == "analysis" and not message.recipient)
    for message in messages:
        name = message.recipient
        if name and name not in ("all", "user", "assistant"):
            page = Page(message.text, tools, thought, cut_off=cut_off and not message.ended)
            return _Reading(page).addressed(name)
    for message in messages:
        if message.channel == "final" and message.text:
            return Final(message.text, thought)
    said = "\n".join(message.text for message in messages if message.channel != "analysis")
    return Said(said, thought)
