"""Keeps a model whose engine crashes again and again from being started again and again."""

import math
import time
from collections.abc import Callable

from models.backend import Unavailable


class Breaker:
    """Opens when an engine crashes twice within `window` seconds, and refuses requests for `pause` seconds.

    Then the engine may be tried again. If it crashes before it has completed a request, the breaker opens at once.
    """

    def __init__(
        self, model: str, *, window: float = 60.0, pause: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.crashes = 0
        """Counted for ever."""
        self._model = model
        self._window = window
        self._pause = pause
        self._clock = clock
        self._last = -math.inf
        self._open_until = -math.inf
        self._on_trial = False
        self._story = ""

    @property
    def refusal(self) -> Unavailable | None:
        """Why no request is taken now; None: they are."""
        left = self._open_until - self._clock()
        if left <= 0:
            return None
        wait = math.ceil(left)
        text = f"The engine of `{self._model}` {self._story}. It is tried again in {wait} s."
        return Unavailable(text, retry_after=wait)

    def crashed(self, cause: str) -> None:
        """Counts a crash."""
        now = self._clock()
        twice = now - self._last <= self._window
        self.crashes += 1
        self._last = now
        if twice or self._on_trial:
            self._story = f"crashed {f'twice within {self._window:g} s' if twice else 'again'}: {cause}"
            self._open_until = now + self._pause
            self._on_trial = True

    def worked(self) -> None:
        """The engine completed a request."""
        self._on_trial = False

    def forgive(self) -> None:
        """What crashed is no longer there."""
        self._last = self._open_until = -math.inf
        self._on_trial = False
