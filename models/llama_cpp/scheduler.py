"""Which tokens go into the next batch: requests join and leave at any step, and none stalls the others."""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from models.llama_cpp.cache import CHUNK, Cache, Line, Tokens, common_prefix

BATCH = 512
"""Tokens that are computed in one step at most."""
LONGEST_STEP = 0.2
"""Seconds that a step may take while somebody is reading, or twice as long as without prompts: the gap between two
tokens of a stream stays near that."""
LONGEST_UNSEEN_STEP = 1.0
"""The same while all still wait for their first token; a cancellation waits so long."""
_LEAST = 16
"""Tokens below which it is not worth waiting for another stream or cutting a prompt."""


class Stream:
    """A request on its way through the batches: its tokens so far, and the line that holds those that are computed."""

    def __init__(
        self, number: int, prompt: Iterable[int], *, exact: bool = False, pictures: Mapping[int, int] | None = None
    ) -> None:
        self.number = number
        self.tokens: Tokens = array("i", prompt)
        self.prompt = len(self.tokens)
        self.exact = exact
        """The outcome must be the same however often it is asked for alone."""
        self.pictures = pictures or {}
        """Where pictures begin, and how many tokens each takes."""
        self.line: Line | None = None
        self.cached = 0
        """Tokens of the prompt that did not have to be computed for this request."""

    @property
    def computed(self) -> int:
        """Tokens that the cache holds."""
        return self.line.length if self.line else 0

    @property
    def left(self) -> int:
        """Tokens still to compute before the next one can be drawn."""
        return len(self.tokens) - self.computed

    @property
    def picture(self) -> int:
        """Tokens of the picture that comes next; 0: a token does."""
        return self.pictures.get(self.computed, 0)

    @property
    def text(self) -> int:
        """Tokens still to compute before a picture comes, or the next token can be drawn."""
        return (
            min((start for start in self.pictures if start >= self.computed), default=len(self.tokens)) - self.computed
        )

    @property
    def streaming(self) -> bool:
        """Whether a part of the answer has been written."""
        return len(self.tokens) > self.prompt


class Share(Struct, frozen=True):
    """What a stream contributes to a batch: its next `count` tokens, or a picture, which is a batch of its own."""

    stream: Stream
    line: Line
    count: int
    last: bool
    """Whether a token can be drawn after it."""
    picture: bool = False

    @property
    def tokens(self) -> Tokens:
        """The tokens to compute, as long as they are not."""
        return self.stream.tokens[self.line.length : self.line.length + self.count]


class Pace:
    """How long steps take, as far as the last ones tell: streams that go on by a token each, and tokens of prompts."""

    def __init__(self) -> None:
        self._base = 0.0
        """Seconds of a step without tokens of prompts."""
        self._each = 0.0
        """Seconds for each of these."""
        self._beside = _LEAST
        """How many of these the last step beside streams had."""

    def note(self, tokens: int, seconds: float, *, streams: int = 0) -> None:
        """Learns from a step with so many tokens of prompts, and streams beside them."""
        if not tokens:
            self._base = _moved(self._base, seconds)
        else:
            self._beside = max(tokens, _LEAST) if streams else _LEAST
            base = self._base if streams else 0.0
            self._each = _moved(self._each, max(seconds - base, seconds / 2) / tokens)

    def tokens(self, *, streams: int) -> int:
        """How many tokens of prompts a step may have; few as long as nothing is known."""
        if not self._each:
            return _LEAST if streams else 4 * _LEAST
        if not streams:
            return max(_LEAST, int(LONGEST_UNSEEN_STEP / self._each))
        # A token of a long step takes less time than one of a short step: from one to the next, step by step.
        left = max(LONGEST_STEP - self._base, self._base)
        return max(_LEAST, min(2 * self._beside, int(left / self._each)))


def _moved(value: float, towards: float) -> float:
    """A mean that is quick to fear and slow to hope."""
    return max(towards, 0.7 * value + 0.3 * towards)


