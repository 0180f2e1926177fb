"""What tokens may come next, so that the answer follows a JSON Schema or is a tool call. The work is llguidance's."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy
from llama_cpp import llama_vocab_p
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from models.backend import InvalidRequest, JsonOutput, ModelRequest, NamedTool, TextOutput, ToolSpec
from models.llama_cpp.families import Family
from models.llama_cpp.rules import Rules, quoted
from models.llama_cpp.sampling import Constraint
from models.llama_cpp.vocabulary import Vocabulary

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

    def constraint(self, request: ModelRequest, family: Family, *, thinking: bool = False) -> Constraint | None:
        """What a request demands of its answer, thoughts apart; None for free text.

        With `thinking` the prompt has begun a thought.
        """
        form, many = family.form, request.parallel_tool_calls
        rules = Rules(family.marks, self._special, () if _is_shaped(request) else form.openings)
        if request.tools and request.tool_choice != "auto":
            answer, param = form.rule(rules, _choice(request), many), "tools"
        elif request.output:
            answer, param = _output_rule(rules, request.output, family), "response_format"
            if request.tools:
                answer = rules.any_of(form.rule(rules, request.tools, many), answer)
        elif request.text_output:
            answer, param = _text_rule(rules, request.text_output, family), "structured_outputs"
            if request.tools:
                answer = rules.any_of(form.rule(rules, request.tools, many), answer)
        elif any(tool.strict for tool in request.tools) and not form.bare:
            # Text is free, but a call that begins must have arguments that the schema allows.
            answer, param = f"({form.rule(rules, request.tools, many)})* {rules.free_text()}", "tools"
        else:
            return None
        return self._matcher(rules.lark(family.start(rules, answer, thinking=thinking)), param)

    def _special(self, name: str) -> int | None:
        """The control token of this name."""
        tokens = self._tokenizer.tokenize_str(name, parse_special=True)
        return tokens[0] if len(tokens) == 1 and self._tokenizer.is_special_token(tokens[0]) else None

    def _matcher(self, rules: str, param: str) -> Constraint:
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(rules), log_level=0)
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


def _is_shaped(request: ModelRequest) -> bool:
    """Whether a request demands a form of the whole answer."""
    return request.output is not None or request.text_output is not None or request.tool_choice != "auto"


def _output_rule(rules: Rules, output: JsonOutput, family: Family) -> str:
    schema = {"type": "object"} if output.schema is None else output.schema
    return rules.add(f"{rules.text(family.before_text)} {rules.json(schema, spaced=False)}")


def _text_rule(rules: Rules, output: TextOutput, family: Family) -> str:
    if output.regex:
        rule = rules.regex(output.regex)
    elif output.choice:
        rule = " | ".join(quoted(text) for text in output.choice)
    else:
        rule = rules.grammar(_lark(output.grammar))
    return rules.add(f"{rules.text(family.before_text)} ({rule})")


def _lark(grammar: str) -> str:
    """A grammar in Lark's notation; in that of llama.cpp the first rule is called `root`."""
    try:
        return str(any_to_lark(grammar))
    except Exception as error:  # Nothing narrower is raised over GBNF that is wrong.
        raise InvalidRequest(f"The grammar cannot be read: {error}", "structured_outputs") from error


def _reason(error: str) -> str:
    """What llguidance says, without the grammar that we wrote around the schema."""
    said = error.rpartition("failed to compile JSON schema: ")[2]
    return " ".join(_LISTING.split(said)[0].split())[:_LONGEST_REASON]
