"""How long a model stays loaded, as requests and settings write it: seconds, or a duration such as `1h30m`."""

import math
import re

_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d+)?(?:ms|s|m|h))+|\d+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str | float) -> float:
    """A duration in seconds; one below zero is for ever (infinity), as Ollama has it.

    Raises:
        ValueError: it is neither a number nor a duration.
    """
    if not isinstance(duration, str):
        return float(duration) if duration >= 0 else math.inf
    if (match := _DURATION.fullmatch(duration)) is None:
        raise ValueError("must be seconds, or a duration such as '5m'")
    if match[1]:
        return math.inf
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match[2]))
