"""Rate limits for each API key or user: requests and tokens a minute, and answers under way at once."""

import asyncio
import logging
import time
from collections import Counter

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import RateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from gateway.errors import rate_limited

logger = logging.getLogger(__name__)


def open_storage(uri: str) -> Storage:
    """Where counts are kept, by its URI. Its failures are `limits.errors.StorageError`."""
    # The library's default driver for Redis raised RuntimeError outside of its own context manager.
    options = {"implementation": "redispy"} if "redis" in uri else {}
    storage = storage_from_string(uri, wrap_exceptions=True, **options)
    assert isinstance(storage, Storage)
    return storage


class Limits:
    """Counts what callers use, and refuses what is too much. A limit of 0 is none."""

    def __init__(self, storage: str, *, requests: int, tokens: int, streams: int) -> None:
        self._limiter: RateLimiter = SlidingWindowCounterRateLimiter(open_storage(storage))
        self._requests = RateLimitItemPerMinute(requests, namespace="requests") if requests else None
        self._tokens = RateLimitItemPerMinute(tokens, namespace="tokens") if tokens else None
        self._streams = streams
        self._open: Counter[str] = Counter()
        self._charges: set[asyncio.Future[None]] = set()

    async def enter(self, caller: str) -> dict[str, str]:
        """Lets a caller begin an answer, and gives the x-ratelimit headers of its response. `leave` must follow.

        Raises:
            ApiError: 429 that says which limit, and when to come back.
        """
        headers: dict[str, str] = {}
        if self._streams and self._open[caller] >= self._streams:
            raise rate_limited(f"Rate limit reached: {self._streams} answers at once. Wait for one to end.", 1.0)
        self._open[caller] += 1  # before anything is awaited: of many at once, no more than allowed must pass
        try:
            if self._tokens is not None:
                await self._check(self._tokens, caller, "tokens", headers, cost=0)
            if self._requests is not None:
                await self._check(self._requests, caller, "requests", headers, cost=1)
        except BaseException:
            self.leave(caller, 0)
            raise
        return headers

    def leave(self, caller: str, tokens: int) -> None:
        """An answer has ended, and took `tokens`; what goes over the limit holds up the next one."""
        self._open[caller] -= 1
        if self._open[caller] <= 0:
            del self._open[caller]
        if self._tokens is not None and tokens:
            charge = asyncio.ensure_future(self._charge(self._tokens, caller, tokens))
            self._charges.add(charge)
            charge.add_done_callback(self._charges.discard)

    async def _charge(self, item: RateLimitItem, caller: str, tokens: int) -> None:
        """Takes all that is left where more was spent than is left: a hit that does not fit would count for nothing."""
        try:
            left = (await self._limiter.get_window_stats(item, caller)).remaining
            if cost := min(tokens, left):
                await self._limiter.hit(item, caller, cost=cost)
        except StorageError as error:
            logger.warning("%d tokens were not counted: %s", tokens, error)

    async def _check(self, item: RateLimitItem, caller: str, unit: str, headers: dict[str, str], cost: int) -> None:
        allowed = await self._limiter.hit(item, caller, cost=1) if cost else await self._limiter.test(item, caller)
        stats = await self._limiter.get_window_stats(item, caller)
        wait = max(stats.reset_time - time.time(), 0.0)
        headers[f"x-ratelimit-limit-{unit}"] = str(item.amount)
        headers[f"x-ratelimit-remaining-{unit}"] = str(max(stats.remaining, 0))
        headers[f"x-ratelimit-reset-{unit}"] = f"{wait:.0f}s"
        if not allowed:
            raise rate_limited(f"Rate limit reached: {item.amount} {unit} a minute.", wait, headers)
