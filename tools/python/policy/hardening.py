"""Closes ways past the guards within libraries: pandas finds attributes by names that come from the code."""

import sys
from types import ModuleType
from typing import Any

from tools.python.policy.attributes import get_attribute
from tools.python.policy.formatting import FORMATS, checked_format
from tools.python.policy.modules import admit
from tools.python.policy.names import INSPECTED, special

_FINDERS = (
    "pandas.core.apply",
    "pandas.core.computation.expr",
    "pandas.core.computation.ops",
    "pandas.core.computation.pytables",
    "pandas.core.groupby.generic",
    "pandas.core.groupby.groupby",
    "pandas.core.reshape.pivot",
)
"""Modules with a `getattr(thing, name)` whose name is that of `df.agg("…")`, `df.query("…")` and the like."""


def harden() -> None:
    """Has the libraries that are loaded check the names of attributes which code gives them as text.

    Once in each worker; again does no harm.
    """
    for name in _FINDERS:
        if (module := sys.modules.get(name)) is not None:
            module.__dict__["getattr"] = _checked_getattr


def _checked_getattr(thing: Any, name: str, *default: Any) -> Any:
    if (special(name) and name != "__name__") or name in INSPECTED:
        raise AttributeError(f"the attribute `{name}` is not available here")
    value = getattr(thing, name, *default)
    if name in FORMATS:
        return checked_format(value, get_attribute)
    return admit(value) if isinstance(value, ModuleType) else value
