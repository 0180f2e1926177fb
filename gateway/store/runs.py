"""Runs, their events and the use of tools in the database: one batching writer, and the queries."""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from gateway.store.database import Database, StoreError
from gateway.store.tables import EventRow, RequestRow, RunRow, ToolUseRow

logger = logging.getLogger(__name__)

Status = Literal["running", "paused", "completed", "failed", "cancelled", "interrupted"]
LIVELY: tuple[Status, ...] = ("running", "paused")
"""What a run is in before its last event."""

BATCH = 1000
"""Rows that are written without waiting any longer. A commit costs some 5 ms of CPU, whatever it holds: with batches of
64 the commits cost as much as the answers."""


class RunRecord(Struct, frozen=True):
    """A run as it is kept."""

    id: str
    user_id: str
    key_id: str | None
    mode: str
    model: str
    backend: str
    status: Status
    created_at: float
    """Unix seconds."""
    finished_at: float | None = None
    session_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token_ms: float | None = None
    stop_reason: str | None = None
    error_code: str | None = None


class EventRecord(Struct, frozen=True):
    """A durable event as it is kept."""

    run_id: str
    seq: int
    """From 1, without gaps."""
    type: str
    at: float
    data: bytes
    """The event as JSON."""


class RequestRecord(Struct, frozen=True):
    """What a run was asked to do."""

    run_id: str
    user_id: str
    key: str | None
    digest: str | None
    work: bytes | None
    created_at: float


class UseRecord(Struct, frozen=True):
    """How often a user's conversations have called a tool."""

    user_id: str
    tool: str
    calls: int
    failures: int
    seconds: float
    last_used_at: float

    def __add__(self, other: "UseRecord") -> "UseRecord":
        return UseRecord(
            self.user_id,
            self.tool,
            self.calls + other.calls,
            self.failures + other.failures,
            self.seconds + other.seconds,
            max(self.last_used_at, other.last_used_at),
        )


_RUNS, _EVENTS = RunRow.__table__, EventRow.__table__
_COLUMNS = RunRecord.__struct_fields__
_RUN = [_RUNS.c[name] for name in _COLUMNS]
_EVENT = [_EVENTS.c[name] for name in EventRecord.__struct_fields__]
_REQUESTS = RequestRow.__table__
_REQUEST = [_REQUESTS.c[name] for name in RequestRecord.__struct_fields__]
_USES = ToolUseRow.__table__
_USE = [_USES.c[name] for name in UseRecord.__struct_fields__]


class Recorder:
    """Writes runs, events and uses of tools in batches, in the order in which they were given.

    A batch is written after `interval` seconds, or when 1,000 rows wait. While the database refuses (a full disk), rows
    wait, at most `backlog` of them, and are written when it takes them again; beyond that the oldest are dropped, which
    is logged.
    """

    def __init__(self, database: Database, *, interval: float = 0.2, backlog: int = 20_000) -> None:
        self._database = database
        self._interval = interval
        self._backlog = backlog
        self._runs: dict[str, RunRecord] = {}
        self._events: deque[EventRecord] = deque()
        self._requests: list[RequestRecord] = []
        self._uses: dict[tuple[str, str], UseRecord] = {}
        self._due = asyncio.Event()
        self._full = asyncio.Event()
        self._given = 0
        self._tried = 0
        self._trial_ended = asyncio.Event()
        self._closing = False
        self.error: str | None = None
        """Why the last batch could not be written; None when it could."""
        self._task = asyncio.create_task(self._work(), name="recorder")

    def run(self, record: RunRecord) -> None:
        """Inserts a run, or brings it up to date."""
        self._runs[record.id] = record
        self._given += 1
        self._wake()

    def event(self, record: EventRecord) -> None:
        """Appends an event."""
        self._events.append(record)
        self._given += 1
        self._wake()

    def request(self, record: RequestRecord) -> None:
        """Keeps what a run was asked to do. The run must have been given before."""
        self._requests.append(record)
        self._given += 1
        self._wake()

    def use(self, record: UseRecord) -> None:
        """Adds to what is known of a user's use of a tool."""
        key = (record.user_id, record.tool)
        known = self._uses.get(key)
        self._uses[key] = known + record if known else record
        self._given += 1
        self._wake()

    async def flush(self) -> None:
        """Returns when all that was given before has been written, or could not be."""
        given = self._given
        while self._tried < given:
            self._due.set()
            self._full.set()
            await self._trial_ended.wait()

    async def close(self) -> None:
        """Writes what is left and stops."""
        self._closing = True
        self._due.set()
        self._full.set()
        await self._task

    def _wake(self) -> None:
        self._due.set()
        if len(self._runs) + len(self._events) >= BATCH:
            self._full.set()

    async def _work(self) -> None:
        while True:
            await self._due.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._interval)
            self._due.clear()
            self._full.clear()
            given = self._given
            await self._write()
            self._tried = given
            ended, self._trial_ended = self._trial_ended, asyncio.Event()
            ended.set()
            if self._closing:
                if self._runs or self._events:
                    logger.error("%d rows of runs could not be written", len(self._runs) + len(self._events))
                return
            if self.error is not None:
                await asyncio.sleep(1.0)
                self._due.set()

    async def _write(self) -> None:
        runs, self._runs = self._runs, {}
        events, self._events = self._events, deque()
        uses, self._uses = self._uses, {}
        requests, self._requests = self._requests, []
        try:
            async with self._database.tx() as session:
                connection = await session.connection()
                if runs:
                    await connection.execute(_UPSERT, [asdict(record) for record in runs.values()])
                if requests:
                    await connection.execute(insert(RequestRow), [asdict(record) for record in requests])
                if events:
                    await connection.execute(_INSERT, [asdict(record) for record in events])
                if uses:
                    await connection.execute(_ADD_USE, [asdict(record) for record in uses.values()])
            self.error = None
        except StoreError as error:
            if self.error is None:
                logger.error("runs cannot be written: %s", error)
            self.error = str(error)
            self._runs = runs | self._runs
            self._events = events + self._events
            self._requests = (requests + self._requests)[: self._backlog]
            for key, use in self._uses.items():
                uses[key] = uses[key] + use if key in uses else use
            self._uses = uses
            self._drop_oldest()
        except DBAPIError:
            # These rows themselves are refused, and would be for ever; those after them must not wait behind them.
            logger.exception("%d rows of runs were dropped", len(runs) + len(events))

    def _drop_oldest(self) -> None:
        dropped = 0
        while len(self._events) > self._backlog:
            self._events.popleft()
            dropped += 1
        while len(self._runs) > self._backlog:
            del self._runs[next(iter(self._runs))]
            dropped += 1
        if dropped:
            logger.error("%d rows of runs were dropped: the database has refused too many", dropped)


