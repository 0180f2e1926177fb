"""What a run has recorded, for going through it again: to take up a run that was paused or interrupted, or to check it.

An agent is deterministic but for what models, tools and clocks say. With the journal of its first run a second one gets
all of that from there as long as there is any, and goes on live after that.
"""

from collections import Counter, deque
from collections.abc import Iterable

from agents.events import AnyEvent, Spoke, Stopped, ToolFinished, ToolStarted, encode

Move = Spoke | tuple[ToolStarted, ToolFinished | None] | Stopped
"""What depends on the world: what a model said, what a tool did (None: nobody knows), and that a budget was used up."""


class Journal:
    """The moves of a run, by speaker and answer: each speaker's are in order, whatever the others did meanwhile."""

    def __init__(self, events: Iterable[AnyEvent] = ()) -> None:
        self._moves: dict[tuple[str, int], deque[Move]] = {}
        self._recorded: Counter[bytes] = Counter()
        tools: dict[str, tuple[deque[Move], int]] = {}
        for event in events:
            self._recorded[encode(event)] += 1
            moves = self._moves.setdefault((event.by, event.choice), deque())
            match event:
                case Spoke() | Stopped():
                    moves.append(event)
                case ToolStarted():
                    tools[event.call.id] = (moves, len(moves))
                    moves.append((event, None))
                case ToolFinished() if event.call_id in tools:
                    queue, index = tools[event.call_id]
                    started = queue[index]
                    assert isinstance(started, tuple)
                    queue[index] = (started[0], event)

    def next(self, by: str, choice: int = 0) -> Move | None:
        """The next move of a speaker, which stays; None: from here on it is live."""
        moves = self._moves.get((by, choice))
        return moves[0] if moves else None

    def rung(self, by: str) -> str:
        """How a speaker was asked to act next; empty: that is not known yet."""
        return next((move.rung for move in self._moves.get((by, 0), ()) if isinstance(move, Spoke)), "")

    def take(self, by: str, choice: int = 0) -> None:
        """The next move of a speaker was made again."""
        self._moves[by, choice].popleft()

    def knows(self, event: AnyEvent) -> bool:
        """Whether an event is one that was recorded; each counts once."""
        key = encode(event)
        if not self._recorded[key]:
            return False
        self._recorded[key] -= 1
        return True
