"""What the engines of a model have done, one process after the other, from what each of them reports."""

from collections import deque
from typing import Any

from models.llama_cpp.protocol import Report

_TOKENS = ("prompt_tokens", "cached_tokens", "generated_tokens")
_STEPS = ("steps", "computing", "overhead")
_RECENT = 6
"""Reports, one a second, over which the speed is taken."""


class Tally:
    """Sums that never fall, and the speed of late."""

    def __init__(self) -> None:
        self.cells = 0
        """Tokens that the cache of the present process can hold; 0: it has not said."""
        self.cells_used = 0
        self._sums: dict[str, float] = dict.fromkeys((*_TOKENS, *_STEPS), 0)
        self._ended = self._sums
        self._recent: deque[Report] = deque(maxlen=_RECENT)

    def take(self, report: Report) -> None:
        """Notes what the present process has done since it was started."""
        self.cells, self.cells_used = report.cells, report.cells_used
        self._sums = {name: before + getattr(report, name) for name, before in self._ended.items()}
        self._recent.append(report)

    def end(self) -> None:
        """The process has ended: the next one counts from zero."""
        self.cells = self.cells_used = 0
        self._ended = self._sums
        self._recent.clear()

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated in a second of work, over the last reports. Time without work does not count."""
        if not self._recent:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        if first is last:
            tokens, time = last.generated_tokens, last.computing + last.overhead
        else:
            tokens = last.generated_tokens - first.generated_tokens
            time = last.computing + last.overhead - first.computing - first.overhead
        return round(tokens / time, 1) if time > 0 else 0.0

    def status(self) -> dict[str, Any]:
        """For /health/status."""
        return {
            "cells_used": self.cells_used,
            **{name: self._sums[name] for name in _TOKENS},
            "tokens_per_second": self.tokens_per_second,
            "engine": {name: self._sums[name] for name in _STEPS},
        }
