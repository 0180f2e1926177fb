"""Which mode a request gets: by rules, else by a logistic model of its features.

A mode that must not be used hands its probability to the one that stands in for it: plan to react, react and debate to
simple. So a request that wants tools is not debated because the ceiling is low or there are no tools.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import exp
from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from agents.routing.features import REASONS, UNKNOWN_LANGUAGE, Reading, Situation, read
from agents.routing.words import WORD, folded, groups_in

Mode = Literal["simple", "react", "plan", "debate"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""The cheapest first: a ceiling allows those up to itself."""

MARGIN = 0.25
"""By how much the first must be more probable than the second for the choice to be sure."""

_STAND_INS: tuple[tuple[Mode, Mode], ...] = (("plan", "react"), ("react", "simple"), ("debate", "simple"))
"""What is used in place of a mode, in the order in which they are replaced."""
_INSTRUCTIONS = 300
"""Characters of the instructions in which they say what the assistant is."""
_SHORT, _FEW_COMMAS = 0.55, 0.4
"""Values of features up to which a request is one piece of work: some 20 words, and one comma."""
_EVENED = 0.5
"""Share of the probabilities that is spread evenly over all modes where the language is not known."""
_TOLD = 3
"""Features that are told as reasons."""


class Choice(Struct, frozen=True):
    """The mode for a request, and what speaks for it."""

    mode: Mode
    p: float
    """Probability that it is the cheapest mode that serves the request well."""
    runner_up: Mode
    runner_up_p: float
    reasons: tuple[str, ...]
    """For people; none has a word of the request."""
    sure: bool
    """False: a model should be asked, see `question`."""
    shares: Mapping[Mode, float]
    """The probability of every mode; 0 where it is not allowed."""


class Weights(Struct, frozen=True):
    """What was learnt from the training half of the labelled prompts."""

    penalty: float
    """How strongly weights were kept small when they were learnt."""
    temperature: float
    """By which scores are divided, so that probabilities are true shares."""
    rules: dict[str, float]
    """How often each rule is right."""
    features: dict[str, tuple[float, float, float, float]]
    """The weights of each feature for the modes in their order."""


@cache
def weights() -> Weights:
    """The committed weights."""
    return msgspec.json.decode(Path(__file__).with_name("weights.json").read_bytes(), type=Weights)


def route(situation: Situation, ceiling: Mode = "debate") -> Choice:
    """The mode that serves a request well at the least cost.

    Args:
        situation: the request, every part of which may be hostile.
        ceiling: the most costly mode that is allowed.
    """
    reading = read(situation)
    features = reading.features
    shares = learnt_shares(features, weights())
    rule = matching_rule(situation, reading)
    if rule:
        shares = _with_rule(shares, rule.mode, weights().rules[rule.name])
    doubt = "" if rule else reading.doubt
    if doubt == UNKNOWN_LANGUAGE:
        shares = _evened(shares)
    first = _ranked(shares)[0]
    reasons = (rule.reason,) if rule and rule.mode == first else _reasons(features, shares)
    allowed = _allowed(situation, ceiling)
    if first not in allowed:
        why = "no tools are there" if MODES.index(first) <= MODES.index(ceiling) else f"the ceiling is {ceiling}"
        reasons = (*reasons, f"{first} is not allowed: {why}")
    return choice_of(_brought_down(shares, allowed), (*reasons, doubt) if doubt else reasons, certain=not doubt)


def _evened(shares: Mapping[Mode, float]) -> dict[Mode, float]:
    """The probabilities where only the shape could be read: what a model says then counts for more."""
    return {mode: (1 - _EVENED) * share + _EVENED / len(MODES) for mode, share in shares.items()}


def choice_of(shares: Mapping[Mode, float], reasons: Sequence[str], certain: bool = True) -> Choice:
    """The choice that probabilities make; it is not sure where their difference is small, or nothing is certain."""
    first, second, *_ = _ranked(shares)
    p, runner_up_p = round(shares[first], 4), round(shares[second], 4)
    sure = runner_up_p == 0 or (certain and p - runner_up_p >= MARGIN)
    told = {mode: round(share, 4) for mode, share in shares.items()}
    return Choice(first, p, second, runner_up_p, tuple(reasons), sure, told)


