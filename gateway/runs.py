"""Runs: agents at work, each in a task of its own, with one log of events that any number of readers follow."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from msgspec import Struct

from agents.context import Clock
from agents.events import LIVE, Answer, AnyEvent, Asked, Failed, Log, Spoke, ToolFinished, ToolStarted, encode
from agents.journal import Journal
from gateway.errors import ApiError, cancelled, internal, shutting_down, timed_out, to_api_error
from gateway.ids import new_id
from gateway.store.runs import LIVELY, EventRecord, Recorder, RunRecord, Status
from models.messages import Usage

logger = logging.getLogger(__name__)


PAUSED = "paused"
"""The text of the log that tells of a pause."""


class Origin(Struct, frozen=True):
    """Whose run it is, and what it runs."""

    user_id: str
    key_id: str | None
    mode: str
    model: str
    backend: str
    session_id: str | None = None


Begin = Callable[[Sequence[AnyEvent], Clock], AsyncIterator[AnyEvent]]
"""Sets an agent to work, or to work on after these durable events. The clock stands still in pauses."""


class Run:
    """One stream of events at work.

    `events` holds all of them, live ones too, until the run is forgotten; `seq` counts the durable ones only.

    Args:
        past: what is kept of it, where it is taken up again.
    """

    def __init__(
        self,
        origin: Origin,
        asked: Asked,
        begin: Begin,
        recorder: Recorder,
        timeout: float,
        past: "Past | None" = None,
    ) -> None:
        self.id = past.record.id if past else new_id("run_")
        self.origin = origin
        self.created_at = past.record.created_at if past else time.time()
        self.finished_at: float | None = None
        self.events: list[AnyEvent] = list(past.events) if past else []
        self.records: list[EventRecord] = list(past.records) if past else []
        self.status: Status = "running"
        self.usage = sum((event.usage for event in self.events if isinstance(event, Spoke)), Usage())
        self.first_token_ms = past.record.first_token_ms if past else None
        self.stop_reason: str | None = None
        self.error: ApiError | None = None
        """Why it failed; the last event says the same in words for its readers."""
        self._began = time.monotonic()
        self._worked = past.seconds if past else 0.0
        """Seconds of work before the last pause."""
        self._since: float | None = self._began
        """When the work began that is going on; None in a pause."""
        self._pausing = False
        self._left = False
        self._resumed = asyncio.Event()
        self._recorder = recorder
        self._waiters: list[asyncio.Future[None]] = []
        self._end: ApiError | None = None
        recorder.run(self.record)
        if past is None:
            self.append(asked)
        self.task = asyncio.create_task(self._pull(begin, timeout), name=self.id)
        """Pulls the events. It ends with the run, when all that was held is given back, and raises nothing."""
        self.task.add_done_callback(self._settle)

    @property
    def ended(self) -> bool:
        """Whether the last event is there."""
        return self.status not in LIVELY

    @property
    def pausing(self) -> bool:
        """Whether it pauses as soon as what is being said or done has ended."""
        return self._pausing and self.status == "running"

    def clock(self) -> float:
        """Seconds of work, pauses not counted."""
        return self._worked + (time.monotonic() - self._since if self._since is not None else 0.0)

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
            origin.session_id,
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
                self.stop_reason = event.reason or event.finish
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

    def pause(self) -> None:
        """Pauses the run when what is being said or done has ended: then nothing is held, and its clock stands still.

        What others say side by side with that is given up, and said again afterwards; tools come to their end.
        """
        self._pausing = True
        self._resumed.clear()

    def resume(self) -> None:
        """Goes on from where it was paused."""
        self._pausing = False
        if self.status == "paused":
            self._since = time.monotonic()
            self._change("running")
        self._resumed.set()

    def leave(self) -> None:
        """Lets go of a paused run as it is: the next server can resume it."""
        self._left = True
        self.task.cancel()

    async def _pull(self, begin: Begin, timeout: float) -> None:
        try:
            while await self._work(begin, timeout):
                await self._rest()
            self._finish("completed")
        except TimeoutError:
            self._fail(timed_out(timeout), "failed")
        except asyncio.CancelledError:
            if not self._left:
                self._fail(self._end or cancelled(), "cancelled")
        except Exception as error:  # a bug must end the run with an event, or its readers would wait for ever
            known = to_api_error(error)
            if known is None:
                logger.exception("run %s failed", self.id)
            self._fail(known or internal(), "failed")

    async def _work(self, begin: Begin, timeout: float) -> bool:
        """Pulls events until the agent has ended, or (True) until a pause."""
        past = [event for event in self.events[1:] if not isinstance(event, LIVE)]
        seen = Journal(past) if past else None
        tools_at_work = 0
        events = begin(past, self.clock)
        async with asyncio.timeout(timeout - self.clock()), aclosing(events):  # type: ignore[type-var]
            async for event in events:
                live = isinstance(event, LIVE)
                if live or seen is None or not seen.knows(event):
                    self.append(event)
                tools_at_work += isinstance(event, ToolStarted) - isinstance(event, ToolFinished)
                if self._pausing and not live and not tools_at_work and not isinstance(event, Answer):
                    return True
        return False

    async def _rest(self) -> None:
        """Waits for the end of a pause, if it has not been taken back by now."""
        if not self._pausing:
            return
        self._worked, self._since = self.clock(), None
        self.append(Log(text=PAUSED, data={"seconds": self._worked}))
        self._change("paused")
        await self._resumed.wait()

    def _change(self, status: Status) -> None:
        self.status = status
        self._recorder.run(self.record)
        self._wake()

    def _settle(self, task: asyncio.Task[None]) -> None:
        """Ends a run that was stopped before its task had begun, and so could not end itself."""
        if not self.ended and not self._left:
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
        self.finished_at = time.time()
        self._change(status)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Past(Struct, frozen=True):
    """What is kept of a run that was paused or interrupted."""

    record: RunRecord
    records: Sequence[EventRecord]
    events: Sequence[AnyEvent]
    seconds: float
    """Of work, pauses not counted."""


class Runs:
    """All runs of this server that are under way, and the few that have just ended."""

    def __init__(self, recorder: Recorder, *, timeout: float) -> None:
        self._recorder = recorder
        self._timeout = timeout
        self._live: dict[str, Run] = {}
        self.draining = False
        """Set when the server is told to stop: no new runs."""

    def start(
        self, origin: Origin, asked: Asked, begin: Begin, ended: Callable[[Run], None], past: Past | None = None
    ) -> Run:
        """Puts an agent to work. `ended` is called when the run is over.

        Raises:
            ApiError: 503, the server is shutting down.
        """
        if self.draining:
            raise shutting_down()
        run = Run(origin, asked, begin, self._recorder, self._timeout, past)
        self._live[run.id] = run
        run.task.add_done_callback(lambda _: ended(run))
        run.task.add_done_callback(lambda _: self._live.pop(run.id, None))
        return run

    def get(self, run_id: str, user_id: str) -> Run | None:
        """A run that is under way, if it is this user's."""
        run = self._live.get(run_id)
        return run if run is not None and run.origin.user_id == user_id else None

    def of_session(self, session_id: str) -> list[Run]:
        """The session's runs that are under way."""
        return [run for run in self._live.values() if run.origin.session_id == session_id]

    def __len__(self) -> int:
        return len(self._live)

    async def drain(self, grace: float) -> None:
        """Takes no new runs, gives those under way `grace` seconds, then ends them with an error that says why."""
        self.draining = True
        for run in self._live.values():
            if run.status == "paused":
                run.leave()
        tasks = [run.task for run in self._live.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for run in list(self._live.values()):
            if run.status == "paused":
                run.leave()
            else:
                run.stop(shutting_down())
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
