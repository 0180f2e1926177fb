"""What tokens may come next, so that the answer follows a JSON Schema or is a tool call. The work is llguidance's."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy
from llama_cpp import llama_vocab_p
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from models.backend import InvalidRequest, JsonOutput, ModelRequest, NamedTool, ToolSpec
from models.llama_cpp.families import Family
from models.llama_cpp.sampling import Constraint
from models.llama_cpp.vocabulary import Vocabulary

_COMPACT = {"whitespace_flexible": False}
_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As models are trained to write calls."""
_NOTHING: dict[str, Any] = {"properties": {}, "additionalProperties": False}


_LONGEST_REASON = 300
_LISTING = re.compile(r"\n\s*1 \| ")


class GrammarFailed(Exception):
    """A grammar became too costly while an answer was written."""


class _Matched:
    """A Constraint: the state of a grammar after the tokens so far."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def apply(self, logits: NDArray[numpy.float32]) -> None:
        """Makes tokens impossible that the grammar does not allow next."""
        mask = numpy.frombuffer(self._matcher.compute_bitmask(), numpy.uint8)
        self._check()
        allowed = numpy.unpackbits(mask, count=len(logits), bitorder="little")
        logits[allowed == 0] = -numpy.inf

    def accept(self, token: int) -> None:
        """Goes on by one token."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> Sequence[int]:
        """The tokens that must come next, as far as there is no choice."""
        return cast(Sequence[int], self._matcher.compute_ff_tokens())

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarFailed(_reason(self._matcher.get_error()))


class Grammars:
    """Makes constraints for one vocabulary. Large vocabularies take about a second to prepare, once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer: LLTokenizer = lltokenizer_from_vocab(
            cast(llama_vocab_p, vocabulary.pointer), eos_token=vocabulary.ends
        )

    def constraint(self, request: ModelRequest, family: Family) -> Constraint | None:
        """What a request demands of its answer; None for free text."""
        if request.tools and request.tool_choice != "auto":
            return self._matcher(["start: calls", *self._calls(request, family)], "tools")
        if request.output and request.tools:
            rules = ["start: calls | json", *self._calls(request, family), _json_rule(request.output)]
            return self._matcher(rules, "response_format")
        if request.output:
            return self._matcher(["start: json", _json_rule(request.output)], "response_format")
        return None

    def _calls(self, request: ModelRequest, family: Family) -> list[str]:
        tools = _choice(request)
        opening, closing = (self._mark(mark) for mark in (family.call_opening, family.call_closing))
        again = f' ("\\n" {opening} "\\n" call "\\n" {closing})*' if request.parallel_tool_calls else ""
        return [
            f'calls: {opening} "\\n" call "\\n" {closing}{again}',
            "call: " + " | ".join(f"call_{index}" for index in range(len(tools))),
            *(f"call_{index}: {_call_rule(tool, family)}" for index, tool in enumerate(tools)),
        ]

    def _mark(self, text: str) -> str:
        """A tag as the grammar has it: the token of that name where there is one, otherwise its letters."""
        tokens = self._tokenizer.tokenize_str(text, parse_special=True)
        special = len(tokens) == 1 and self._tokenizer.is_special_token(tokens[0])
        return text if special else json.dumps(text)

    def _matcher(self, rules: Sequence[str], param: str) -> Constraint:
        grammar = LLMatcher.grammar_from_lark("\n".join(rules))
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"The schema cannot be enforced: {_reason(matcher.get_error())}", param)
        return _Matched(matcher)


@lru_cache(maxsize=1)
def grammars(vocabulary: Vocabulary) -> Grammars:
    """The grammars of the process's vocabulary."""
    return Grammars(vocabulary)


def _choice(request: ModelRequest) -> list[ToolSpec]:
    if not isinstance(request.tool_choice, NamedTool):
        return list(request.tools)
    chosen = [tool for tool in request.tools if tool.name == request.tool_choice.name]
    if not chosen:
        raise InvalidRequest(f"There is no tool `{request.tool_choice.name}` in tools.", "tool_choice")
    return chosen


def _call_rule(tool: ToolSpec, family: Family) -> str:
    before, after = (json.dumps(text) for text in family.call_frame(tool.name))
    return f"{before} {_json({'type': 'object', **(tool.parameters or _NOTHING)}, _SPACED)} {after}"


def _json_rule(output: JsonOutput) -> str:
    return f"json: {_json({'type': 'object'} if output.schema is None else output.schema, _COMPACT)}"


def _json(schema: dict[str, Any], style: dict[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': style})}"


def _reason(error: str) -> str:
    """What llguidance says, without the grammar that we wrote around the schema."""
    said = error.rpartition("failed to compile JSON schema: ")[2]
    return " ".join(_LISTING.split(said)[0].split())[:_LONGEST_REASON]
