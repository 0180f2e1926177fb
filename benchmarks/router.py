"""How good the router of `auto` is, on labelled prompts that it was not trained on.

    python -m benchmarks.router            prints accuracy, calibration, cost regret and speed
    python -m benchmarks.router --train    learns the weights anew, writes them, and prints the same

Half of the prompts, by a hash of the text, are held out. But the lists of words were written with most prompts at hand,
held out or not, so that these flatter. Late prompts were written when the lists were finished; what they give is what
to expect of new requests.
"""

import argparse
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

import agents.routing
from agents.routing import MODES, Choice, Mode, Situation, decide, route
from agents.routing.question import KINDS
from agents.routing.question import RIGHT as ANSWER_RIGHT
from agents.routing.router import weights
from benchmarks.prompts import Prompt, load_prompts
from benchmarks.training import train, written

_WEIGHTS = Path(agents.routing.__file__).with_name("weights.json")

CALLS: dict[Mode, float] = {"simple": 1, "react": 4, "plan": 8, "debate": 8}
"""Model calls that a mode takes: an assumption, of a react of three steps, of a debate of three voices and a round."""
CALL = 0.2
"""The same for the router's question, whose answer has a few tokens."""
FAILURE = 20.0
"""Model calls that a bad answer is worth: the user asks again, and may not come back. An assumption, too."""
UNSERVED: dict[Mode, dict[Mode, float]] = {
    "simple": {"simple": 0, "react": 0, "plan": 0, "debate": 0},
    "react": {"simple": 1, "react": 0, "plan": 0, "debate": 1},
    "plan": {"simple": 1, "react": 0.5, "plan": 0, "debate": 1},
    "debate": {"simple": 0.5, "react": 0.5, "plan": 0.5, "debate": 0},
}
"""By what a prompt needs and what it got: how far it was left unserved."""


class Figures(Struct, frozen=True):
    """How the router does on some prompts. Costs are in model calls."""

    prompts: int
    accuracy: float
    """Share of first choices that are the label."""
    ece: float
    """Expected calibration error in ten bins: how far shares that are right lie from the probabilities told."""
    brier: float
    """Mean squared distance of the probabilities from the truth, over all modes: 0 to 2."""
    asked: float
    """Share that takes the extra call."""
    accuracy_sure: float
    """Of those that do not."""
    regret: dict[str, float]
    """Mean cost above that of the best mode of each prompt, by who chooses."""
    confusion: dict[Mode, dict[Mode, int]]
    """Prompts by label and first choice."""


def measure(prompts: Sequence[Prompt]) -> Figures:
    """The figures of the router as committed."""
    pairs = [(prompt, route(prompt.situation)) for prompt in prompts]
    right = [choice.mode == prompt.mode for prompt, choice in pairs]
    sure = [prompt.mode == choice.mode for prompt, choice in pairs if choice.sure]
    spread = [
        sum((share - (mode == prompt.mode)) ** 2 for mode, share in choice.shares.items()) for prompt, choice in pairs
    ]
    counts = Counter((prompt.mode, choice.mode) for prompt, choice in pairs)
    return Figures(
        prompts=len(pairs),
        accuracy=statistics.fmean(right),
        ece=_calibration_error([choice.p for _, choice in pairs], right),
        brier=statistics.fmean(spread),
        asked=1 - len(sure) / len(pairs),
        accuracy_sure=statistics.fmean(sure),
        regret={name: statistics.fmean(chooser(*pair) for pair in pairs) for name, chooser in _CHOOSERS.items()},
        confusion={label: {mode: counts[label, mode] for mode in MODES} for label in MODES},
    )


def _calibration_error(told: Sequence[float], right: Sequence[bool]) -> float:
    gaps = [0.0] * 10
    for p, hit in zip(told, right, strict=True):
        gaps[min(int(p * 10), 9)] += p - hit
    return sum(map(abs, gaps)) / len(told)


def _regret(label: Mode, mode: Mode) -> float:
    costs = {each: CALLS[each] + FAILURE * UNSERVED[label][each] for each in MODES}
    return costs[mode] - min(costs.values())


