"""A tool: a typed function that a model may call. Name, schema and the check of arguments come from its signature.

@tool
async def weather(session: Session, city: str, days: Annotated[int, Meta(ge=1, le=7)] = 1) -> str:
    '''Tells the weather.

    Args:
        city: the city's name.
        days: how many days ahead.
    '''

A function takes the session, if it wants it, as its first argument. It returns text, an `Output` with files, or a value
that becomes JSON; it raises ToolError for what the model should read. A tool never sees the request.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct

from models.backend import ToolSpec
from tools.session import Session


class ToolError(Exception):
    """A tool could not do it. The text is for the model: what went wrong, and what to do instead."""


class Output(Struct, frozen=True):
    """What a tool gives back: text, and the files in the working folder that it made or changed."""

    text: str
    files: tuple[str, ...] = ()
    error: str | None = None
    """Set where it failed halfway: what it gave until then still counts."""


def _always() -> None:
    return None


class Tool(Struct, frozen=True):
    """A function that a model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments object."""
    call: Callable[[Session, Mapping[str, Any]], Awaitable[Any]]
    """Checks the arguments and runs it. Raises ToolError for wrong arguments, in words a model can act on."""
    timeout: float | None = None
    """Seconds that a call may take; None: what the toolbox allows."""
    unavailable: Callable[[], str | None] = _always
    """Why it cannot be used now, for people and models; None where it can."""

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model is told of it."""
        return ToolSpec(called(self.name), self.description, self.parameters)


def called(name: str) -> str:
    """A tool's name as models write it: OpenAI allows no dots in it, so `server.tool` is `server__tool`."""
    return name.replace(".", "__")


def tool(
    function: Callable[..., Awaitable[Any]],
    *,
    name: str | None = None,
    timeout: float | None = None,
    unavailable: Callable[[], str | None] = _always,
) -> Tool:
    """The tool that a function is.

    Args:
        function: a coroutine function, or a bound one. Its docstring's text is the description; a section `Args:` tells
            of the parameters. Their types are what msgspec can decode, with `Annotated[…, Meta(…)]` for limits.
        name: instead of the function's.
        timeout: seconds that a call may take; None: what the toolbox allows.
        unavailable: tells why it cannot be used now.

    Raises:
        TypeError: the function is not one that can be a tool.
    """
    title = name or str(getattr(function, "__name__", ""))
    description, told = _read_docstring(inspect.getdoc(function) or "")
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    wants_session = bool(parameters) and hints.get(parameters[0].name) is Session
    fields = [_field(parameter, hints, told, title) for parameter in parameters[wants_session:]]
    arguments = msgspec.defstruct(title, fields, forbid_unknown_fields=True, kw_only=True)
    schema = _schema(arguments)

    async def call(session: Session, given: Mapping[str, Any]) -> Any:
        checked = _checked(title, arguments, schema, given)
        values = {key: value for key in arguments.__struct_fields__ if (value := getattr(checked, key)) is not UNSET}
        return await (function(session, **values) if wants_session else function(**values))

    return Tool(title, description, schema, call, timeout, unavailable)


def _field(
    parameter: inspect.Parameter, hints: dict[str, Any], told: dict[str, str], title: str
) -> tuple[str, Any] | tuple[str, Any, Any]:
    if parameter.name not in hints or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"{title}: the parameter {parameter.name!r} has no type, or stands for several")
    hint = hints[parameter.name]
    if text := told.get(parameter.name):
        hint = Annotated[hint, Meta(description=text)]
    if parameter.default is parameter.empty:
        return parameter.name, hint
    return parameter.name, hint, parameter.default


def _schema(arguments: type[Struct]) -> dict[str, Any]:
    """The schema of the arguments object, flat and without the noise that small models stumble over."""
    (schema,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    schema = components.pop(arguments.__name__) if "$ref" in schema else schema
    schema.pop("title", None)
    schema["additionalProperties"] = False
    return {**schema, "$defs": components} if components else schema


_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Note|Example):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description without its sections, and what the section `Args` tells of each parameter."""
    pieces = _SECTION.split(text)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    arguments = {name: " ".join(told.split()) for name, told in _ARGUMENT.findall(sections.get("Args", ""))}
    return pieces[0].strip(), arguments


def _checked(title: str, arguments: type[Struct], schema: dict[str, Any], given: Mapping[str, Any]) -> Struct:
    """The arguments as their types.

    Only coercions that lose nothing: "3" for 3, 3.0 for 3, "true" for true, 7 for "7", a list or object as JSON text.

    Raises:
        ToolError: they are wrong; the text says where, and what the tool takes.
    """
    properties = schema.get("properties", {})
    fitted = {key: _fit(value, properties.get(key, {})) for key, value in given.items()}
    try:
        return msgspec.convert(fitted, arguments, strict=False)
    except msgspec.ValidationError as error:
        raise ToolError(wrong_arguments(title, str(error).replace("`$.", "`"), schema)) from None


def _fit(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value brought to what its schema wants, where that loses nothing and msgspec does not do so itself."""
    wanted = _types(schema)
    if isinstance(value, str) and wanted & {"array", "object"} and "string" not in wanted:
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool) and wanted - {"null"} == {"string"}:
        return str(value)
    return value


def wrong_arguments(title: str, reason: str, schema: Mapping[str, Any]) -> str:
    """What a model is told of arguments that do not fit: why, and what the tool takes."""
    required = schema.get("required", ())
    takes = [
        f"{name} ({_type_name(property)}, {'required' if name in required else 'optional'})"
        for name, property in schema.get("properties", {}).items()
    ]
    return f"Wrong arguments for {title}: {reason}. It takes {', '.join(takes) or 'no arguments'}."


def _type_name(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    return " or ".join(sorted(_types(schema) - {"null"})) or "any"


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The names of the types that a value may have; a named schema is that of an object."""
    options = [schema, *schema.get("anyOf", ())]
    return {"object" if "$ref" in option else option["type"] for option in options if {"$ref", "type"} & option.keys()}
