"""Generated text → deltas: what is thought, what is said, what is a tool call, and where a stop string ends it."""

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from models.llama_cpp.families import Call, Family
from models.messages import CallDelta, Delta, TokenLogprob


class Said(Struct, frozen=True):
    """Text for the reader."""

    text: str


class Thought(Struct, frozen=True):
    """Text that the model wrote for itself."""

    text: str


class Called(Struct, frozen=True):
    """A complete tool call."""

    call: Call


Segment = Said | Thought | Called


class Answer:
    """Takes generated text as it comes, and gives deltas. Stop strings count only in what is said."""

    def __init__(self, family: Family, *, thinking: bool, tools: bool, stop: Iterable[str], one_call: bool) -> None:
        self._splitter = Splitter(family, thinking=thinking, tools=tools)
        self._stops = StopStrings(stop)
        self._one_call = one_call
        self._logprobs: list[TokenLogprob] = []
        self.calls = 0

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._splitter.thinking

    @property
    def complete(self) -> bool:
        """Whether nothing that follows would be shown."""
        return self._stops.hit or (self._one_call and self.calls > 0)

    def feed(self, text: str, logprob: TokenLogprob | None) -> Delta:
        """The delta for the text of one more token; an empty one while it is not clear what the text is."""
        if logprob:
            self._logprobs.append(logprob)
        return self._delta(self._splitter.feed(text))

    def finish(self) -> Delta:
        """What was held back, when no text follows."""
        delta = self._delta(self._splitter.finish())
        rest = self._stops.flush()
        return Delta(delta.text + rest, delta.thought, delta.calls, delta.logprobs + self._take_logprobs(rest))

    def _delta(self, segments: Iterable[Segment]) -> Delta:
        said, thought, calls = "", "", []
        for segment in segments:
            if self.complete:
                break
            match segment:
                case Said(text):
                    said += self._stops.feed(text)
                case Thought(text):
                    thought += text
                case Called((name, arguments)):
                    said += self._stops.flush()
                    calls.append(CallDelta(self.calls, name, arguments))
                    self.calls += 1
        if (thought or calls) and not said:
            self._logprobs.clear()
        return Delta(said, thought, tuple(calls), self._take_logprobs(said))

    def _take_logprobs(self, said: str) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that were said; they wait while their text is held back."""
        if not said or not self._logprobs:
            return ()
        taken = tuple(self._logprobs)
        self._logprobs.clear()
        return taken


class Splitter:
    """Finds thoughts and tool calls in text that comes in pieces. What may become a tag is held back."""

    def __init__(self, family: Family, *, thinking: bool, tools: bool) -> None:
        self._family = family
        self._tools = tools
        self._held = ""
        self._step: Callable[[], Iterator[Segment]] = self._before_thought if thinking else self._beginning

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._step in (self._before_thought, self._thought)

    def feed(self, text: str) -> Iterator[Segment]:
        """The segments that are certain with this text."""
        self._held += text
        before = None
        while before != (self._held, self._step):
            before = (self._held, self._step)
            yield from self._step()

    def finish(self) -> Iterator[Segment]:
        """The rest, when no text follows: an unfinished call is text unless it can be read all the same."""
        held, self._held = self._held, ""
        if self._step == self._thought:
            yield from _thought(held.rstrip())
        elif self._step == self._call:
            call = self._family.read_call(held)
            yield Called(call) if call else Said(self._family.call_opening + held)
        elif held and self._step in (self._beginning, self._text):
            yield Said(held)

    def _beginning(self) -> Iterator[Segment]:
        """Only here can a thought begin: later the tag is text that speaks of the tag."""
        opening, start = self._family.thought_opening, self._held.lstrip()
        if start.startswith(opening):
            self._held, self._step = start.removeprefix(opening), self._before_thought
        elif not opening.startswith(start):
            self._step = self._text
        return iter(())

    def _before_thought(self) -> Iterator[Segment]:
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._thought
        return iter(())

    def _thought(self) -> Iterator[Segment]:
        before, closing, after = self._held.partition(self._family.thought_closing)
        if closing:
            self._held, self._step = after, self._gap
            yield from _thought(before.rstrip())
        else:
            yield from _thought(self._release(self._family.thought_closing))

    def _text(self) -> Iterator[Segment]:
        opening = self._family.call_opening
        if not self._tools:
            said, self._held = self._held, ""
        elif opening in self._held:
            said, _, self._held = self._held.partition(opening)
            said, self._step = said.rstrip(), self._call
        else:
            said = self._release(opening)
        if said:
            yield Said(said)

    def _call(self) -> Iterator[Segment]:
        body, closing, after = self._held.partition(self._family.call_closing)
        if not closing:
            return
        call = self._family.read_call(body)
        self._held = after
        self._step = self._gap if call else self._text
        yield Called(call) if call else Said(self._family.call_opening + body + closing)

    def _gap(self) -> Iterator[Segment]:
        """White space behind a thought or a call is nobody's."""
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._text
        return iter(())

    def _release(self, tag: str) -> str:
        """Takes what cannot be the beginning of the tag, nor white space before it."""
        sure = self._held[: len(self._held) - overhang(self._held, (tag,))].rstrip()
        self._held = self._held[len(sure) :]
        return sure


class StopStrings:
    """Text up to the first stop string, also when that comes in pieces."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What can be shown of the text so far."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.hit = bool(places)
        end = min(places) if places else len(self._held) - overhang(self._held, self._stops)
        shown, self._held = self._held[:end], "" if self.hit else self._held[end:]
        return shown

    def flush(self) -> str:
        """What was held back, when no text follows."""
        shown, self._held = self._held, ""
        return shown


def overhang(text: str, marks: Iterable[str]) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    longest = 0
    for mark in marks:
        sizes = range(min(len(mark) - 1, len(text)), longest, -1)
        longest = next((size for size in sizes if text.endswith(mark[:size])), longest)
    return longest


def _thought(text: str) -> Iterator[Thought]:
    if text:
        yield Thought(text)
