"""Runs: agents at work, each in a task of its own, with one log of events that any number of readers follow."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from msgspec import Struct

from agents.events import LIVE, Answer, AnyEvent, Asked, Failed, Spoke, encode
from gateway.errors import ApiError, cancelled, internal, shutting_down, timed_out, to_api_error
from gateway.ids import new_id
from gateway.store.runs import EventRecord, Recorder, RunRecord, Status
from models.messages import Usage

logger = logging.getLogger(__name__)


class Origin(Struct, frozen=True):
    """Whose run it is, and what it runs."""

    user_id: str
    key_id: str | None
    mode: str
    model: str
    backend: str


class Run:
    """One stream of events at work.

    `events` holds all of them, live ones too, until the run is forgotten; `seq` counts the durable ones only.
    """

    def __init__(
        self, origin: Origin, asked: Asked, events: AsyncIterator[AnyEvent], recorder: Recorder, timeout: float
    ) -> None:
        self.id = new_id("run_")
        self.origin = origin
        self.created_at = time.time()
        self.finished_at: float | None = None
        self.events: list[AnyEvent] = []
        self.records: list[EventRecord] = []
        self.status: Status = "running"
        self.usage = Usage()
        self.first_token_ms: float | None = None
        self.stop_reason: str | None = None
        self.error: ApiError | None = None
        """Why it failed; the last event says the same in words for its readers."""
        self._began = time.monotonic()
        self._recorder = recorder
        self._waiters: list[asyncio.Future[None]] = []
        self._end: ApiError | None = None
        recorder.run(self.record)
        self.append(asked)
        self.task = asyncio.create_task(self._pull(events, timeout), name=self.id)
        """Pulls the events. It ends with the run, when all that was held is given back, and raises nothing."""
        self.task.add_done_callback(self._settle)

    @property
    def ended(self) -> bool:
        """Whether the last event is there."""
        return self.status != "running"

    @property
    def record(self) -> RunRecord:
        """The run as it is kept."""
        origin, usage = self.origin, self.usage
        return RunRecord(
            self.id,
            origin.user_id,
            origin.key_id,
            origin.mode,
            origin.model,
            origin.backend,
            self.status,
            self.created_at,
            self.finished_at,
            None,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            self.first_token_ms,
            self.stop_reason,
            self.error.error.code if self.error else None,
        )

    def append(self, event: AnyEvent) -> None:
        """Adds an event to the log and wakes the readers."""
        if isinstance(event, LIVE):
            if self.first_token_ms is None:
                self.first_token_ms = (time.monotonic() - self._began) * 1000
        else:
            if isinstance(event, Spoke):
                self.usage += event.usage
            elif isinstance(event, Answer):
                self.stop_reason = event.finish
            tag = type(event).__struct_config__.tag
            record = EventRecord(self.id, len(self.records) + 1, str(tag), time.time(), encode(event))
            self.records.append(record)
            self._recorder.event(record)
        self.events.append(event)
        self._wake()

    async def follow(self, start: int = 0) -> AsyncGenerator[Sequence[AnyEvent], None]:
        """All events from index `start`, live ones too, in the pieces in which they came, until the run has ended."""
        while True:
            if batch := self.events[start:]:
                start += len(batch)
                yield batch
            elif self.ended:
                return
            else:
                await self.changed()

    async def begun(self, patience: float) -> None:
        """Returns when the agent has said something or the run has ended; after `patience` seconds in any case."""
        if len(self.events) == 1 and not self.ended:
            await asyncio.wait([self.changed()], timeout=patience)

    def changed(self) -> asyncio.Future[None]:
        """Done at the next event, or when the run ends."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def over(self) -> None:
        """Returns when the run has ended and all that it held is given back. Who waits may give up; the run goes on."""
        await asyncio.shield(self.task)

    def stop(self, reason: ApiError) -> None:
        """Ends the run for a reason, which its readers are told. Returns at once; the backend is closed soon after."""
        if not self.task.done() and self._end is None:
            self._end = reason
            self.task.cancel()

    async def _pull(self, events: AsyncIterator[AnyEvent], timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout), aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    self.append(event)
            self._finish("completed")
        except TimeoutError:
            self._fail(timed_out(timeout), "failed")
        except asyncio.CancelledError:
            self._fail(self._end or cancelled(), "cancelled")
        except Exception as error:  # a bug must end the run with an event, or its readers would wait for ever
            known = to_api_error(error)
            if known is None:
                logger.exception("run %s failed", self.id)
            self._fail(known or internal(), "failed")

    def _settle(self, task: asyncio.Task[None]) -> None:
        """Ends a run that was stopped before its task had begun, and so could not end itself."""
        if not self.ended:
            self._fail(self._end or cancelled(), "cancelled")

    def _fail(self, error: ApiError, status: Status) -> None:
        self.error = error
        self.stop_reason = status
        reason = error.error
        self.append(
            Failed(
                message=reason.message,
                error_type=reason.type,
                code=reason.code,
                param=reason.param,
                status=error.status,
            )
        )
        self._finish(status)

    def _finish(self, status: Status) -> None:
        self.status = status
        self.finished_at = time.time()
        self._recorder.run(self.record)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Runs:
    """All runs of this server that are under way, and the few that have just ended."""

    def __init__(self, recorder: Recorder, *, timeout: float) -> None:
        self._recorder = recorder
        self._timeout = timeout
        self._live: dict[str, Run] = {}
        self.draining = False
        """Set when the server is told to stop: no new runs."""

    def start(self, origin: Origin, asked: Asked, events: AsyncIterator[AnyEvent], ended: Callable[[Run], None]) -> Run:
        """Puts an agent's events to work. `ended` is called when the run is over.

        Raises:
            ApiError: 503, the server is shutting down.
        """
        if self.draining:
            raise shutting_down()
        run = Run(origin, asked, events, self._recorder, self._timeout)
        self._live[run.id] = run
        run.task.add_done_callback(lambda _: ended(run))
        run.task.add_done_callback(lambda _: self._live.pop(run.id, None))
        return run

    def get(self, run_id: str, user_id: str) -> Run | None:
        """A run that is under way, if it is this user's."""
        run = self._live.get(run_id)
        return run if run is not None and run.origin.user_id == user_id else None

    def __len__(self) -> int:
        return len(self._live)

    async def drain(self, grace: float) -> None:
        """Takes no new runs, gives those under way `grace` seconds, then ends them with an error that says why."""
        self.draining = True
        tasks = [run.task for run in self._live.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for run in list(self._live.values()):
            run.stop(shutting_down())
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
