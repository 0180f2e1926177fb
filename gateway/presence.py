"""Whether a client is still there: the framework does not tell a handler that streams nothing."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from litestar import Request

from gateway.errors import cancelled

T = TypeVar("T")


@contextmanager
def watched(request: Request[Any, Any, Any], left: Callable[[], object]) -> Iterator[None]:
    """Calls `left` if the client leaves before the block ends. The body must have been read before."""
    watch = asyncio.create_task(_watch(request, left))
    try:
        yield
    finally:
        watch.cancel()


async def unless_gone(request: Request[Any, Any, Any], work: asyncio.Task[T]) -> T:
    """The result of some work, which is cancelled when the client leaves first. The body must have been read before.

    Raises:
        ApiError: the client has gone; nobody will read it.
    """
    try:
        with watched(request, work.cancel):
            await asyncio.wait({work})
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
    if work.cancelled():
        raise cancelled()
    return work.result()


async def _watch(request: Request[Any, Any, Any], left: Callable[[], object]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left()
