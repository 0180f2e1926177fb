"""Several streams of events at once, as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from agents.events import AnyEvent


async def merged(streams: Sequence[AsyncGenerator[AnyEvent, None]]) -> AsyncGenerator[AnyEvent, None]:
    """The events of all streams as they come. The first failure ends them all, and rises."""
    queue: asyncio.Queue[AnyEvent | Exception | None] = asyncio.Queue(maxsize=64)

    async def drain(stream: AsyncGenerator[AnyEvent, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    await queue.put(event)
            await queue.put(None)
        except Exception as error:  # carried over to the consumer, which raises it
            await queue.put(error)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case event:
                    yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
