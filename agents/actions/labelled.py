"""An action that its label announces: the tool's name after it, and what the tool is given, wherever that stands."""

# ruff: noqa: RUF001 (models write curly quotes)

import re

from agents.actions.calls import FENCE, Call, finishes, is_nothing, read_call
from agents.actions.labels import Label, inline_input
from agents.actions.names import fold, match_tool, same_tool
from agents.actions.page import HEAD, MOST_TRIES, Fault, Page, skip
from agents.actions.values import CutOff, Unreadable, read_pairs, read_value

_BLANK = re.compile(r"\s*")
_SPACES = re.compile(r"[ \t`*\"'”’\]>]*(?=[(\[{<:])|[ \t]*")
_WITHOUT = re.compile(
    r"\s+(?:with|without|using|and) (?:no |any |empty )?(?:arguments|input|parameters|args)\b.*|\s+with\s*\Z",
    re.IGNORECASE,
)
_ARGUMENT_BEGINS = re.compile(r"[(\[]\s*(?:[\"'“{)]|\w+\s*[=:])")
_AMBIGUOUS = frozenset(("tool", "toolname", "function", "functionname"))
_SINGLE_WORD = re.compile(r"[\w.\-]{2,64}")
_OPENS = re.compile(r"```|~~~|\{|<(?:parameter|arg_key|arguments|action_input)")
_ARGUMENT_TAG = re.compile(r"<(?:[a-z_]+)[ =>]")
_SIGNED = re.compile(r"[\"'“{]|[\w\-]{1,64}\s*=(?!=)")
_OBJECT_BEGINS = re.compile(r"\{\s*(?:[\"'“][^\"'”\n]{1,64}[\"'”]?\s*(?:[:=]|\Z)|\w+\s*:|\Z)")
_PROGRAM = re.compile(
    r"^[ \t]*(?:import |from \w+ import|def |class |for .*:|while .*:|if .*:|with .*:|print\("
    r"|[\w.\[\]]+ ?[-+*/]?=[^=]|#|SELECT\b|\w+\()",
    re.MULTILINE,
)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")


def labelled_call(page: Page, number: int) -> Call | None:
    """The call of the label at `number`, `Action: …`; None where the line is prose.

    Raises:
        Fault: it cannot be done.
        Unreadable: it cannot be read.
    """
    label = page.labels[number]
    begin = skip(_BLANK, page.text, label.content)
    following = page.following(number)
    if following and begin >= following.start:
        return None if following.kind != "input" else unnamed_call(page, following)
    wall = page.wall(label.content)
    if begin >= wall:
        return None
    inside = skip(FENCE, page.text, begin)
    if page.text[inside : inside + 1] in ("{", "[", "<"):
        if call := read_call(page.text, begin, wall, page.tools, page.steps):
            return call
        if any(mark.start == begin and mark.kind == "call" for mark in page.marks[:MOST_TRIES]):
            return None
    return _by_name(page, label, begin, following, wall)


def _by_name(page: Page, label: Label, begin: int, following: Label | None, wall: int) -> Call | None:
    line = page.line_end(begin, wall)
    if beside := inline_input(page.text, begin, line):
        return given_call(page, page.text[begin : beside.start()], beside.end(), label, wall)
    head = HEAD.match(page.text, begin, line)
    if head is None:
        return None
    name = _WITHOUT.sub("", head["name"].strip())
    rest = page.text[head.end() : line].strip()
    if following and following.kind == "input":
        written = page.text[begin : page.line_end(begin, following.start)]
        named = not rest.strip(".:*_`") or match_tool(name, page.tools)
        return given_call(page, name if named else written, following.content, label, wall)
    if rest:
        return _beside(page, label, name, begin, head.end(), wall)
    below = skip(_BLANK, page.text, line)
    if below < wall and (not following or below < following.start) and _OPENS.match(page.text, below):
        return given_call(page, name, below, label, wall)
    known = match_tool(name, page.tools) or finishes(name) or is_nothing(name)
    if known or (_SINGLE_WORD.fullmatch(name) and _is_step(page, label)):
        return None if label.inline else Call(name, None, line, closed=line < len(page.text))
    return None


def _is_step(page: Page, label: Label) -> bool:
    """Whether a label must be one of ReAct: "Function: manager" may be a line of any text."""
    word = fold(page.text[label.start : label.content])
    return word not in _AMBIGUOUS or any(each.kind == "thought" for each in page.labels)


def _beside(page: Page, label: Label, name: str, begin: int, after: int, wall: int) -> Call | None:
    """`Action: python(code="…")` and other calls on the line of the label."""
    at = skip(_SPACES, page.text, after)
    mark = page.text[at]
    known = match_tool(name, page.tools)
    if mark == "(" and not known and is_nothing(name):
        return Call(name, None, page.line_end(at, wall))
    if (
        mark in "(["
        and (known or finishes(name))
        and (page.text[at - 1] != " " or _ARGUMENT_BEGINS.match(page.text, at))
    ):
        return _in_brackets(page, name, at, wall)
    if mark == "(" and _SINGLE_WORD.fullmatch(name):
        return Call(name, None, page.line_end(at, wall))
    if known and mark == ":" and not _OPENS.match(page.text, skip(_BLANK, page.text, at + 1)):
        line = page.line_end(at, wall)
        return Call(name, _trimmed(page.text[at + 1 : line]) or None, line, closed=line < len(page.text))
    if known and mark in "{<\"'“`:":
        return given_call(page, name, at + (mark == ":"), label, wall)
    words = page.text[begin : page.line_end(begin, wall)].split(None, 1)
    if len(words) == 2 and same_tool(words[0], page.tools) and _SIGNED.match(words[1]):
        return given_call(page, words[0], page.text.index(words[1], begin), label, wall)
    return Call(name, None, page.line_end(at, wall)) if is_nothing(name) else None


