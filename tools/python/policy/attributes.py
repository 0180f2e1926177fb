"""How restricted code reads and writes attributes: `a.b` is `_getattr_(a, "b")`, `a.b = c` is `_write_(a, "b").b = c`.

Its own classes and functions are those whose `__module__` is `__main__`: only their attributes may begin with an
underscore, and only they can be changed. No attribute gives a module that cannot be imported.
"""

import types
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any, NoReturn, Union

from tools.python.policy.formatting import FORMATS, checked_format
from tools.python.policy.modules import Facade, admit, stand_in
from tools.python.policy.names import METHODS, PUBLIC, SETTABLE, refused_attribute, refused_name, special

_MISSING = object()
_OWNED = (type, types.FunctionType)
_DEFINITIONS = (*_OWNED, types.BuiltinFunctionType)
_PLAIN = frozenset((bool, bytes, complex, float, int, list, set, str, tuple, types.MethodType, types.NoneType))
"""Kinds of values that code gets as they are, whatever attribute they are of. Not dict, which `__dict__` is."""
_UNGUARDED = frozenset((compile, delattr, eval, exec, getattr, globals, locals, open, setattr, vars, __import__))
"""Built-in functions of which restricted code gets versions of its own, or none; some modules name them too."""
_OWN_ONLY = "only attributes of your own classes may begin with an underscore"


def get_attribute(thing: Any, name: str, *default: Any) -> Any:
    """getattr() as code may.

    Raises:
        AttributeError: there is no such attribute, or code may not read it.
    """
    if type(name) is not str:
        raise TypeError("attribute name must be string")
    if isinstance(thing, types.ModuleType):
        thing = admit(thing)
    try:
        if (check := _check(name)) is not None:
            check(thing, name)
        value = getattr(thing, name)
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is types.BuiltinMethodType and type(value.__self__) is not types.ModuleType and name not in FORMATS:
            return value
        return _checked(thing, name, value)
    except AttributeError:
        if default:
            return default[0]
        raise


@lru_cache(maxsize=4096)
def _check(name: str) -> Callable[[Any, str], None] | None:
    """What raises AttributeError where an attribute of this name may not be read; None: it may, of whatever it is."""
    if refused_attribute(name):
        return _refuse
    if name.startswith("_") and not special(name) and name not in PUBLIC:
        return _check_private
    return _check_error if name == "obj" else None


def _refuse(thing: Any, name: str) -> None:
    raise AttributeError(refused_attribute(name))


def _check_private(thing: Any, name: str) -> None:
    if not is_own(thing):
        raise AttributeError(f"`{name}` is private: {_OWN_ONLY}")


def _check_error(thing: Any, name: str) -> None:
    if isinstance(thing, AttributeError):
        raise AttributeError("the attribute `obj` of an exception is not available")


def _checked(thing: Any, name: str, value: Any) -> Any:
    """What code gets for the value of an attribute."""
    if isinstance(value, types.ModuleType):
        return admit(value)
    if isinstance(value, _DEFINITIONS):
        value = stand_in(value)
        if value in _UNGUARDED:
            raise AttributeError(f"`{name}` is not available here")
    if name in FORMATS:
        return checked_format(value, get_attribute)
    if name in ("__setattr__", "__delattr__"):
        return _checked_setter(value)
    if name == "__dict__":
        return attributes(thing)
    if name == "__annotations__":
        return dict(value)
    return kind_of(value) if isinstance(value, type) and issubclass(value, type) else value


def is_own(thing: Any) -> bool:
    """Whether a class or function, or the class of an object, was made by the code itself."""
    if isinstance(thing, super):
        thing = thing.__self_class__  # type: ignore[attr-defined]
    elif not isinstance(thing, _OWNED):
        thing = type(thing)
    return bool(thing.__module__ == "__main__")


def check_write(thing: Any, name: str) -> Any:
    """Gives `thing` back, if code may set or delete its attribute `name`.

    Raises:
        AttributeError: it may not.
    """
    if type(name) is not str:
        raise TypeError("attribute name must be string")
    if type(thing).__module__ == "__main__" and not name.startswith("_"):
        return thing
    definition = isinstance(thing, _OWNED)
    if isinstance(thing, types.ModuleType) and not (isinstance(thing, Facade) and name in thing.settable):
        raise AttributeError(f"{thing.__name__}.{name} cannot be set: modules cannot be changed")
    if definition and not is_own(thing):
        raise AttributeError(
            f"{thing.__name__}.{name} cannot be set: only your own functions and classes can be changed"
        )
    if special(name) and not (definition and (name in SETTABLE or name in METHODS)):
        raise AttributeError(f"`{name}` cannot be set")
    if name.startswith("_") and not special(name):
        _check_private(thing, name)
    return thing


def check_update(thing: Any, name: str) -> Any:
    """The same for `thing.name += …`, which reads it too."""
    value = get_attribute(thing, name)
    if type(value) not in _PLAIN and type(value) is not type(getattr(thing, name)):
        raise AttributeError(f"`{name}` cannot be changed")
    return check_write(thing, name)


