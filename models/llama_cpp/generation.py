"""One answer, token by token."""

import codecs
from collections.abc import Generator as Steps
from contextlib import closing

from models.backend import ModelRequest
from models.llama_cpp.answer import Answer
from models.llama_cpp.context import Context
from models.llama_cpp.families import family_of
from models.llama_cpp.sampling import Constraint, Sampler, draw
from models.llama_cpp.template import ChatTemplate
from models.messages import Delta, FinishReason, Usage


class PromptTooLong(Exception):
    """The prompt leaves no room for an answer."""

    def __init__(self, limit: int, tokens: int) -> None:
        super().__init__(f"{tokens} tokens do not fit into {limit}")
        self.limit = limit
        self.tokens = tokens


class Generator:
    """Answers requests with one loaded model, one after the other."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._vocabulary = context.vocabulary
        self._template = ChatTemplate(context.metadata, context.vocabulary)
        self._family = family_of(self._template.text)
        self._marks = frozenset(mark.encode() for mark in self._family.marks)

    def answer(self, request: ModelRequest) -> Steps[Delta, None, None]:
        """The deltas of one answer; the last has the finish and the usage. A wrong request raises before the first."""
        tokens, text = self._template.prompt(request)
        limit = min(request.num_ctx or self._context.limit, self._context.limit)
        if len(tokens) >= limit:
            raise PromptTooLong(limit, len(tokens))
        constraint = self._constraint(request)
        how = draw(request.sampling, self._context.metadata)
        with closing(Sampler(self._context, how, request.sampling)) as sampler:
            cached = self._context.prompt(tokens, exact=how.greedy or request.sampling.seed is not None)
            answer = self._empty_answer(request, text)
            budget = min(limit - len(tokens), request.sampling.max_tokens or limit)
            yield from self._write(answer, sampler, constraint, budget, Usage(len(tokens), 0, cached, 0))

    def _write(
        self, answer: Answer, sampler: Sampler, constraint: Constraint | None, budget: int, usage: Usage
    ) -> Steps[Delta, None, None]:
        finish: FinishReason = "length"
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        for _ in range(budget):
            # A thought is free: the form is demanded of what follows it.
            active = None if answer.thinking else constraint
            token, logprob = sampler.pick(active)
            usage += Usage(completion_tokens=1, reasoning_tokens=int(answer.thinking))
            if self._vocabulary.is_end(token):
                finish = "stop"
                break
            delta = answer.feed(characters.decode(self._visible(token)), logprob)
            if delta != _NOTHING:
                yield delta
            if active:
                active.accept(token)
            if answer.complete or (active and active.complete):
                finish = "stop"
                break
            self._context.extend([token])
        rest = answer.finish()
        reason: FinishReason = "tool_calls" if answer.calls else finish
        yield Delta(rest.text, rest.thought, rest.calls, rest.logprobs, reason, usage)

    def _visible(self, token: int) -> bytes:
        """The bytes of a token; none for a control token, except that some models have their tags as such."""
        piece = self._vocabulary.piece(token)
        return b"" if self._vocabulary.is_hidden(token) and piece not in self._marks else piece

    def _constraint(self, request: ModelRequest) -> Constraint | None:
        if request.output is None and (not request.tools or request.tool_choice == "auto"):
            return None
        # Only here, since most requests need no grammar and the import takes its time.
        from models.llama_cpp.grammar import grammars

        return grammars(self._vocabulary).constraint(request, self._family)

    def _empty_answer(self, request: ModelRequest, prompt: str) -> Answer:
        return Answer(
            self._family,
            thinking=prompt.rstrip().endswith(self._family.thought_opening),
            tools=bool(request.tools),
            stop=request.sampling.stop,
            one_call=not request.parallel_tool_calls,
        )


_NOTHING = Delta()
