"""What was measured, as tables: medians over the rounds, Drover against the others, and the goals."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.scenarios import SCENARIOS, Figures

QUIET = 0.05
"""Share of the machine that others may use before the figures are called disturbed."""


@dataclass
class Turn:
    """One server's turn."""

    figures: dict[str, Figures] = field(default_factory=dict)
    """By scenario."""
    failures: list[str] = field(default_factory=list)
    others: float = math.nan
    """Share of the machine that others have used meanwhile."""


Turns = Mapping[str, Sequence[Turn]]
"""By server, one for each round."""

UNITS: dict[str, tuple[str, bool | None]] = {
    "tokens/s": (",.1f", True),
    ", s": (",.2f", False),
    ", ms": (",.2f", False),
    ", %": (".1%", None),
}
"""Endings of a figure's name: its format, and whether more is better. What ends otherwise is counted."""

FAULTS = ("cut off", "not in the form")
"""Endings of what is told only where there was any."""

Values = dict[str, dict[str, dict[str, float]]]
"""Medians by scenario, figure and server."""


def medians(turns: Turns) -> Values:
    """The median over the rounds of all that was measured."""
    found: Values = {}
    for name, list_ in turns.items():
        for turn in list_:
            for scenario, figures in turn.figures.items():
                for figure in figures:
                    values = [
                        each.figures[scenario].get(figure, math.nan) for each in list_ if scenario in each.figures
                    ]
                    found.setdefault(scenario, {}).setdefault(figure, {})[name] = _median(values)
    return found


def ratio(turns: Turns, scenario: str, figure: str, peer: str) -> float:
    """Drover's figure by another's: the median over the rounds, since both were measured close together in each."""
    pairs = [
        (mine.figures.get(scenario, {}).get(figure, math.nan), theirs.figures.get(scenario, {}).get(figure, math.nan))
        for mine, theirs in zip(turns.get("drover", ()), turns.get(peer, ()), strict=False)
    ]
    return _median([mine / other if other else math.nan for mine, other in pairs])


def _median(values: Sequence[float]) -> float:
    good = [value for value in values if not math.isnan(value)]
    return statistics.median(good) if good else math.nan


def show(turns: Turns, values: Values) -> None:
    """Prints a table for each scenario, and how many times Drover is better than each of the others."""
    peers = [name for name in turns if name != "drover" and "drover" in turns]
    for scenario, figures in values.items():
        print(f"\n{scenario}: {SCENARIOS[scenario].__doc__}\n")
        print(_line("", turns, [f"x {name}" for name in peers]))
        for figure, by_name in figures.items():
            if figure.endswith(FAULTS) and not any(by_name.values()):
                continue
            form, more = next((unit for ending, unit in UNITS.items() if figure.endswith(ending)), (",.0f", None))
            cells = [_cell(by_name.get(name, math.nan), form) for name in turns]
            print(_line(figure, cells, [_times(ratio(turns, scenario, figure, peer), more) for peer in peers]))


def _line(label: str, cells: Iterable[str], times: Iterable[str]) -> str:
    return f"{label:44}" + "".join(f"{cell:>16}" for cell in cells) + "".join(f"{text:>18}" for text in times)


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _times(times: float, more: bool | None) -> str:
    """How many times better; also where less is better."""
    if more is None or math.isnan(times) or not times:
        return ""
    return f"{times if more else 1 / times:.2f}"


@dataclass(frozen=True)
class Goal:
    """What Drover is to reach."""

    scenario: str
    words: str
    read: Callable[[Turns, Values], float]
    bound: float
    least: bool = True
    """Whether more is better."""


def _against(scenario: str, figure: str) -> Callable[[Turns, Values], float]:
    return lambda turns, values: ratio(turns, scenario, figure, "llama-server")


def _own(scenario: str, figure: str) -> Callable[[Turns, Values], float]:
    return lambda turns, values: values.get(scenario, {}).get(figure, {}).get("drover", math.nan)


GOALS = (
    Goal("streams", "1 stream: tokens/s, of llama-server's", _against("streams", "1 stream: tokens/s"), 0.95),
    Goal("streams", "8 streams: tokens/s, of llama-server's", _against("streams", "8 streams: tokens/s"), 1.0),
    Goal("streams", "1 stream: Python's share", _own("streams", "1 stream: Python of a step, %"), 0.10, False),
    Goal("debate", "share of the prompts reused", _own("debate", "reused of the prompts, %"), 0.70),
    Goal("debate", "speed, of llama-server's", _against("debate", "tokens/s"), 1.3),
    Goal("react", "share reused after the first step", _own("react", "reused after the first step, %"), 0.90),
    Goal("form", "1 stream: tokens/s, of free", _own("form", "1 stream: in the form of free, %"), 0.9),
    Goal("long", "longest gap, of llama-server's", _against("long", "longest gap of a stream, ms"), 1.0, False),
)


def reached(turns: Turns, values: Values) -> Iterator[dict[str, Any]]:
    """The goals of what was measured, with the figure; it is NaN where a server did not say or take part."""
    for goal in GOALS:
        if goal.scenario in values:
            value = goal.read(turns, values)
            good = None if math.isnan(value) else (value >= goal.bound if goal.least else value <= goal.bound)
            words = f"{goal.scenario}: {goal.words}, at {'least' if goal.least else 'most'} {goal.bound:g}"
            yield {"goal": words, "value": value, "reached": good}


def tell(turns: Turns, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Prints all that was found, and gives it."""
    values = medians(turns)
    goals = list(reached(turns, values))
    print("; ".join(f"{name}: {value}" for name, value in conditions.items()))
    show(turns, values)
    print()
    for goal in goals:
        mark = {None: "not measured", True: "reached", False: "MISSED"}[goal["reached"]]
        print(f"{mark:12}  {goal['goal']}: {_cell(goal['value'], '.2f')}")
    if (others := max(turn.others for list_ in turns.values() for turn in list_)) > QUIET:
        print(f"\nNot quiet: others used up to {others:.0%} of the machine.")
    return {"conditions": conditions, "medians": values, "goals": goals, "rounds": turns}
