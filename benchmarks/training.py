"""What the router learns from the training half of the prompts: a logistic model, and how good its rules are."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.routing import MODES
from agents.routing.features import REASONS, read
from agents.routing.router import RULES, Weights, matching_rule
from benchmarks.prompts import Prompt

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

_NAMES = tuple(REASONS)
_PENALTIES = (0.5, 1.0, 2.0)
_TEMPERATURES = tuple(round(0.5 + 0.05 * step, 2) for step in range(31))
_FOLDS = 5
_COPIES = 4
_MISSED = 0.5
"""Share of the groups of words that are left out of each copy of an example: requests use words that no list has, and
lists that were written along with the examples know too many of theirs."""


def train(prompts: Sequence[Prompt]) -> Weights:
    """Learns from the training half: how often rules are right, and the weights of a logistic model.

    The penalty and the temperature are those with the least log loss on folds that a model was not fitted on.
    """
    inputs, labels = _examples(prompts)
    unseen = {penalty: _scores_unseen(inputs, labels, penalty) for penalty in _PENALTIES}
    penalty = min(unseen, key=lambda each: _log_loss(unseen[each], labels))
    missing = np.arange(len(labels)) % _COPIES > 0
    temperature = min(_TEMPERATURES, key=lambda each: _log_loss(unseen[penalty][missing] / each, labels[missing]))
    return learn(prompts, penalty, temperature)


def learn(prompts: Sequence[Prompt], penalty: float, temperature: float) -> Weights:
    """Learns with a penalty and a temperature that were found before."""
    fitted = _fit(*_examples(prompts), penalty)
    features = {name: [round(float(weight), 3) for weight in row] for name, row in zip(_NAMES, fitted, strict=True)}
    rates = _rates([prompt for prompt in prompts if not prompt.held_out])
    found = {"penalty": penalty, "temperature": temperature, "rules": rates, "features": features}
    return msgspec.convert(found, Weights)


def _examples(prompts: Sequence[Prompt]) -> tuple[Matrix, Labels]:
    """The features of all copies of the training prompts, and the numbers of their modes."""
    mine = [
        prompt for prompt in prompts if not prompt.held_out and prompt.tools and _rule_of(prompt) not in _ALL_SIMPLE
    ]
    inputs = np.array([copy for prompt in mine for copy in _copies(prompt)])
    return inputs, np.repeat([MODES.index(prompt.mode) for prompt in mine], _COPIES)


_ALL_SIMPLE = ("client_tools", "images", "instructed")
"""Rules for what the features do not show."""


def _copies(prompt: Prompt) -> Iterator[list[float]]:
    """The prompt's features, some of its groups of words left out in each copy but the first."""
    reading = read(prompt.situation)
    draw = random.Random(prompt.text)
    for copy in range(_COPIES):
        kept = {group: count for group, count in reading.groups.items() if copy == 0 or draw.random() >= _MISSED}
        features = msgspec.structs.replace(reading, groups=kept).features
        yield [features.get(name, 0.0) for name in _NAMES]


def _rule_of(prompt: Prompt) -> str:
    rule = matching_rule(prompt.situation, read(prompt.situation))
    return rule.name if rule else ""


def _rates(prompts: Sequence[Prompt]) -> dict[str, float]:
    """How often each rule names the label, as if it had been right nine times in ten before."""
    right, times = Counter[str](), Counter[str]()
    for prompt in prompts:
        if rule := matching_rule(prompt.situation, read(prompt.situation)):
            times[rule.name] += 1
            right[rule.name] += rule.mode == prompt.mode
    return {rule.name: round((right[rule.name] + 9) / (times[rule.name] + 10), 3) for rule in RULES}


def _fit(inputs: Matrix, labels: Labels, penalty: float) -> Matrix:
    """Weights by feature and mode: the minimum of log loss and penalty, by Newton's method."""
    width = inputs.shape[1]
    modes = len(MODES)
    wanted = np.eye(modes)[labels]
    fitted = np.zeros((width, modes))
    for _ in range(30):
        p = _softmax(inputs @ fitted)
        slope = inputs.T @ (p - wanted) / _COPIES + penalty * fitted
        curve = penalty * np.eye(modes * width)
        for i, j in np.ndindex(modes, modes):
            spread = p[:, i] * ((i == j) - p[:, j])
            curve[i * width : (i + 1) * width, j * width : (j + 1) * width] += inputs.T @ (
                inputs * spread[:, None] / _COPIES
            )
        step = np.linalg.solve(curve, slope.T.reshape(-1)).reshape(modes, width).T
        fitted -= step
        if np.abs(step).max() < 1e-6:
            break
    return fitted


def _scores_unseen(inputs: Matrix, labels: Labels, penalty: float) -> Matrix:
    """Scores of every example by a model that was fitted without its fold."""
    folds = np.arange(len(labels)) // _COPIES % _FOLDS
    scores = np.zeros((len(labels), len(MODES)))
    for fold in range(_FOLDS):
        scores[folds == fold] = inputs[folds == fold] @ _fit(inputs[folds != fold], labels[folds != fold], penalty)
    return scores


def _softmax(scores: Matrix) -> Matrix:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Matrix = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _log_loss(scores: Matrix, labels: Labels) -> float:
    return float(-np.log(_softmax(scores)[np.arange(len(labels)), labels]).mean())


def written(learnt: Weights) -> bytes:
    """Weights as they are committed: a line for each feature."""
    rows = ",\n".join(f'    "{name}": {json.dumps(row)}' for name, row in learnt.features.items())
    rules = ",\n".join(f'    "{name}": {share}' for name, share in learnt.rules.items())
    head = f'  "penalty": {learnt.penalty},\n  "temperature": {learnt.temperature},\n'
    return f'{{\n{head}  "rules": {{\n{rules}\n  }},\n  "features": {{\n{rows}\n  }}\n}}\n'.encode()