def _in_brackets(page: Page, name: str, at: int, wall: int) -> Call:
    closing = ")" if page.text[at] == "(" else "]"
    if closing == ")":
        try:
            given, finish = read_pairs(page.text, at, wall, page.steps)
        except CutOff:
            raise
        except Unreadable:
            pass
        else:
            return Call(name, given, finish)
    last = page.text.rfind(closing, at, page.line_end(at, wall))
    inside = page.text[at + 1 : last]
    if last < 0 or (closing == ")" and inside.count("(") != inside.count(")")):
        raise CutOff("a bracket does not close")
    return Call(name, inside.strip(), last + 1)


def unnamed_call(page: Page, label: Label) -> Call | None:
    """What stands after `Action Input:` without an action before it: a call with its own name, or a fault."""
    if "a" not in fold(page.text[label.start : label.content])[:1]:
        return None
    call = read_call(page.text, label.content, page.wall(label.content), page.tools, page.steps)
    if call is None:
        raise Fault("The action did not name a tool.")
    return call


def given_call(page: Page, name: str, at: int, label: Label, wall: int) -> Call:
    """A call of a tool that is named before, with what stands at `at`."""
    name = name.strip(" \t\n`*_\"'.,;:|-")
    known = match_tool(name, page.tools)
    if known is None:
        return Call(name, page.text[at:wall][:4000].strip(), min(at, wall))
    begin = skip(_BLANK, page.text, at)
    stop = min(page.boundary(at, label, page.tool(known)), wall)
    if begin >= stop:
        return Call(name, None, max(at, begin if begin < wall else at))
    if fence := FENCE.match(page.text, begin, wall):
        return _fenced(page, name, fence, wall)
    if page.text[begin] in "{<":
        return _structured(page, name, begin, stop, wall)
    if page.text[begin] == "(" and (call := _bracketed(page, name, begin, wall)):
        return call
    if page.text[begin] in "\"'“«[":
        try:
            value, finish = read_value(page.text, begin, wall, page.steps)
        except Unreadable:
            pass
        else:
            line = page.line_end(finish, wall)
            if not page.text[finish:line].strip(" `.*"):
                return Call(name, value, line, closed=line < len(page.text))
    return _plain(page, name, begin, stop)


def _bracketed(page: Page, name: str, begin: int, wall: int) -> Call | None:
    """`({"query": "Oslo"})`; None where it is an expression."""
    try:
        given, finish = read_pairs(page.text, begin, wall, page.steps)
    except Unreadable:
        return None
    return Call(name, given, finish) if given.named else None


def _structured(page: Page, name: str, begin: int, stop: int, wall: int) -> Call:
    if page.text[begin] == "<":
        if call := read_call(page.text, begin, wall, page.tools, page.steps):
            return call
        wrapped = f"<function={name}>{page.text[begin:wall]}</function>"
        call = (
            read_call(wrapped, 0, len(wrapped), page.tools, page.steps)
            if _ARGUMENT_TAG.match(page.text, begin)
            else None
        )
        return Call(name, call.given, stop) if call else _plain(page, name, begin, stop)
    try:
        value, finish = read_value(page.text, begin, wall, page.steps)
    except Unreadable as error:
        if stop == wall:
            return _plain_or_fail(page, name, begin, stop, error)
    else:
        return Call(name, value, finish)
    try:
        value, finish = read_value(page.text, begin, stop, page.steps)
    except Unreadable as error:
        return _plain_or_fail(page, name, begin, stop, error)
    return Call(name, value, finish)


def _plain_or_fail(page: Page, name: str, begin: int, stop: int, error: Unreadable) -> Call:
    """A program that begins with a brace is a plain argument; an object that is not whole is none."""
    if isinstance(error, CutOff) or _OBJECT_BEGINS.match(page.text, begin):
        raise Fault(f"The arguments of {match_tool(name, page.tools)} could not be read: {error}.") from error
    return _plain(page, name, begin, stop)


def _fenced(page: Page, name: str, fence: re.Match[str], wall: int) -> Call:
    closing = re.compile(rf"{fence[1][:3]}+[ \t]*$", re.MULTILINE).search(page.text, fence.end(), wall)
    if closing is None and wall == len(page.text):
        raise CutOff("a code block in it does not end")
    inside = page.text[fence.end() : closing.start() if closing else wall]
    finish = closing.end() if closing else wall
    body = inside.strip()
    if body[:1] == "{" or (fence[2] or "").lower() in ("json", "json5"):
        try:
            value, _ = read_value(body, 0, len(body), page.steps)
        except Unreadable as error:
            if isinstance(error, CutOff) or _OBJECT_BEGINS.match(body):
                raise Fault(f"The arguments of {name} could not be read: {error}.") from error
        else:
            return Call(name, value, finish)
    return Call(name, body or None, finish)


def _plain(page: Page, name: str, begin: int, stop: int) -> Call:
    """A plain text as the argument. One that is no program ends with its paragraph."""
    written = page.text[begin:stop].rstrip()
    if not any(map(str.isalnum, written)):
        raise CutOff("there is nothing in it")
    if not _PROGRAM.search(written) and (gap := _PARAGRAPH_END.search(written)):
        return Call(name, _trimmed(written[: gap.start()]), begin + gap.start())
    return Call(name, _trimmed(written), begin + len(written), closed=stop < len(page.text))


def _trimmed(written: str) -> str:
    """A plain argument without the marks of inline code around it."""
    written = written.strip()
    if len(written) > 1 and written[0] == written[-1] == "`" and "`" not in written[1:-1]:
        return written[1:-1]
    return written.removesuffix("```").rstrip() if written.count("```") == 1 else written
