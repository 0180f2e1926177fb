"""The schema of a tool's arguments, as a stranger has written it, and holding arguments to it."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jsonschema
import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry

from models.backend import InvalidRequest
from models.structured import check_schema
from tools.tool import ToolError, wrong_arguments

LONGEST = 32 * 1024
"""Bytes as JSON: all of them stand in every prompt."""
MOST_STEPS = 20_000
"""Keywords that are looked at for one call: some 0.2 s. In a small schema each level can double it."""


class BadSchema(Exception):
    """A tool's schema cannot be used. The text says why."""


async def checked(schema: Any) -> dict[str, Any]:
    """The schema as a model may be told of it: that of an object, without references to elsewhere.

    Raises:
        BadSchema: it cannot be one.
    """
    if not isinstance(schema, dict):
        raise BadSchema("its schema is not an object")
    told: dict[str, Any] = {"type": "object", "properties": {}, **schema}
    told.pop("$schema", None)
    try:
        if len(msgspec.json.encode(told)) > LONGEST:
            raise BadSchema(f"its schema is longer than {LONGEST:,} bytes")
        if told["type"] != "object" or not isinstance(told["properties"], dict):
            raise BadSchema("its schema is not that of an object")
        await check_schema(told)
    except InvalidRequest as error:
        raise BadSchema(error.message) from error
    except RecursionError as error:
        raise BadSchema("its schema is nested too deeply") from error
    return told


async def check(name: str, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Holds the arguments of a call to a schema that `checked` gave.

    Raises:
        ToolError: they do not fit; the text says where, and what the tool takes.
    """
    if (failure := await asyncio.to_thread(_failure, schema, arguments)) is not None:
        raise ToolError(wrong_arguments(name, failure, schema))


def _failure(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    _steps.set(iter(range(MOST_STEPS)))
    # An empty registry retrieves nothing; without one jsonschema would fetch remote references.
    validator = _Validator(schema, registry=Registry())
    try:
        error = next(validator.iter_errors(arguments), None)
    except (_TooManySteps, RecursionError):
        # Nothing is known against them, and the server checks them, too.
        return None
    return f"{error.json_path}: {error.message[:300]}" if error else None


class _TooManySteps(Exception):
    """The schema's keywords have been looked at too often."""


_steps: ContextVar[Iterator[int]] = ContextVar("steps")
"""What is left of the steps for the call that is being checked."""


def _counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def check(*arguments: Any) -> Any:
        if next(_steps.get(), None) is None:
            raise _TooManySteps
        return keyword(*arguments)

    return check


# Python's `re` backtracks: a pattern of a stranger could run for hours. The server holds to patterns by itself.
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()} | {"pattern": None},
)
