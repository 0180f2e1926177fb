"""The debate's protocol with simulated voices, against the exact value of a majority vote. No model takes part.

    uv run benchmarks/debate.py [--questions 2000] [--threshold 0.8] [--seed 1]

A voice is right with probability p, else it takes one of the wrong options at random. With probability r all voices say
the same, as models of one family do: that is the correlation of their being right. In a critique round a voice that is
not with the largest group of the others joins it with probability k. So nobody here is ever convinced by a reason: what
is measured is what counting, stopping and voting do, which is all that the protocol itself can do.

The protocol: drafts; done if the threshold is met; else at most 2 critique rounds, fewer where one changes nothing;
then the vote. The majority value is the probability that the largest group of the drafts is right (Condorcet's, for two
options); it is enumerated, without the code under test. Exit code 1 tells that a figure is not what it must be: with
k = 0 the protocol decides every question as a vote of the drafts does, and is right as often as a majority; so it is
not worse than the best single voice, wherever a majority is not.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents.consensus import Closed, Position, decide_vote, is_stable, measure_closed, note

RIGHT = 0
CRITIQUES = 2
"""Critique rounds at most."""
Z = 4.0
"""Standard errors to each side of an interval. It misses one time in 16,000; there are some forty rows."""
QUESTION, TURN = 200, 300
"""Tokens of the question, and of what a voice writes in one turn. In a critique it reads what all have said last."""


@dataclass(frozen=True)
class World:
    """Voices, and how they answer."""

    accuracies: tuple[float, ...]
    options: int = 4
    correlation: float = 0.0
    conformity: float = 0.0
    weighted: bool = False
    """Whether a voice's weight is its log odds, as is best for two options (Nitzan and Paroush 1982); else 1."""

    @property
    def voices(self) -> dict[str, float]:
        """The voices with their weights."""
        weights = [math.log(p / (1 - p)) if self.weighted else 1.0 for p in self.accuracies]
        return {f"voice {number}": weight for number, weight in enumerate(weights)}


@dataclass(frozen=True)
class Exact:
    """What is known of a world without any trial."""

    single: float
    """The best voice's accuracy."""
    majority: float
    agreed: float
    """How often the drafts meet the threshold."""


@dataclass(frozen=True)
class Trial:
    """What came out of many questions."""

    right: float
    drafts_right: float
    """The same questions, decided by the drafts."""
    otherwise: float
    """How often the debate decided otherwise than they."""
    rounds: float
    """Critique rounds, on average."""
    agreed: float
    """How often there was none."""


def exact(world: World, threshold: float) -> Exact:
    """Sums over all that the voices can say."""
    weights = list(world.voices.values())
    majority = agreed = 0.0
    for drafts in product(range(world.options), repeat=len(weights)):
        chance = math.prod(_chance(world, p, draft) for p, draft in zip(world.accuracies, drafts, strict=True))
        sizes: Counter[int] = Counter()
        for weight, draft in zip(weights, drafts, strict=True):
            sizes[draft] += weight  # type: ignore[assignment]  # a counter of weights
        largest = max(sizes.values())
        leaders = [draft for draft in drafts if sizes[draft] > largest - 1e-9]
        majority += chance * (leaders[0] == RIGHT)
        agreed += chance * (len(set(leaders)) == 1 and largest / sum(weights) + 1e-9 >= threshold)
    r = world.correlation
    alike = world.accuracies[0]
    return Exact(max(world.accuracies), r * alike + (1 - r) * majority, r + (1 - r) * agreed)


def _chance(world: World, accuracy: float, answer: int) -> float:
    return accuracy if answer == RIGHT else (1 - accuracy) / (world.options - 1)


def trial(world: World, threshold: float, questions: int, random: Random) -> Trial:
    """Debates many questions."""
    answers = [Closed("choice", letter, letter) for letter in "ABCDEFGH"[: world.options]]
    right = drafts_right = otherwise = rounds = agreed = 0
    for _ in range(questions):
        drafts = _drafts(world, random)
        said, answer = _debate(world, drafts, answers, threshold, random)
        leader = _leaders(drafts, world)[0]
        right += answer == answers[RIGHT].key
        drafts_right += leader == RIGHT
        otherwise += answer != answers[leader].key
        rounds += len(said) - 1
        agreed += len(said) == 1
    return Trial(*(count / questions for count in (right, drafts_right, otherwise, rounds, agreed)))


def _drafts(world: World, random: Random) -> list[int]:
    if random.random() < world.correlation:
        return [_draw(world, world.accuracies[0], random)] * len(world.accuracies)
    return [_draw(world, accuracy, random) for accuracy in world.accuracies]


def _draw(world: World, accuracy: float, random: Random) -> int:
    return RIGHT if random.random() < accuracy else random.randrange(1, world.options)