class Scheduler:
    """The requests of one engine: up to `slots` at work, the others waiting in the order in which they came."""

    def __init__(self, cache: Cache, slots: int) -> None:
        self.cache = cache
        self.slots = slots
        self.active: list[Stream] = []
        self.waiting: deque[Stream] = deque()
        self.pace = Pace()
        self._saw = False
        """Whether the last batch was a picture."""

    def add(self, stream: Stream) -> None:
        """Lets a request wait for its turn."""
        self.waiting.append(stream)

    def remove(self, stream: Stream) -> None:
        """Lets a request go, finished or not. What was computed for it is remembered."""
        if stream in self.waiting:
            self.waiting.remove(stream)
        else:
            self.active.remove(stream)
            self._release(stream)

    def admit(self) -> Iterator[Stream]:
        """Gives slots to those who wait, and says to whom."""
        while self.waiting and len(self.active) < self.slots:
            stream = self.waiting[0]
            # The others get what they need now and for a while, or somebody would soon be sent back.
            room = sum(other.left + _LEAST for other in self.active)
            stream.line = self.cache.open(stream.tokens, room, exact=stream.exact)
            if stream.line is None:
                return
            self.waiting.popleft()
            self.active.append(stream)
            if not stream.streaming:
                stream.cached = stream.computed
            yield stream

    def plan(self) -> list[Share]:
        """The next batch. Whoever has the youngest request is sent back to wait when the cache is too full for all."""
        while self.active:
            self._advance()
            shares = self._next_shares(self._movable())
            if self.cache.make_room(sum(share.count for share in shares)):
                return shares
            self._yield_youngest()
        return []

    def done(self, shares: Sequence[Share], seconds: float) -> None:
        """Notes that a batch was computed, and how long that took."""
        self._saw = any(share.picture for share in shares)
        if not self._saw:
            streams = sum(share.stream.streaming for share in shares)
            self.pace.note(sum(share.count for share in shares) - streams, seconds, streams=streams)
        for share in shares:
            self.cache.extend(share.line, share.tokens, exact=len(shares) == 1 and not share.picture)
        self.cache.age()

    def undone(self, shares: Sequence[Share]) -> None:
        """Notes that a batch was not computed. Where a model cannot take back a part, its lines are lost by that."""
        if self.cache.divisible:
            return
        for share in reversed(shares):
            self.cache.drop(share.line)
            share.stream.line = None
            self.active.remove(share.stream)
            self.waiting.appendleft(share.stream)

    def _yield_youngest(self) -> None:
        """Sends the request that came last back to wait. What it has written stays, its cells can be lost."""
        youngest = self.active.pop()
        self._release(youngest)
        self.waiting.appendleft(youngest)

    def _release(self, stream: Stream) -> None:
        assert stream.line
        self.cache.close(stream.line)
        stream.line = None

    def _advance(self) -> None:
        """Prompts go on from what others have computed of them meanwhile."""
        for stream in self.active:
            if stream.left > _LEAST and not stream.exact:
                assert stream.line
                gained = self.cache.advance(stream.line, stream.tokens, _LEAST)
                stream.cached += 0 if stream.streaming else gained

    def _movable(self) -> list[Stream]:
        """Those at work less those whose next tokens another one is about to compute: they will take them over."""
        if not self.cache.divisible:
            return self.active
        leaders: list[Stream] = []
        for stream in self.active:
            if stream.exact or stream.left <= _LEAST or not any(_precedes(other, stream) for other in leaders):
                leaders.append(stream)
        return leaders

    def _next_shares(self, streams: list[Stream]) -> list[Share]:
        """A picture or a batch, in turns where there is work of both kinds."""
        before_picture = [stream for stream in streams if stream.picture]
        others = [stream for stream in streams if not stream.picture]
        if not before_picture or (others and self._saw):
            return self._share_out(others)
        stream = before_picture[0]
        assert stream.line
        return [Share(stream, stream.line, stream.picture, last=False, picture=True)]

    def _share_out(self, streams: list[Stream]) -> list[Share]:
        """Divides a batch equally. What one does not need goes to the others, so that one token is always granted."""
        budget = max(len(streams), self._budget())
        shares = []
        for index, stream in enumerate(sorted(streams, key=lambda stream: stream.text)):
            count = min(stream.text, budget // (len(streams) - index))
            if stream.exact and len(self.active) == 1:  # However long that takes.
                count = min(stream.text, CHUNK - stream.computed % CHUNK)
            assert stream.line
            shares.append(Share(stream, stream.line, count, count == stream.left))
            budget -= count
        return shares

    def _budget(self) -> int:
        streams = sum(stream.streaming for stream in self.active)
        return min(BATCH, streams + self.pace.tokens(streams=streams))


def _precedes(leader: Stream, other: Stream) -> bool:
    """Whether the other could take over tokens from the leader's next share."""
    return leader.left > 1 and common_prefix(leader.tokens, other.tokens) >= other.computed + _LEAST