_UPSERT = text(
    f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)}) "
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("id", "user_id", "created_at"))
)
_INSERT = insert(EventRow)
_USE_FIELDS = UseRecord.__struct_fields__
_ADD_USE = text(
    f"INSERT INTO tool_uses ({', '.join(_USE_FIELDS)}) VALUES ({', '.join(':' + name for name in _USE_FIELDS)}) "
    "ON CONFLICT (user_id, tool) DO UPDATE SET "
    + ", ".join(f"{name} = tool_uses.{name} + excluded.{name}" for name in ("calls", "failures", "seconds"))
    + ", last_used_at = excluded.last_used_at"
)


class RunStore:
    """What is known of runs. All questions but `interrupt` and `purge` are asked for one owner."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, run_id: str, user_id: str) -> RunRecord | None:
        """The run, if it is this user's."""
        query = select(*_RUN).where(_RUNS.c.id == run_id, _RUNS.c.user_id == user_id)
        async with self._database.tx() as session:
            row = (await session.execute(query)).first()
        return RunRecord(*row) if row else None

    async def page(self, user_id: str, *, limit: int, before: RunRecord | None = None) -> list[RunRecord]:
        """This user's runs, newest first, those older than `before`."""
        query = select(*_RUN).where(_RUNS.c.user_id == user_id)
        if before is not None:
            older = (_RUNS.c.created_at < before.created_at) | (
                (_RUNS.c.created_at == before.created_at) & (_RUNS.c.id < before.id)
            )
            query = query.where(older)
        query = query.order_by(_RUNS.c.created_at.desc(), _RUNS.c.id.desc()).limit(limit)
        async with self._database.tx() as session:
            return [RunRecord(*row) for row in await session.execute(query)]

    async def events(self, run_id: str, after: int = 0) -> list[EventRecord]:
        """The events of a run after the one with number `after`."""
        query = select(*_EVENT).where(_EVENTS.c.run_id == run_id, _EVENTS.c.seq > after).order_by(_EVENTS.c.seq)
        async with self._database.tx() as session:
            return [EventRecord(*row) for row in await session.execute(query)]

    async def interrupt(self, timeout: float) -> int:
        """Marks the runs that a server left running when it died; gives their number.

        A database that several servers may share has runs of others too: there only those that none can still be
        working on, because more than `timeout` seconds have passed.
        """
        change = update(RunRow).where(_RUNS.c.status == "running")
        if self._database.shared:
            change = change.where(_RUNS.c.created_at < time.time() - timeout)
        async with self._database.tx() as session:
            connection = await session.connection()
            result = await connection.execute(change.values(status="interrupted", finished_at=time.time()))
        return result.rowcount

    async def asking(self, user_id: str, limit: int = 50) -> list[str]:
        """The ids of a user's newest runs that have ended in asking for the client's tools."""
        query = select(_RUNS.c.id).where(_RUNS.c.user_id == user_id, _RUNS.c.stop_reason == "client_tools")
        async with self._database.tx() as session:
            return list(await session.scalars(query.order_by(_RUNS.c.created_at.desc()).limit(limit)))

    async def request(self, run_id: str) -> RequestRecord | None:
        """What a run was asked to do, where that is kept."""
        query = select(*_REQUEST).where(_REQUESTS.c.run_id == run_id)
        async with self._database.tx() as session:
            row = (await session.execute(query)).first()
        return RequestRecord(*row) if row else None

    async def keyed(self, user_id: str, key: str, since: float) -> RequestRecord | None:
        """The newest request of a user with an Idempotency-Key, not older than `since`."""
        query = select(*_REQUEST).where(
            _REQUESTS.c.user_id == user_id, _REQUESTS.c.key == key, _REQUESTS.c.created_at >= since
        )
        async with self._database.tx() as session:
            row = (await session.execute(query.order_by(_REQUESTS.c.created_at.desc()).limit(1))).first()
        return RequestRecord(*row) if row else None

    async def uses(self, user_id: str | None) -> list[UseRecord]:
        """How often a user, or with None each user, has called which tool."""
        query = select(*_USE).order_by(_USES.c.user_id, _USES.c.tool)
        if user_id is not None:
            query = query.where(_USES.c.user_id == user_id)
        async with self._database.tx() as session:
            return [UseRecord(*row) for row in await session.execute(query)]

    async def purge(self, before: float) -> int:
        """Deletes runs that ended before a time (unix seconds); their events go with them, by the foreign key."""
        async with self._database.tx() as session:
            connection = await session.connection()
            result = await connection.execute(delete(RunRow).where(_RUNS.c.finished_at < before))
        return result.rowcount
