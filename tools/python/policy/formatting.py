"""str.format() for restricted code: `"{0.name}"` reads an attribute, and does it as code may."""

import _string  # type: ignore[import-not-found] # as the module string does; typeshed does not know it
import string
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FORMATS = ("format", "format_map")

Get = Callable[[Any, str], Any]
"""Reads an attribute as code may."""


def checked_format(method: Any, get: Get) -> Any:
    """The value of an attribute `format` or `format_map`: where it is str's, one that reads attributes by `get`."""
    if isinstance(method, types.BuiltinMethodType) and isinstance(method.__self__, str):
        return method if _is_plain(method.__self__) else _bound(method.__name__, method.__self__, get)
    if method is str.format or method is str.format_map:
        return lambda text, *args, **values: _bound(method.__name__, text, get)(*args, **values)
    return method


def _bound(name: str, text: str, get: Get) -> Callable[..., str]:
    formatter = _Formatter(get)
    if name == "format":
        return lambda *args, **values: formatter.vformat(text, args, values)
    return lambda values: formatter.vformat(text, (), values)


def _is_plain(template: str) -> bool:
    """Whether a template reads no attribute, nor has a field within a field. A wrong one is left to str itself."""
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return True
    return not any("." in name or "[" in name or "{" in (spec or "") for name, spec in fields)


class _Formatter(string.Formatter):
    def __init__(self, get: Get) -> None:
        self._get = get

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        first, rest = _string.formatter_field_name_split(field_name)
        value = self.get_value(first, args, kwargs)
        for is_attribute, key in rest:
            value = self._get(value, key) if is_attribute else value[key]
        return value, first