def _debate(
    world: World, drafts: list[int], answers: Sequence[Closed], threshold: float, random: Random
) -> tuple[list[list[Position]], str]:
    """What was said, round by round, and the key of the answer."""
    voices = world.voices
    said: list[list[Position]] = []
    measures = []
    latest = drafts
    while True:
        said.append([Position(voice, len(said), answers[key]) for voice, key in zip(voices, latest, strict=True)])
        measures.append(measure_closed(said[-1], voices, threshold, said[-2] if len(said) > 1 else ()))
        if measures[-1].met:
            return said, measures[-1].leader or ""
        if is_stable(measures) or len(said) > CRITIQUES:
            decision = decide_vote(said, voices)
            return said, decision.key if decision else ""
        latest = _criticised(world, latest, random)


def _criticised(world: World, before: list[int], random: Random) -> list[int]:
    """All speak at once, having read the round before."""
    after = []
    for place, own in enumerate(before):
        leaders = _leaders(before[:place] + before[place + 1 :])
        joins = own not in leaders and random.random() < world.conformity
        after.append(random.choice(leaders) if joins else own)
    return after


def _leaders(answers: Sequence[int], world: World | None = None) -> list[int]:
    """The answers of the largest groups, that of the first voice first."""
    weights = list(world.voices.values()) if world else [1.0] * len(answers)
    sizes = {answer: sum(w for w, own in zip(weights, answers, strict=True) if own == answer) for answer in answers}
    largest = max(sizes.values())
    return [answer for answer, size in sizes.items() if size > largest - 1e-9]


def worlds() -> Iterator[World]:
    """What is tried."""
    for count in (3, 5):
        for p in (0.4, 0.6, 0.8):
            for r in (0.0, 0.5):
                for k in (0.0, 0.4, 0.8):
                    yield World((p,) * count, correlation=r, conformity=k)
    yield World((0.6,) * 7, options=2)
    yield World((0.4,) * 7, options=2)
    yield World((0.8, 0.7, 0.6, 0.6, 0.6), options=2)
    yield World((0.8, 0.7, 0.6, 0.6, 0.6), options=2, weighted=True)


HEAD = (
    "voices  p           options  r    k    | single  majority  protocol       drafts  otherwise | "
    "rounds  agreed (exact)  saved"
)


def row(world: World, known: Exact, found: Trial, questions: int) -> str:
    """A line of the table."""
    between = " to ".join(f"{p:.1f}" for p in sorted(set(world.accuracies))[:: len(set(world.accuracies)) - 1 or 1])
    return (
        f"{len(world.accuracies):<7} {between:<11} {world.options:<8} {world.correlation:<4} {world.conformity:<4} | "
        f"{known.single:<7.3f} {known.majority:<9.3f} {found.right:.3f} ± {_error(found.right, questions):.3f}  "
        f"{found.drafts_right:.3f}   {found.otherwise:<9.3f} | {found.rounds:<7.2f} "
        f"{found.agreed:.3f} ({known.agreed:.3f})   {_saved(len(world.accuracies), found.rounds):.0%}"
        f"{'  weighted' if world.weighted else ''}"
        f"{'  a majority is worse than its best voice' if known.majority < known.single - 1e-9 else ''}"
    )


def _error(share: float, questions: int) -> float:
    return Z * math.sqrt(max(share * (1 - share), 1 / questions) / questions)


def _saved(voices: int, rounds: float) -> float:
    """The share of the tokens, read and written, of a debate that always has all its critique rounds."""
    draft, critique = voices * (QUESTION + TURN), voices * (QUESTION + voices * TURN + TURN)
    return (CRITIQUES - rounds) * critique / (draft + CRITIQUES * critique)


def faults(world: World, known: Exact, found: Trial, questions: int) -> Iterator[str]:
    """What is not as it must be."""
    if abs(found.agreed - known.agreed) > _error(known.agreed, questions):
        yield f"{world}: drafts agree in {found.agreed:.3f}, not in {known.agreed:.3f} of all cases"
    if world.conformity:
        return
    if found.otherwise:
        yield f"{world}: decided otherwise than the drafts, though nobody changed"
    if abs(found.right - known.majority) > _error(known.majority, questions):
        yield f"{world}: right in {found.right:.3f}, a majority in {known.majority:.3f} of all cases"
    if abs(found.rounds - (1 - known.agreed)) > _error(known.agreed, questions):
        yield f"{world}: {found.rounds:.3f} critique rounds where one tells that nothing changes"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="for each row")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Reads the command line, simulates, tells."""
    options = _options()
    random = Random(options.seed)
    began = time.perf_counter()
    wrong: list[str] = []
    print(f"{options.questions} questions a row; ± is four standard errors; {note(options.threshold, 5)}\n\n{HEAD}")
    for world in worlds():
        known = exact(world, options.threshold)
        found = trial(world, options.threshold, options.questions, random)
        wrong += faults(world, known, found, options.questions)
        print(row(world, known, found, options.questions))
    print(f"\n{time.perf_counter() - began:.1f} s", *wrong, sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
