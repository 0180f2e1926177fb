"""Generated text → deltas: what is thought, what is said, what is a tool call, and where a stop string ends it."""

from collections.abc import Iterable, Iterator, Sequence

from models.backend import ToolSpec
from models.llama_cpp.families import Family
from models.llama_cpp.reading import Argued, Called, Closed, Reader, Said, Segment, Thought, overhang
from models.messages import CallDelta, Delta, FinishReason, TokenLogprob


class Answer:
    """Takes generated text as it comes, and gives deltas. Stop strings count only in what is said."""

    def __init__(
        self, family: Family, *, thinking: bool, tools: Sequence[ToolSpec], stop: Iterable[str], one_call: bool
    ) -> None:
        self._reader = Reader(tools)
        self._segments = family.read(self._reader, thinking=thinking)
        self._stops = StopStrings(stop)
        self._one_call = one_call
        self._logprobs: list[TokenLogprob] = []
        self._open = False
        self.calls = 0
        """Tool calls that have begun."""
        for _ in self._read():
            pass

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._reader.thinking

    @property
    def held(self) -> int:
        """How many characters wait for those that follow them."""
        return self._reader.held

    @property
    def complete(self) -> bool:
        """Whether nothing that follows would be shown."""
        return self._stops.hit or self._reader.done or (self._one_call and self.calls > 0 and not self._open)

    def feed(self, text: str, logprob: TokenLogprob | None) -> Delta:
        """The delta for the text of one more token; an empty one while it is not clear what the text is."""
        if logprob:
            self._logprobs.append(logprob)
        self._reader.feed(text)
        return self._delta()

    def finish(self) -> Delta:
        """What was held back, when no text follows."""
        self._reader.end()
        delta = self._delta()
        rest = self._stops.flush()
        return Delta(delta.text + rest, delta.thought, delta.calls, delta.logprobs + self._take_logprobs(rest))

    def reason(self, finish: FinishReason) -> FinishReason:
        """Why the answer ended, if generation ended for this reason: a call that was cut short is no call to make."""
        if not self.calls or (self._open and finish == "length"):
            return finish
        return "tool_calls"

    def _read(self) -> Iterator[Segment]:
        """The segments that are certain now."""
        for segment in self._segments:
            if segment is None:
                return
            yield segment

    def _delta(self) -> Delta:
        said, thought = "", ""
        calls: dict[int, CallDelta] = {}
        for segment in self._read():
            if self.complete:
                break
            match segment:
                case Said(text):
                    said += self._stops.feed(text)
                case Thought(text):
                    thought += text
                case Called(name):
                    said += self._stops.flush()
                    calls[self.calls] = CallDelta(self.calls, name)
                    self.calls += 1
                    self._open = True
                case Argued(json):
                    begun = calls.get(self.calls - 1, CallDelta(self.calls - 1))
                    calls[begun.index] = CallDelta(begun.index, begun.name, begun.arguments + json)
                case Closed():
                    self._open = False
        if (thought or calls) and not said:
            self._logprobs.clear()
        return Delta(said, thought, tuple(calls.values()), self._take_logprobs(said))

    def _take_logprobs(self, said: str) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that were said; they wait while their text is held back."""
        if not said or not self._logprobs:
            return ()
        taken = tuple(self._logprobs)
        self._logprobs.clear()
        return taken


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