def _ranked(shares: Mapping[Mode, float]) -> list[Mode]:
    """The most probable first; of two alike the cheaper."""
    return sorted(MODES, key=lambda mode: -shares[mode])


def _allowed(situation: Situation, ceiling: Mode) -> tuple[Mode, ...]:
    up_to = MODES[: MODES.index(ceiling) + 1]
    return up_to if situation.server_tools else tuple(mode for mode in up_to if mode not in ("react", "plan"))


def _brought_down(shares: Mapping[Mode, float], allowed: Sequence[Mode]) -> dict[Mode, float]:
    """The probabilities with those of forbidden modes given to what stands in for them."""
    brought = dict(shares)
    for mode, stand_in in _STAND_INS:
        if mode not in allowed:
            brought[stand_in] += brought[mode]
            brought[mode] = 0.0
    return brought


class Rule(Struct, frozen=True):
    """A case that needs no weighing."""

    name: str
    mode: Mode
    reason: str
    holds: Callable[[Situation, Reading], bool]


def _has_only_client_tools(situation: Situation, reading: Reading) -> bool:
    return bool(situation.client_tools) and not situation.server_tools


def _has_images(situation: Situation, reading: Reading) -> bool:
    return situation.images


def _is_instructed(situation: Situation, reading: Reading) -> bool:
    groups = groups_in(WORD.findall(folded(situation.system[:_INSTRUCTIONS])))
    return "rewriting" in groups or "creative" in groups


def _asks_of_files(situation: Situation, reading: Reading) -> bool:
    verbs = {"computing", "data", "documents", "explaining", "lookup", "comparing"} & reading.groups.keys()
    return bool(situation.files and situation.server_tools and verbs) and _is_short(reading)


def _names_a_tool(situation: Situation, reading: Reading) -> bool:
    return reading.shape["tool_named"] > 0 and _is_short(reading)


def _is_short(reading: Reading) -> bool:
    return reading.kinds < 3 and reading.shape["length"] < _SHORT and reading.shape["commas"] < _FEW_COMMAS


def _wants_views(situation: Situation, reading: Reading) -> bool:
    return "views" in reading.groups and not situation.files and not {"lookup", "computing"} & reading.groups.keys()


RULES = (
    Rule("client_tools", "simple", "only the client's tools", _has_only_client_tools),
    Rule("images", "simple", "a picture for the model to see", _has_images),
    Rule("instructed", "simple", "the instructions set the task", _is_instructed),
    Rule("views", "debate", "asks for several views", _wants_views),
    Rule("tool", "react", "names a tool", _names_a_tool),
    Rule("files", "react", "asks something of a file", _asks_of_files),
)
"""In their order: the first that holds counts."""


def matching_rule(situation: Situation, reading: Reading) -> Rule | None:
    """The rule that decides a request, if there is one."""
    return next((rule for rule in RULES if rule.holds(situation, reading)), None)


def _with_rule(shares: Mapping[Mode, float], mode: Mode, right: float) -> dict[Mode, float]:
    """The probabilities where a rule names the mode; what it leaves to the others is theirs as before."""
    rest = sum(share for other, share in shares.items() if other != mode)
    return {other: right if other == mode else (1 - right) * share / rest for other, share in shares.items()}


def learnt_shares(features: Mapping[str, float], learnt: Weights) -> dict[Mode, float]:
    """The probability of each mode by its features: a softmax of their weighted sums."""
    sums = [0.0] * len(MODES)
    for name, value in features.items():
        if value:
            for at, weight in enumerate(learnt.features[name]):
                sums[at] += weight * value
    powers = [exp((score - max(sums)) / learnt.temperature) for score in sums]
    return {mode: power / sum(powers) for mode, power in zip(MODES, powers, strict=True)}


def _reasons(features: Mapping[str, float], shares: Mapping[Mode, float]) -> tuple[str, ...]:
    """The features that speak most for the first mode and against the second."""
    first, second, *_ = (MODES.index(mode) for mode in _ranked(shares))
    learnt = weights().features
    force = {name: (learnt[name][first] - learnt[name][second]) * value for name, value in features.items()}
    strongest = sorted(force, key=lambda name: -force[name])[:_TOLD]
    return tuple(REASONS[name] for name in strongest if force[name] > 0)
