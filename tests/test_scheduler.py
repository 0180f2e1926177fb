"""The scheduler and the cache of the llama.cpp engine, on a memory that checks what it is told; no model."""

import random
from array import array
from collections.abc import Iterable

import numpy
import pytest
from numpy.typing import NDArray

from models.llama_cpp.cache import CHUNK, Cache, Tokens
from models.llama_cpp.scheduler import BATCH, Scheduler, Share, Stream


class Cell:
    """One token in the memory."""

    def __init__(self, token: int) -> None:
        self.token = token


class CheckedMemory:
    """Does with cells what llama.cpp does, and knows how many there are."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Cell]] = {}
        self.copied = 0
        self.overwritten: set[int] = set()
        """Sequences of which a sliding window has lost the beginning."""

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        assert len(self.rows.get(target, [])) == start
        self.rows.setdefault(target, []).extend(self.rows[source][start:end])
        self.copied += end - start

    def cut(self, sequence: int, length: int) -> None:
        del self.rows.get(sequence, [])[length:]

    def position(self, tokens: Tokens, index: int) -> int:
        return index

    def reaches(self, sequence: int, position: int) -> bool:
        return sequence not in self.overwritten

    def compute(self, share: Share) -> None:
        self.rows.setdefault(share.line.sequence, []).extend(Cell(token) for token in share.tokens)

    def save(self, sequence: int) -> NDArray[numpy.uint8]:
        return numpy.array([cell.token for cell in self.rows[sequence]], numpy.int32).view(numpy.uint8)

    def restore(self, sequence: int, saved: NDArray[numpy.uint8]) -> bool:
        assert not self.rows.get(sequence)
        self.rows[sequence] = [Cell(int(token)) for token in saved.view(numpy.int32)]
        return True

    @property
    def used(self) -> int:
        return len({id(cell) for row in self.rows.values() for cell in row})


class Engine:
    """Steps without a model: a drawn token is the number of the request."""

    def __init__(
        self, slots: int = 4, cells: int = 400, sequences: int = 8, *, compact: bool = True, divisible: bool = True
    ) -> None:
        self.memory = CheckedMemory()
        self.cache = Cache(self.memory, cells, sequences, compact=compact, divisible=divisible)
        self.scheduler = Scheduler(self.cache, slots)
        self.speed = 0.0001
        """Seconds for each token of a prompt."""
        self.wanted: dict[int, int] = {}
        """How many tokens each request is to write."""
        self.begun: list[int] = []
        self.ended: list[int] = []

    def learn(self, speed: float) -> None:
        """Has done steps at this speed before."""
        self.speed = speed
        self.scheduler.pace.note(1000, speed * 1000)

    def add(self, number: int, prompt: Iterable[int], written: int = 1, *, exact: bool = False) -> Stream:
        stream = Stream(number, prompt, exact=exact)
        self.wanted[number] = stream.prompt + written
        self.scheduler.add(stream)
        return stream

    def step(self) -> list[tuple[int, int]]:
        """One batch: which request computed how many tokens in it."""
        self.begun += [stream.number for stream in self.scheduler.admit()]
        shares = self.scheduler.plan()
        for share in shares:
            self.memory.compute(share)
        streams = sum(share.stream.streaming for share in shares)
        self.scheduler.done(shares, self.speed * (sum(share.count for share in shares) - streams))
        for share in shares:
            if share.last:
                share.stream.tokens.append(share.stream.number)
                if len(share.stream.tokens) == self.wanted[share.stream.number]:
                    self.ended.append(share.stream.number)
                    self.scheduler.remove(share.stream)
        self.check()
        return [(share.stream.number, share.count) for share in shares]

    def run(self) -> list[list[tuple[int, int]]]:
        """Steps until nothing is left to do."""
        steps = []
        while self.scheduler.active or self.scheduler.waiting:
            steps.append(self.step())
            assert steps[-1], "a step without work"
        return steps

    def check(self) -> None:
        """The cache knows what the memory holds."""
        assert self.cache.used == self.memory.used <= self.cache.size
        held = {line.sequence: list(line.tokens) for line in self.cache.lines if line.length}
        assert held == {row: [cell.token for cell in cells] for row, cells in self.memory.rows.items() if cells}
        busy = [line for line in self.cache.lines if line.busy]
        assert {id(line) for line in busy} == {id(stream.line) for stream in self.scheduler.active}


def test_a_prompt_alone_is_computed_and_continued() -> None:
    engine = Engine()
    engine.learn(0.001)
    engine.add(1, range(100), written=3)
    assert engine.run() == [[(1, 100)], [(1, 1)], [(1, 1)]]


def test_streams_go_on_while_a_long_prompt_is_read() -> None:
    engine = Engine(cells=4000)
    engine.learn(0.002)
    engine.add(1, range(20), written=30)
    engine.step()
    engine.add(2, range(1000, 2000))
    steps = engine.run()
    # 500 tokens a second: up to 100 besides its own in the 0.2 seconds that a stream may wait.
    read = [32, 64, *[100] * 9, 4]
    assert steps[:12] == [[(1, 1), (2, count)] for count in read]
    assert steps[12:] == [[(1, 1)]] * 17


def test_two_long_prompts_share_the_batch_and_the_short_one_is_through_first() -> None:
    engine = Engine(cells=4000)
    engine.learn(0.002)
    engine.add(1, range(1000, 1900))
    engine.add(2, range(2000, 2300))
    assert engine.run() == [[(2, 250), (1, 250)], [(2, 50), (1, 450)], [(1, 200)]]


def test_requests_beyond_the_slots_wait_in_order() -> None:
    engine = Engine(slots=2)
    for number in range(1, 6):
        engine.add(number, [number] * 10, written=number)
    engine.run()
    assert engine.begun == [1, 2, 3, 4, 5]


def test_what_comes_together_is_computed_once() -> None:
    engine = Engine(slots=4, cells=2000)
    engine.learn(0.0001)
    common = list(range(1000, 1300))
    streams = [engine.add(number, [*common, *[number] * 40], written=5) for number in range(1, 5)]
    steps = engine.run()
    computed = {number: sum(count for step in steps for who, count in step if who == number) for number in range(1, 5)}
    assert computed == {1: 344, 2: 44, 3: 44, 4: 44}
    assert [stream.cached for stream in streams] == [0, 300, 300, 300]
    assert engine.memory.used == 300 + 4 * 44


def test_the_longest_common_beginning_is_taken_over() -> None:
    engine = Engine(cells=2000, sequences=8)
    short = engine.add(1, [*range(50), *[1] * 20])
    engine.run()
    long = engine.add(2, [*range(50), *[1] * 15, *[2] * 40])
    engine.run()
    longest = engine.add(3, [*range(50), *[1] * 15, *[2] * 40, 2, 3, 3])
    engine.run()
    assert [stream.cached for stream in (short, long, longest)] == [0, 65, 105]


def test_the_least_recently_used_line_goes_first() -> None:
    engine = Engine(cells=300, compact=False)
    for number in (1, 2):
        engine.add(number, [number] * 100)
        engine.run()
    engine.add(3, [1] * 101)  # Used again.
    engine.run()
    engine.add(4, [4] * 150)
    engine.run()
    kept = sorted(line.tokens[0] for line in engine.cache.lines)
    assert kept == [1, 4]


def test_what_nobody_takes_up_is_put_away_after_some_steps_of_others() -> None:
    engine = Engine()
    engine.add(1, [1] * 50)
    engine.add(2, [2] * 5, written=18)
    engine.run()
    assert [line.tokens[0] for line in engine.cache.lines] == [2]


def test_what_nobody_takes_up_is_put_away_before_another_begins_and_brought_back() -> None:
    engine = Engine()
    engine.add(1, [1] * 50)
    engine.add(2, [2] * 5, written=17)
    engine.run()
    assert [line.tokens[0] for line in engine.cache.lines] == [1, 2]
    engine.add(3, [3] * 5)
    engine.run()
    assert [line.tokens[0] for line in engine.cache.lines] == [3]
    again = engine.add(4, [*[1] * 50, 4])
    engine.run()
    assert again.cached == 50


@pytest.mark.parametrize(("number", "cached"), [(1, 0), (2, 60), (3, 60), (5, 60)])
def test_of_what_is_away_the_least_recently_used_is_forgotten(number: int, cached: int) -> None:
    engine = Engine(cells=130, compact=False)
    for earlier in range(1, 6):  # Two are in the cells at the end, two are away.
        engine.add(earlier, [earlier] * 60)
        engine.run()
    stream = engine.add(6, [*[number] * 60, 0])
    engine.run()
    assert stream.cached == cached


def test_of_two_lines_that_begin_alike_the_longer_is_kept() -> None:
    engine = Engine()
    engine.add(1, [7] * 50)
    engine.add(2, [7] * 50)
    engine.run()
    assert [line.length for line in engine.cache.lines] == [50]


def test_who_came_last_waits_when_the_cache_is_full_and_loses_nothing() -> None:
    engine = Engine(slots=2, cells=100)
    first = engine.add(1, [1] * 30, written=50)
    second = engine.add(2, [2] * 30, written=30)
    steps = engine.run()
    assert engine.ended == [1, 2]
    assert list(first.tokens) == [1] * 80
    assert list(second.tokens) == [2] * 60
    assert second.cached == 0
    again = sum(count for step in steps for who, count in step if who == 2) - 59
    assert 0 <= again <= 50


def test_a_prompt_as_long_as_the_cache_gets_it_alone() -> None:
    engine = Engine(slots=4, cells=100)
    engine.add(1, [1] * 40, written=3)
    engine.add(2, [2] * 99, written=2)
    engine.add(3, [3] * 5)
    engine.run()
    assert engine.begun == [1, 2, 3]
    assert engine.ended == [1, 2, 3]


def test_an_exact_request_takes_only_what_was_computed_in_chunks_and_alone() -> None:
    engine = Engine(cells=2000)
    engine.learn(0.0001)
    prompt = list(range(200))
    engine.add(1, prompt)
    engine.run()
    engine.add(2, prompt, exact=True)
    assert engine.run() == [[(2, CHUNK)]] * 3 + [[(2, 200 - 3 * CHUNK)]]
    third = engine.add(3, [*prompt, 1, 2], exact=True)
    assert engine.run() == [[(3, 202 - 3 * CHUNK)]]
    assert third.cached == 3 * CHUNK


def test_an_exact_request_is_cut_alike_however_slow_the_model_is() -> None:
    prompt = list(range(200))
    for seconds in (0.01, 100.0):
        engine = Engine()
        engine.learn(seconds / 1000)
        engine.add(1, prompt, exact=True)
        assert engine.run() == [[(1, CHUNK)]] * 3 + [[(1, 200 - 3 * CHUNK)]]


def test_a_line_that_lost_its_beginning_is_taken_over_as_a_whole_only() -> None:
    engine = Engine(cells=1000)
    engine.add(1, [1] * 100, written=5)
    engine.run()
    (line,) = engine.cache.lines
    engine.memory.overwritten.add(line.sequence)
    other = engine.add(2, [*[1] * 60, *[2] * 30])
    longer = engine.add(3, [*[1] * 104, *[3] * 30])
    engine.run()
    assert (other.cached, longer.cached) == (0, 104)


def test_what_was_put_away_stays_there_while_there_is_no_room_for_its_prompt() -> None:
    engine = Engine(slots=2, cells=200)
    engine.add(1, [1] * 100, written=5)
    engine.run()
    engine.add(2, [2] * 100, written=60)
    while engine.cache.used < 150:
        engine.step()
    again = engine.add(3, [*[1] * 104, 3])
    engine.run()
    assert again.cached == 104


def test_a_model_with_states_takes_over_whole_lines_only() -> None:
    engine = Engine(divisible=False)
    engine.add(1, [1] * 20, written=5)
    engine.run()
    longer = engine.add(2, [*[1] * 24, 2, 2])
    other = engine.add(3, [*[1] * 10, 3, 3])
    engine.run()
    assert (longer.cached, other.cached) == (24, 0)
    assert engine.memory.copied == 0


def test_a_batch_that_was_not_computed_is_computed_again() -> None:
    for divisible in (True, False):
        engine = Engine(divisible=divisible)
        engine.add(1, [1] * 20, written=2)
        engine.add(2, [2] * 20, written=2)
        list(engine.scheduler.admit())
        engine.scheduler.undone(engine.scheduler.plan())
        engine.check()
        engine.run()
        assert sorted(engine.ended) == [1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_hundreds_of_requests_leave_no_cell_behind(seed: int) -> None:
    chance = random.Random(seed)
    engine = Engine(
        slots=chance.randint(1, 8),
        cells=chance.choice([120, 300, 1000]),
        sequences=chance.randint(9, 20),
        compact=chance.random() < 0.7,
        divisible=chance.random() < 0.8,
    )
    engine.learn(chance.choice([0.0001, 0.001, 0.01]))
    beginnings = [[chance.randrange(3) for _ in range(chance.randint(1, 60))] for _ in range(4)]
    wanted: dict[int, Stream] = {}
    cancelled: set[int] = set()
    for number in range(1, 301):
        prompt = [*chance.choice(beginnings), *(chance.randrange(3) for _ in range(chance.randint(1, 40)))]
        written = chance.randint(1, 20)
        wanted[number] = engine.add(number, prompt, written, exact=chance.random() < 0.2)
        while chance.random() < 0.7:
            shares = engine.step()
            assert sum(count for _, count in shares) <= BATCH
        alive = [*engine.scheduler.active, *engine.scheduler.waiting]
        if alive and chance.random() < 0.2:
            gone = chance.choice(alive)
            engine.scheduler.remove(gone)
            cancelled.add(gone.number)
            engine.check()
    engine.run()
    assert set(engine.ended) == set(wanted) - cancelled
    for number in engine.ended:
        stream = wanted[number]
        assert stream.tokens[stream.prompt :] == array("i", [number] * (engine.wanted[number] - stream.prompt))
    engine.cache.clear()
    assert (engine.cache.used, engine.memory.used, list(engine.cache.lines)) == (0, 0, [])
