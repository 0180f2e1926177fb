"""What the Python sandbox costs: how long its sessions and calls take, what they weigh, and whom they disturb.

python -m benchmarks.sandbox

A figure is in order where its share of the limit is below one. The 95th percentile counts, or the largest value where
there are few. On a machine that does other work the figures are larger.
"""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from tools.python import Limits, Sandbox

SESSIONS = 16
STARTS = 60
CALLS = 1000
TIMEOUTS = 50
LOOPS = 6
LOAD = 3.0
"""Seconds under load."""
ENDLESS = "while True:\n    pass"
BUSY_IN_C = "sum(range(10**12))"
LIMITS = Limits(sessions=SESSIONS + LOOPS, at_once=LOOPS + 2)


class Figure(Struct, frozen=True):
    """What was measured many times."""

    name: str
    unit: str
    values: Sequence[float]
    limit: float | None = None
    """What it may be."""

    @property
    def high(self) -> float:
        """The 95th percentile; of few values the largest."""
        return statistics.quantiles(self.values, n=20)[18] if len(self.values) >= 20 else max(self.values)


class Bench:
    """A sandbox, and a folder for each session."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self._folder = folder
        self._names = (f"s{number}" for number in count())

    def session(self) -> tuple[str, Path]:
        """A new session's key and folder."""
        name = next(self._names)
        (self._folder / name).mkdir()
        return name, self._folder / name

    async def run(self, session: tuple[str, Path], code: str) -> float:
        """Milliseconds that a call takes."""
        began = time.perf_counter()
        await self.sandbox.run(*session, code)
        return (time.perf_counter() - began) * 1000


@asynccontextmanager
async def bench(limits: Limits) -> AsyncIterator[Bench]:
    """A sandbox that is ready, on a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="drover-benchmark-"))
    sandbox = Sandbox(limits)
    await sandbox.start()
    try:
        if reason := sandbox.unavailable():
            raise SystemExit(reason)
        yield Bench(sandbox, folder)
    finally:
        await sandbox.close()
        shutil.rmtree(folder)


async def starts(bench: Bench) -> Figure:
    """A session's first call: a process is forked, confines itself, and runs it."""
    values = []
    for _ in range(STARTS):
        session = bench.session()
        values.append(await bench.run(session, "1 + 1"))
        await bench.sandbox.forget(session[0])
    return Figure("session start with first call", "ms", values, 40.0)


async def calls(bench: Bench, files: int, limit: float | None) -> Figure:
    """Further calls, in a folder with so many files."""
    session = bench.session()
    for number in range(files):
        (session[1] / str(number)).touch()
    await bench.run(session, "1 + 1")
    return Figure(f"warm call, {files} files", "ms", [await bench.run(session, "1 + 1") for _ in range(CALLS)], limit)


async def weights(bench: Bench) -> Figure:
    """What an idle session weighs when there are many: its share of what is shared counts."""
    before = set(_descendants(os.getpid()))
    sessions = [bench.session() for _ in range(SESSIONS)]
    for session in sessions:
        await bench.run(session, "x = 1")
    values = [size for pid in set(_descendants(os.getpid())) - before if (size := _weight(pid)) is not None]
    for key, _ in sessions:
        await bench.sandbox.forget(key)
    return Figure("idle session (PSS; needs root)", "MB", values or [float("nan")], 12.0)


async def timeouts() -> tuple[list[Figure], str]:
    """Calls that must be killed, one after the other, beside a session that must not notice."""
    limits = msgspec.structs.replace(LIMITS, seconds=0.05, grace=0.05)
    async with bench(limits) as short:
        calm, wild = short.session(), short.session()
        await short.run(calm, "x = 1")
        kills, restarts = [], []
        for _ in range(TIMEOUTS):
            restarts.append(await short.run(wild, "1 + 1"))
            kills.append(await short.run(wild, BUSY_IN_C) - (limits.seconds + limits.grace) * 1000)
        kept = (await short.sandbox.run(*calm, "x")).value == "1"
    verdict = f"{TIMEOUTS} timeouts in a row; the other session {'lives' if kept else 'IS LOST'}"
    return [
        Figure("killed, after the hard limit", "ms", kills),
        Figure("next call after a kill", "ms", restarts),
    ], verdict


async def load(bench: Bench) -> list[Figure]:
    """Endless loops in several sessions: how late the event loop is, and how slow calls of another session are."""
    loops = [bench.session() for _ in range(LOOPS)]
    calm = bench.session()
    await asyncio.gather(*(bench.run(session, "1") for session in (*loops, calm)))
    running = [asyncio.create_task(bench.run(session, ENDLESS)) for session in loops]
    lags, answers = [], []
    until = time.perf_counter() + LOAD
    while (began := time.perf_counter()) < until:
        await asyncio.sleep(0.005)
        lags.append((time.perf_counter() - began) * 1000 - 5)
        answers.append(await bench.run(calm, "1 + 1"))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return [
        Figure(f"event loop lag beside {LOOPS} endless loops", "ms", lags, 50.0),
        Figure(f"another session's call beside {LOOPS} endless loops", "ms", answers),
    ]


def _descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _descendants(int(child))


def _weight(pid: int) -> float | None:
    """MB; None where it may not be known: a worker hides itself from all but root."""
    with suppress(PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return None


@contextmanager
def timed(figures: list[Figure], name: str) -> Iterator[None]:
    """Adds how many milliseconds the block took."""
    began = time.perf_counter()
    yield
    figures.append(Figure(name, "ms", [(time.perf_counter() - began) * 1000]))


def show(figures: Sequence[Figure]) -> None:
    """Prints the table."""
    print(f"{'':52}{'median':>10}{'p95':>10}{'max':>10}{'limit':>10}{'p95/limit':>11}")
    for figure in figures:
        numbers = (statistics.median(figure.values), figure.high, max(figure.values))
        limit = f"{figure.limit:>10.1f}{figure.high / figure.limit:>11.2f}" if figure.limit is not None else ""
        print(f"{f'{figure.name}, {figure.unit}':52}" + "".join(f"{number:>10.2f}" for number in numbers) + limit)


async def main() -> None:
    """Measures everything."""
    figures: list[Figure] = []
    async with bench(LIMITS) as standard:
        print(f"level {standard.sandbox.level}: {', '.join(standard.sandbox.layers)}\n")
        figures.append(await starts(standard))
        figures.append(await calls(standard, 0, 1.0))
        figures.append(await calls(standard, 200, None))
        figures.append(await weights(standard))
        figures.extend(await load(standard))
    killed, verdict = await timeouts()
    with timed(figures, "start, self-test and end of a sandbox"):
        async with bench(LIMITS):
            pass
    show([*figures, *killed])
    print(f"\n{verdict}")


if __name__ == "__main__":
    uvloop.run(main())