def _with_call(prompt: Prompt, choice: Choice) -> float:
    """Expected, where a model that is asked names the label as often as is assumed, and else each other mode alike."""
    if choice.sure:
        return _regret(prompt.mode, choice.mode)
    offered = [mode for mode in MODES if choice.shares[mode] > 0]
    wrong = (1 - ANSWER_RIGHT) / (len(offered) - 1)
    odds = {mode: ANSWER_RIGHT if mode == prompt.mode else wrong for mode in offered}
    after = {mode: decide(choice, json.dumps({"sort": KINDS[mode][0]})).mode for mode in offered}
    return CALL + sum(odds[mode] * _regret(prompt.mode, after[mode]) for mode in offered)


def _without_call(prompt: Prompt, choice: Choice) -> float:
    return _regret(prompt.mode, choice.mode if choice.sure else "simple")


_CHOOSERS: dict[str, Callable[[Prompt, Choice], float]] = {
    "router, its first choice": lambda prompt, choice: _regret(prompt.mode, choice.mode),
    "router, simple when not sure": _without_call,
    f"router, call right {ANSWER_RIGHT:.0%} (assumed)": _with_call,
    "always simple": lambda prompt, _: _regret(prompt.mode, "simple"),
    "always react": lambda prompt, _: _regret(prompt.mode, "react"),
}
"""Who chooses, and its regret."""


def microseconds(situations: Sequence[Situation], rounds: int = 5) -> list[float]:
    """The least time of `route` over the rounds, for each situation."""
    best = [math.inf] * len(situations)
    for _ in range(rounds):
        for at, situation in enumerate(situations):
            start = time.perf_counter()
            route(situation)
            best[at] = min(best[at], time.perf_counter() - start)
    return [1e6 * seconds for seconds in best]


def tell() -> None:
    """Prints all figures."""
    prompts = load_prompts()
    sets = {
        "trained on": [prompt for prompt in prompts if not prompt.held_out],
        "held out": [prompt for prompt in prompts if prompt.held_out and not prompt.late],
        "held out, late": [prompt for prompt in prompts if prompt.late],
    }
    figures = {name: measure(some) for name, some in sets.items()}
    print(f"{len(prompts)} prompts by one author, in {', '.join(sorted({prompt.language for prompt in prompts}))}.")
    print("Late ones were written after the lists of words; only they tell how new requests fare.\n")
    print(_row("", list(figures)))
    for words, form in _LINES.items():
        print(_row(words, [format(getattr(each, form[0]), form[1]) for each in figures.values()]))
    print(f"\nMean regret in model calls ({_costs()}):\n")
    for chooser in _CHOOSERS:
        print(_row(chooser, [f"{each.regret[chooser]:.2f}" for each in figures.values()]))
    for name in ("held out", "held out, late"):
        print(f"\n{name}: by label (down) and first choice\n")
        print(_row("", MODES))
        for label, row in figures[name].confusion.items():
            print(_row(label, [str(count) for count in row.values()]))
    times = microseconds([prompt.situation for prompt in prompts])
    print(f"\nroute: median {statistics.median(times):.0f} µs, longest {max(times):.0f} µs")


_LINES = {
    "prompts": ("prompts", "d"),
    "accuracy": ("accuracy", ".1%"),
    "ECE, 10 bins": ("ece", ".3f"),
    "Brier": ("brier", ".3f"),
    "take the extra call": ("asked", ".1%"),
    "accuracy of the others": ("accuracy_sure", ".1%"),
}


def _costs() -> str:
    calls = ", ".join(f"{mode} {count:g}" for mode, count in CALLS.items())
    return f"{calls}, the router's question {CALL:g}, a bad answer {FAILURE:g}"


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:36}" + "".join(f"{cell:>16}" for cell in cells)


def main() -> None:
    """Trains if asked to, and tells."""
    parser = argparse.ArgumentParser(description="The router of `auto`: how good it is.")
    parser.add_argument("--train", action="store_true", help="learn the weights anew, and write them")
    if parser.parse_args().train:
        _WEIGHTS.write_bytes(written(train(load_prompts())))
        weights.cache_clear()
    tell()


if __name__ == "__main__":
    main()
