"""match statements: the language reads `case a.B` and `case C(x=y)` by itself; here it reads them as code may.

`case Color.RED | Point(x=0):` becomes `case _tmp0.p0 | _tmp0.p1(x=0):`, where `_tmp0` knows how to find the two.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tools.python.policy.attributes import is_plain

_SELF_MATCHED = (bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)
"""Classes whose one positional pattern is the value itself (the language reference, "Class Patterns")."""


class Lookups:
    """Finds the values of a match statement's dotted names and classes, each when its case is tried."""

    def __init__(self, **find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return self._find[name]()


def class_pattern(kind: Any, count: int, names: tuple[str, ...]) -> Any:
    """A class as a class pattern may use it: an object that has an attribute which code may not read does not match.

    Args:
        kind: the class.
        count: positional patterns.
        names: of keyword patterns.
    """
    if not isinstance(kind, type) or (
        not names and issubclass(kind, _SELF_MATCHED) and not hasattr(kind, "__match_args__")
    ):
        return kind
    return _checked(kind, (*getattr(kind, "__match_args__", ())[:count], *names))


class _Checked(type):
    real: type
    names: tuple[str, ...]

    def __instancecheck__(cls, subject: Any) -> bool:
        if not isinstance(subject, cls.real):
            return False
        return all(is_plain(subject, name) for name in cls.names)


@lru_cache(maxsize=256)
def _checked(kind: type, names: tuple[str, ...]) -> type:
    positional = {"__match_args__": kind.__match_args__} if hasattr(kind, "__match_args__") else {}
    return _Checked(kind.__name__, (), {"real": kind, "names": names, **positional})