def is_plain(thing: Any, name: str) -> bool:
    """Whether an attribute is there, and is for code what it is for the language, which reads it by itself."""
    missing = object()
    value = get_attribute(thing, name, missing)
    return not special(name) and value is not missing and type(value) is type(getattr(thing, name, missing))


def set_attribute(thing: Any, name: str, value: Any) -> None:
    """setattr() as code may."""
    setattr(check_write(thing, name), name, value)


def delete_attribute(thing: Any, name: str) -> None:
    """delattr() as code may."""
    delattr(check_write(thing, name), name)


def has_attribute(thing: Any, name: str) -> bool:
    """hasattr() as code may."""
    return get_attribute(thing, name, _MISSING) is not _MISSING


class Variables(dict[str, Any]):
    """A view of variables or attributes: what is read is a copy, what is written is checked first.

    Args:
        real: where they are.
        shows: whether a name is to be seen.
        check: raises where a name may not be written.
    """

    def __init__(
        self, real: MutableMapping[str, Any], shows: Callable[[str], bool], check: Callable[[str], Any]
    ) -> None:
        super().__init__({name: value for name, value in real.items() if shows(name)})
        self._real = real
        self._check = check

    def __setitem__(self, name: str, value: Any) -> None:
        self._check(name)
        self._real[name] = value
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._check(name)
        del self._real[name]
        super().__delitem__(name)

    def update(self, *others: Any, **values: Any) -> None:
        """Like a dict's."""
        for name, value in dict(*others, **values).items():
            self[name] = value

    def setdefault(self, name: str, value: Any = None) -> Any:
        """Like a dict's."""
        if name not in self:
            self[name] = value
        return self[name]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this cannot be done here: use del, or setattr()")

    __ior__ = pop = popitem = clear = _refuse


def attributes(thing: Any) -> dict[str, Any]:
    """vars() as code may: without what is private of others, and to be changed only where it is the code's own."""
    if isinstance(thing, types.ModuleType) or not hasattr(thing, "__dict__"):
        raise TypeError("vars() argument must have attributes of its own")
    own, real = is_own(thing), vars(thing)

    def shows(name: str) -> bool:
        return not special(name) and (own or not name.startswith("_"))

    if not own or isinstance(thing, type):
        missing = object()
        checked = {name: get_attribute(thing, name, missing) for name in real if shows(name)}
        return {name: value for name, value in checked.items() if value is not missing}
    return Variables(real, shows, lambda name: check_write(thing, name))


class Kind:
    """Stands for `type`, or another class of classes: tells what something is, makes classes of checked names only."""

    def __init__(self, real: type) -> None:
        self._real = real
        self.__name__ = self.__qualname__ = real.__name__
        self.__doc__ = real.__doc__

    def __call__(self, *given: Any, **options: Any) -> Any:
        if len(given) == 1 and not options:
            return kind_of(type(given[0]))
        name, bases, namespace = given
        members = dict(namespace)
        for each in members:
            check_class_name(each)
        return self._real(name, bases, members | {"__module__": "__main__"}, **options)

    def __instancecheck__(self, thing: Any) -> bool:
        return isinstance(thing, self._real)

    def __subclasscheck__(self, kind: Any) -> bool:
        return issubclass(kind, self._real)

    def __getitem__(self, argument: Any) -> Any:
        return types.GenericAlias(self, argument)  # type: ignore[arg-type]

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007 - it is no type

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __repr__(self) -> str:
        return repr(self._real)

    def __mro_entries__(self, _: Any) -> NoReturn:
        raise TypeError("classes of classes cannot be made here: use a class decorator, or __init_subclass__")

    def mro(self) -> list[Any]:
        """Like the real one's."""
        return [self, object]


_kinds: dict[type, Kind] = {}


def kind_of(kind: type) -> Any:
    """A class as code may have it: itself, unless it is one of classes."""
    if not issubclass(kind, type):
        return kind
    if kind not in _kinds:
        _kinds[kind] = Kind(kind)
    return _kinds[kind]


def metaclass(kind: Any) -> type:
    """The `metaclass` of a class statement.

    Raises:
        TypeError: it is not one of the language's or a library's.
    """
    if not isinstance(kind, Kind):
        raise TypeError(
            "a metaclass must be one of the standard library's: use a class decorator, or __init_subclass__"
        )
    return kind._real


def check_class_name(name: str) -> None:
    """Raises AttributeError where a class may not have an attribute of this name."""
    if type(name) is not str or (reason := refused_name(name)):
        raise AttributeError(reason)


def plain_names(method: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """The decorator of a `__getattr__`: it is not asked for special names, from which libraries take orders."""

    def checked(self: Any, name: str) -> Any:
        if special(name):
            raise AttributeError(name)
        return method(self, name)

    return checked


def _checked_setter(setter: Any) -> Any:
    """`object.__setattr__` or `super().__setattr__`, or the same of `__delattr__`, checked.

    A method of the code's own is checked where it writes.
    """
    if isinstance(setter, types.MethodWrapperType):
        owner = setter.__self__
        return lambda name, *value: (check_write(owner, name), setter(name, *value))[1]
    if isinstance(setter, types.WrapperDescriptorType):
        return lambda thing, name, *value: setter(check_write(thing, name), name, *value)
    return setter
