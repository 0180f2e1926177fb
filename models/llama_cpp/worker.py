"""The engine of one model seen from the server: started when needed, fed, unloaded, started again after a crash."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Literal

import msgspec

from models.backend import BackendFailed, Busy, ModelError, Unavailable
from models.llama_cpp import protocol
from models.llama_cpp.breaker import Breaker
from models.llama_cpp.job import Job
from models.llama_cpp.places import Places
from models.llama_cpp.process import EngineProcess
from models.llama_cpp.tally import Tally

State = Literal["stopped", "waiting", "loading", "ready", "stopping", "broken"]
"""`waiting`: for a place in memory; `broken`: stopped, and not started for a while because it crashed."""

log = logging.getLogger(__name__)


class Worker:
    """The engine of one model. At most one process at a time, and any number of requests in it or before it.

    Args:
        model: its id, for messages.
        load: the model, and how to load it.
        places: where it gets its place in memory.
        breaker: whether it may be started.
        keep_alive: seconds that it stays loaded without work; infinite: for ever.
        queue: requests that may be under way besides those in slots.
    """

    def __init__(
        self, model: str, load: protocol.Load, places: Places, breaker: Breaker, *, keep_alive: float, queue: int
    ) -> None:
        self.rested_at: float | None = None
        self._model = model
        self._load = load
        self._places = places
        self._breaker = breaker
        self._keep_alive_by_default = self._keep_alive = keep_alive
        self._most = load.slots + queue
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._life: asyncio.Task[None] | None = None
        self._process: EngineProcess | None = None
        self._state: State = "stopped"
        self._context: int | None = None
        self._tally = Tally()
        self._unloading: asyncio.TimerHandle | None = None
        self._making_way = False
        self._outdated = False
        self._fruitless = False

    @property
    def state(self) -> State:
        """What its process does."""
        return "broken" if self._state == "stopped" and self._breaker.refusal else self._state

    @property
    def idle(self) -> bool:
        """Whether it has no requests."""
        return not self._in("waiting", "sent", "started")

    @property
    def repack(self) -> bool:
        """Whether rearranged weights have not been seen to crash."""
        return self._load.repack

    def status(self) -> dict[str, Any]:
        """For /health/status."""
        return {
            "pid": self._process.pid if self._process else None,
            "state": self.state,
            "loaded": self._state == "ready",
            "context": self._context,
            "slots": self._load.slots,
            "active": len(self._in("started")),
            "queue": len(self._in("waiting", "sent")),
            "cells": self._tally.cells or self._load.cells or self._load.n_ctx,
            **self._tally.status(),
            "crashes": self._breaker.crashes,
        }

    async def ask(
        self, question: Callable[[int], protocol.Chat | protocol.Embed], keep_alive: float | None = None
    ) -> AsyncGenerator[protocol.Piece | protocol.Vectors, None]:
        """What the engine gives for one request. Raises what went wrong as a ModelError; closing it cancels.

        Args:
            question: makes the request from its number.
            keep_alive: seconds to stay loaded without work from then on; None: as it was.
        """
        self._admit()
        self._count += 1
        number = self._count
        job = self._jobs[number] = Job(question(number))
        try:
            self._submit(job)
            while reply := await job.next():
                yield reply
        finally:
            del self._jobs[number]
            if keep_alive is not None:
                self._keep_alive = keep_alive
            self._leave(number, job)

    def renew(self, load: protocol.Load) -> None:
        """The model's file has changed: what runs is replaced as soon as it has no work."""
        self._load = load
        self._breaker.forgive()
        self._outdated = True
        self._rest()

    def make_way(self, yes: bool) -> None:
        """Begins nothing new and ends its process as soon as that has no work; or no longer so."""
        self._making_way = yes
        if not yes:
            self._send_waiting()
        elif self.rested_at is not None:
            self._stop()

    async def close(self) -> None:
        """Ends the process, and whatever is under way."""
        if self._life and not self._life.done():
            self._fail(self._not_running)
            self._places.withdraw(self)
            self._stop()
            await asyncio.wait([self._life])

    def _admit(self) -> None:
        if refusal := self._breaker.refusal:
            raise refusal
        if len(self._in("waiting", "sent", "started")) >= self._most:
            raise Busy(f"The model `{self._model}` has {self._most} requests under way already.")

    def _submit(self, job: Job) -> None:
        if self._life is None or self._life.done():
            self._life = asyncio.create_task(self._live(), name=f"engine of {self._model}")
        elif not self._making_way:
            self._send_waiting()

    def _leave(self, number: int, job: Job) -> None:
        if self._process and job.state in ("sent", "started"):
            self._process.send(protocol.Cancel(number))
        if self._state == "waiting" and self.idle:
            self._places.withdraw(self)
        self._rest()

    def _send_waiting(self) -> None:
        if self._process and self._state == "ready":
            for job in self._in("waiting"):
                self._process.send(job.question)
                job.state = "sent"
                self._stay()

    def _stay(self) -> None:
        """It is not about to be unloaded, for it has work or is gone."""
        self.rested_at = None
        if self._unloading:
            self._unloading.cancel()

    def _rest(self) -> None:
        """What becomes of a process that has no work, if it has none."""
        if self._state != "ready" or self._in("sent", "started"):
            return
        self._stay()
        self.rested_at = time.monotonic()
        if self._making_way or self._outdated:
            self._stop()
        elif self._keep_alive < math.inf:
            self._unloading = asyncio.get_running_loop().call_later(self._keep_alive, self._stop)
        self._places.arrange()

    def _stop(self) -> None:
        if self._state in ("loading", "ready"):
            log.info("%s: unloaded", self._model)
            self._state, self.rested_at = "stopping", -math.inf
            if self._process:
                self._process.hang_up()

    async def _live(self) -> None:
        """Runs processes, one after the other, for as long as requests wait that none has begun."""
        try:
            while self._in("waiting"):
                self._state, self.rested_at = "waiting", None
                if await self._places.take(self):
                    self._state = "loading"
                    try:
                        await self._run_process()
                    finally:
                        self._places.give(self)
        finally:
            self._state = "stopped"
            self._fail(self._not_running)

    async def _run_process(self) -> None:
        self._outdated = False
        self._keep_alive = self._keep_alive_by_default
        try:
            process = self._process = await EngineProcess.start(self._model)
        except OSError as error:
            self._fail(Unavailable(f"The engine of `{self._model}` cannot be started: {error}"))
            return
        process.send(self._load)
        if self._state == "stopping":
            process.hang_up()
        try:
            while message := await process.receive():
                self._take(message)
        finally:
            await self._see_off(process)

    async def _see_off(self, process: EngineProcess) -> None:
        """Waits for a process to end, which is a crash where nobody wanted it."""
        state, self._state = self._state, "stopping"
        self._stay()
        self.rested_at = -math.inf
        self._process = None
        await process.end()
        self._tally.end()
        if state != "stopping":
            self._bury(process, loaded=state == "ready")

    def _take(self, message: protocol.FromEngine) -> None:
        match message:
            case protocol.Ready(context):
                if self._state == "loading":  # Otherwise it was closed meanwhile.
                    self._state, self._context = "ready", context
                    self._send_waiting()
                    self._rest()
            case protocol.Unloadable(text):
                self._state = "stopping"
                self._fail(Unavailable(f"The model `{self._model}` cannot be loaded: {text}."))
            case protocol.Report():
                self._tally.take(message)
            case _ if message.id in self._jobs:  # Otherwise cancelled, and the engine did not know yet.
                self._deliver(message, self._jobs[message.id])

    def _deliver(self, reply: protocol.Reply, job: Job) -> None:
        job.take(reply)
        match reply:
            case protocol.Started():
                self._fruitless = False
            case protocol.Done():
                self._breaker.worked()

    def _bury(self, process: EngineProcess, loaded: bool) -> None:
        """Tells those whom the death of a process concerns. Requests that it had not begun go to the next one."""
        cause = process.cause
        if not loaded and process.faulted and self.repack:
            log.warning("%s: the engine crashed (%s); it is tried again without rearranged weights", self._model, cause)
            self._load = msgspec.structs.replace(self._load, repack=False)
            return
        log.error("%s: the engine ended: %s; its last words: %s", self._model, cause, process.last_words)
        self._breaker.crashed(cause)
        # Each process must get at least one request further, otherwise this could go on for ever.
        started, sent = self._in("started"), self._in("sent")
        concerned = started if loaded and (started or not self._fruitless) else None
        self._fruitless = bool(sent) and not started
        self._fail(BackendFailed(f"The engine process of `{self._model}` ended: {cause}."), concerned)
        if refusal := self._breaker.refusal:
            self._fail(refusal)
        for job in self._in("sent"):
            job.state = "waiting"

    @property
    def _not_running(self) -> Unavailable:
        return Unavailable(f"The engine of `{self._model}` is not running.")

    def _fail(self, error: ModelError, jobs: Iterable[Job] | None = None) -> None:
        for job in self._in("waiting", "sent", "started") if jobs is None else jobs:
            job.fail(error)

    def _in(self, *states: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.state in states]
