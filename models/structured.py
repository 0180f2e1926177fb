"""JSON that must keep to a schema: checking the schema, and holding an answer to it."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

import jsonschema
import msgspec
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry
from referencing._core import Resolver
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from models.backend import BackendFailed, InvalidRequest, JsonOutput
from models.messages import Delta

PARAM = "response_format"

LONGEST_SCHEMA = 128 * 1024
"""Bytes as JSON; OpenAI's own limit is 120,000 characters."""
MOST_STEPS = 100_000
"""Keywords that are looked at for one answer: a second's work. In a small schema each level can double it."""

_NAMED_SCHEMAS = ("properties", "$defs", "definitions", "dependentSchemas")
_LISTED_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE_SCHEMAS = (
    *("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)


async def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuses what is not a JSON Schema, or one that answers cannot safely be held to.

    Raises:
        InvalidRequest: why not.
    """
    await asyncio.to_thread(_validator, msgspec.json.encode(schema))


async def conforming(deltas: AsyncIterator[Delta], output: JsonOutput) -> AsyncIterator[Delta]:
    """The same answer without a Markdown fence around it; fails at its end if it is not what `output` asks for."""
    fence = Unfenced()
    answer: list[str] = []
    # Backends' streams are generators, though the protocol promises less.
    async with aclosing(cast(AsyncGenerator[Delta, None], deltas)):
        async for delta in deltas:
            text = fence.feed(delta.text) if delta.text else ""
            if delta.finish is not None:
                text += fence.rest()
            if text:
                answer.append(text)
            if delta.finish == "stop":
                await asyncio.to_thread(_check, "".join(answer), output)
            if text != delta.text:
                delta = msgspec.structs.replace(delta, text=text)
            if delta != Delta():
                yield delta


class Unfenced:
    """Takes one Markdown code fence off a text that comes in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._fenced = False

    def feed(self, text: str) -> str:
        """What is sure to belong to the inside."""
        self._held += text
        if not self._begun and not self._begin():
            return ""
        # JSON strings hold no raw line break, so backticks at the very end can only be the closing fence.
        end = _TAIL.search(self._held) if self._fenced else None
        inside = self._held[: end.start()] if end else self._held
        self._held = self._held[len(inside) :]
        return inside

    def rest(self) -> str:
        """What was held back, without the closing fence."""
        return "" if self._fenced else self._held

    def _begin(self) -> bool:
        """Decides whether the text opens with a fence; False as long as that cannot be told."""
        if _UNDECIDED.fullmatch(self._held):
            return False
        if opening := _OPENING.match(self._held):
            self._fenced = True
            self._held = self._held[opening.end() :]
        self._begun = True
        return True


_UNDECIDED = re.compile(r"\s*(`{0,2}|```[\w+-]*[ \t]*\r?)")
_OPENING = re.compile(r"\s*```[\w+-]*[ \t]*\r?\n?")
_TAIL = re.compile(r"[\s`]+\Z")


def _check(text: str, output: JsonOutput) -> None:
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BackendFailed(f"The model's answer does not match response_format: it is not JSON ({error}).") from error
    if output.schema is None:
        if not isinstance(answer, dict):
            raise BackendFailed("The model's answer does not match response_format: it is not a JSON object.")
        return
    validator = _validator(msgspec.json.encode(output.schema))
    _steps.set(iter(range(MOST_STEPS)))
    try:
        failure = next(validator.iter_errors(answer), None)
    except RecursionError as error:
        raise InvalidRequest("Invalid schema: it refers to itself without an end.", PARAM) from error
    except _TooManySteps as error:
        raise InvalidRequest("Invalid schema: it takes too long to hold the answer to it.", PARAM) from error
    if failure is not None:
        raise BackendFailed(
            f"The model's answer does not match response_format: {failure.json_path}: {failure.message[:300]}"
        )


class _TooManySteps(Exception):
    """The schema's keywords have been looked at too often."""


_steps: ContextVar[Iterator[int]] = ContextVar("steps")
"""What is left of the steps for the answer that is being checked."""


def _counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def check(*arguments: Any) -> Any:
        if next(_steps.get(), None) is None:
            raise _TooManySteps
        return keyword(*arguments)

    return check


# Python's `re` backtracks: a caller's pattern could run for hours. The decoders keep to patterns by themselves, so here
# they are left out; patternProperties, without which other keywords change, is refused.
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()} | {"pattern": None},
)


@lru_cache(maxsize=256)
def _validator(encoded: bytes) -> Validator:
    if len(encoded) > LONGEST_SCHEMA:
        raise InvalidRequest(f"Invalid schema: it is longer than {LONGEST_SCHEMA:,} bytes.", PARAM)
    schema = msgspec.json.decode(encoded)
    try:
        Draft202012Validator.check_schema(schema)
        resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        parts = list(_subschemas(schema))
        known = {id(part) for part in parts}
        for part in parts:
            _check_references(part, known, resolver)
    except jsonschema.SchemaError as error:
        raise InvalidRequest(f"Invalid schema: {error.json_path}: {error.message[:300]}", PARAM) from error
    except Unresolvable as error:
        raise InvalidRequest(f"Invalid schema: {error.ref!r} is not a reference within the schema.", PARAM) from error
    except RecursionError as error:
        raise InvalidRequest("Invalid schema: it is nested too deeply.", PARAM) from error
    if any("patternProperties" in part for part in parts):
        raise InvalidRequest("Invalid schema: patternProperties is not supported.", PARAM)
    # An empty registry retrieves nothing; without one jsonschema would fetch remote references.
    return cast(Validator, _Validator(schema, registry=Registry()))


def _check_references(part: Mapping[str, Any], known: Collection[int], resolver: Resolver[Any]) -> None:
    """Refuses references to what is not here, and to places that hold no schema, which nobody has checked."""
    for keyword in ("$ref", "$dynamicRef"):
        if keyword not in part:
            continue
        target = resolver.lookup(part[keyword]).contents
        if isinstance(target, dict) and id(target) not in known:
            raise InvalidRequest(f"Invalid schema: there is no schema at {part[keyword]!r}.", PARAM)


def _subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas within it."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner = [schema[key] for key in _SINGLE_SCHEMAS if key in schema]
    inner += [part for key in _LISTED_SCHEMAS for part in schema.get(key, ())]
    inner += [part for key in _NAMED_SCHEMAS for part in schema.get(key, {}).values()]
    for part in inner:
        yield from _subschemas(part)
