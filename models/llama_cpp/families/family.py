"""What a family of models is: the tags of its thoughts, and the form of its tool calls."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from models.backend import ToolSpec
from models.llama_cpp.reading import NoCall, Reader, Reading, Said, Thought
from models.llama_cpp.rules import Rules


class Form(Protocol):
    """How tool calls are written."""

    @property
    def openings(self) -> tuple[str, ...]:
        """Texts that open calls, wherever they stand. The reader of calls finds one of them next."""
        ...

    @property
    def bare(self) -> tuple[str, ...]:
        """Texts that open calls only where an answer begins."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags, in the vocabulary of many models tokens of their own."""
        ...

    def read(self, reader: Reader) -> Reading[None]:
        """Reads calls and the tags around them. Raises NoCall where there is none."""
        ...

    def rule(self, rules: Rules, tools: Sequence[ToolSpec], many: bool) -> str:
        """What matches one call, or `many`, of these tools."""
        ...


class Family(Struct, frozen=True):
    """A way of writing: thoughts between tags, calls in a form."""

    name: str
    signs: tuple[str, ...]
    """Texts that all stand in the chat templates of the family."""
    form: Form
    thought_opening: str = "<think>"
    thought_closing: str = "</think>"
    thought_anywhere: bool = False
    """Whether thoughts may follow what was said; otherwise the tag is then text that speaks of the tag."""
    reply_tags: tuple[str, str] = ("", "")
    """Tags around what is said after a thought."""
    stray: tuple[str, ...] = ()
    """Tags that may be left over and that nobody should see."""
    ends: tuple[str, ...] = ()
    """Texts behind which nothing belongs to the answer."""
    after_thought: tuple[str, ...] = ("", "\n", "\n\n")
    """What may stand between the end of a thought and the answer."""
    before_text: str = ""
    """What stands before an answer that is neither thought nor call."""
    turn: tuple[str, str] = ("", "")
    """The end of a turn, and what must follow it for an answer where a template forgets it."""
    efforts: Mapping[str, str] = {}
    """The names of efforts to reason that the models know, in the place of those that they do not."""
    thinks: bool = False
    """Whether the model's template speaks of thoughts."""

    @property
    def marks(self) -> tuple[str, ...]:
        """All tags, in the vocabulary of many models tokens of their own."""
        return (*self.form.marks, self.thought_opening, self.thought_closing, *self.stray, *self.ends)

    def read(self, reader: Reader, *, thinking: bool) -> Reading[None]:
        """Reads an answer; with `thinking` the prompt has begun its thought."""
        gap, stray = yield from self._beginning(reader, thinking)
        if reader.tools and (yield from reader.next(*self.form.bare)):
            yield from attempt(reader, self.form.read(reader), gap)
            gap = ""
        yield from self._text(reader, gap, stray)

    def _beginning(self, reader: Reader, thinking: bool) -> Reading[tuple[str, tuple[str, ...]]]:
        """Reads a thought, where there is one. Returns white space before the answer, and tags to drop from it."""
        if not thinking:
            gap = yield from reader.space()
            if not (yield from reader.skip(self.thought_opening)):
                return gap, self.stray
        yield from self._thought(reader)
        before, behind = self.reply_tags
        if (yield from reader.skip(before)):
            yield from reader.space()
            return "", (*self.stray, behind)
        return "", self.stray

    def start(self, rules: Rules, answer: str, *, thinking: bool) -> str:
        """The rule of a whole answer, of which a constraint sees all but the thoughts.

        With `thinking` the prompt has begun a thought; otherwise a model that has thoughts may begin one.
        """
        gap = rules.add(" | ".join(map(rules.text, self.after_thought)))
        if thinking:
            return f"{gap} {answer}"
        if self.thinks:
            return f"({rules.text(self.thought_opening)} {gap})? {answer}"
        return answer

    def _thought(self, reader: Reader) -> Reading[None]:
        reader.thinking = True
        yield from reader.space()
        _, closing = yield from passage(reader, Thought, "", self.thought_closing)
        if closing:
            reader.take(len(closing))
            reader.thinking = False
            yield from reader.space()

    def _text(self, reader: Reader, gap: str, stray: tuple[str, ...]) -> Reading[None]:
        calls = self.form.openings if reader.tools else ()
        thoughts = (self.thought_opening,) if self.thought_anywhere else ()
        while True:
            gap, mark = yield from passage(reader, Said, gap, *calls, *thoughts, *stray, *self.ends)
            if mark in calls:
                yield from attempt(reader, self.form.read(reader), gap)
                gap = ""
            elif not mark or mark in self.ends:
                reader.done = bool(mark)
                break
            else:
                reader.take(len(mark))
            if mark in thoughts:
                yield from self._thought(reader)
                gap = ""
        if gap and not reader.done:
            yield Said(gap)


def passage(reader: Reader, kind: type[Said] | type[Thought], gap: str, *marks: str) -> Reading[tuple[str, str]]:
    """Reads text up to a mark, with a gap of white space before it.

    Returns the white space that was not given because a mark might follow, and the mark, which is yet to be read.
    """
    while True:
        piece, mark = yield from reader.upto(*marks)
        body = piece.rstrip() if marks else piece
        if body:
            yield kind(gap + body)
            gap = piece[len(body) :]
        else:
            gap += piece
        if mark or not piece:
            return gap, mark


def attempt(reader: Reader, calls: Reading[None], gap: str) -> Reading[None]:
    """Reads calls with the gap before them, which is nobody's; what is no call is text, except for a tag cut short."""
    reader.attempt(gap)
    try:
        yield from calls
        reader.succeed()
        yield from reader.space()
    except NoCall:
        if text := reader.failed():
            yield Said(text)
            return
    if reader.ended:
        reader.take(reader.held)
