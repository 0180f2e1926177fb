"""Which names restricted code may bind and read, and why it may not where it may not."""

# ruff: noqa: SIM905 - long lists of words read best as text

import re
from typing import Final

from RestrictedPython.transformer import INSPECT_ATTRIBUTES

INSPECTED: Final = INSPECT_ATTRIBUTES
"""Attributes of frames, tracebacks, generators and code."""

METHODS: Final = frozenset(
    """
    __init__ __new__ __post_init__ __init_subclass__ __class_getitem__ __set_name__ __get__ __set__ __delete__
    __setattr__ __delattr__ __dir__ __call__ __enter__ __exit__ __repr__ __str__ __bytes__ __format__
    __fspath__ __hash__ __bool__ __len__ __length_hint__ __iter__ __next__ __reversed__ __contains__ __getitem__
    __setitem__ __delitem__ __missing__ __copy__ __deepcopy__ __sizeof__ __int__ __float__ __complex__ __index__
    __round__ __trunc__ __floor__ __ceil__ __abs__ __neg__ __pos__ __invert__ __divmod__ __rdivmod__
    __lt__ __le__ __eq__ __ne__ __gt__ __ge__
    __add__ __sub__ __mul__ __matmul__ __truediv__ __floordiv__ __mod__ __pow__ __lshift__ __rshift__ __and__ __or__
    __xor__ __radd__ __rsub__ __rmul__ __rmatmul__ __rtruediv__ __rfloordiv__ __rmod__ __rpow__ __rlshift__
    __rrshift__ __rand__ __ror__ __rxor__ __iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __ifloordiv__ __imod__
    __ipow__ __ilshift__ __irshift__ __iand__ __ior__ __ixor__
    """.split()
)
"""Special methods that a class may define. Left out are those that libraries take orders from: `__reduce__`,
`__array_interface__`, `__getattribute__`, …, and `__del__`, which runs at any time."""

IN_CLASSES: Final = frozenset(
    "__slots__ __match_args__ _missing_ _generate_next_value_ _ignore_ _order_ _value_ _repr_html_".split()
)
"""Other special names that a class may define: the language's, enum's, and notebooks'."""

VARIABLES: Final = frozenset(("__name__", "__doc__", "__debug__"))
"""Special names that code may read as variables."""

ATTRIBUTES: Final = frozenset(
    "__name__ __qualname__ __doc__ __module__ __version__ __class__ __dict__ __annotations__ __mro__ __bases__ "
    "__members__ __cause__ __context__ __notes__".split()
)
"""Special attributes that are no methods and that code may read."""

SETTABLE: Final = frozenset(("__name__", "__qualname__", "__doc__"))
"""Special attributes that code may set on its own functions and classes."""

PUBLIC: Final = frozenset(("_asdict", "_fields", "_field_defaults", "_make", "_replace", "_repr_html_", "_value_"))
"""Documented attributes of library objects that begin with an underscore all the same."""

_UNREADABLE = METHODS & frozenset("__get__ __set__ __delete__ __set_name__ __class_getitem__ __dir__".split())
"""What classes may define, and what only the language itself calls."""

_LEADS_OUT = frozenset(("ctypes", "from_address", "from_buffer", "from_custom_template"))
"""Attributes of arrays and of pandas' styles that lead to addresses in memory, and to templates that run code."""

_HINTS = {
    "__builtins__": "write the name of the built-in function itself",
    "__del__": "write a context manager, or call the clean-up yourself",
    "__getattr__": "define it by a `def` in the class",
    "__file__": "code runs without a file; relative paths start in the working folder",
    "__getattribute__": "define properties, or __getattr__",
    "__import__": "write an import statement",
    "__metaclass__": "a class of its own behaviour can have a decorator",
    "__traceback__": "traceback.format_exc() gives it as text",
    "__reduce__": "keep data as JSON or CSV",
}

_RESERVED = re.compile(r"_(?:\w*[^_])?_|_tmp\d+")
"""What RestrictedPython and this package name their guards and their temporary variables."""


def special(name: str) -> bool:
    """Whether the language gives `name` its meaning: `__like_this__`."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def refused_name(name: str, *, reads: bool = False) -> str | None:
    """Why code may not use `name` as that of a variable, function, class or parameter; None: it may.

    Args:
        name: the identifier.
        reads: whether it is only read.
    """
    if name in METHODS or name in IN_CLASSES or (reads and name in VARIABLES) or not name.strip("_"):
        return None
    if special(name):
        return _told(name, "a reserved name")
    return f"`{name}` is a reserved name: choose another one" if _RESERVED.fullmatch(name) else None


def refused_attribute(name: str) -> str | None:
    """Why no code may use the attribute `name`, whatever it is of; None: it depends."""
    if name in INSPECTED:
        return f"the attribute `{name}` is not available: code cannot look into frames"
    if name in _LEADS_OUT:
        return f"the attribute `{name}` is not available"
    if special(name) and (name in _UNREADABLE or name not in METHODS | ATTRIBUTES | IN_CLASSES):
        return _told(name, "not available")
    return None


def _told(name: str, what: str) -> str:
    return f"`{name}` is {what}" + (f": {hint}" if (hint := _HINTS.get(name)) else "")
