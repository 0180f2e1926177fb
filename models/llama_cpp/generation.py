"""One answer on its way: from the logits after its last token to the delta that can be shown."""

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from models.backend import ModelRequest
from models.llama_cpp.answer import Answer
from models.llama_cpp.context import Context, Seen
from models.llama_cpp.families import family_of
from models.llama_cpp.sampling import Constraint, Logits, Sampler, draw
from models.llama_cpp.scheduler import Stream
from models.llama_cpp.template import ChatTemplate
from models.llama_cpp.vocabulary import Vocabulary
from models.messages import Delta, FinishReason, Image, TokenLogprob, Usage

if TYPE_CHECKING:
    from models.llama_cpp.vision import Item, Picture


class PromptTooLong(Exception):
    """The prompt leaves no room for an answer."""

    def __init__(self, limit: int, tokens: int) -> None:
        super().__init__(f"{tokens} tokens do not fit into {limit}")
        self.limit = limit
        self.tokens = tokens


class Generation(Stream):
    """A stream that grows by the tokens drawn for it, until `finish` says why it ended."""

    def __init__(
        self,
        number: int,
        request: ModelRequest,
        prompt: "Prompt",
        seen: dict[int, Seen],
        vocabulary: Vocabulary,
        sampler: Sampler,
        constraint: Constraint | None,
        answer: Answer,
        marks: frozenset[bytes],
        budget: int,
    ) -> None:
        pictures = {start: picture.tokens for start, picture in prompt.pictures.items()}
        super().__init__(number, prompt.tokens, exact=request.sampling.seed is not None, pictures=pictures)
        self.seen = seen
        """The pictures of the prompt, by the index of their first token."""
        self.finish: FinishReason | None = None
        self._vocabulary = vocabulary
        self._sampler = sampler
        self._constraint = constraint
        # Forced tokens have no logits of their own.
        self._forces = constraint is not None and not request.sampling.logprobs
        self._answer = answer
        self._marks = marks
        self._budget = budget
        self._written = 0
        self._thought = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def draw(self, logits: Logits) -> Delta:
        """Draws a token, takes it and those that a constraint leaves no choice about, and gives the delta for them.

        The last delta carries the finish and the usage.
        """
        # A thought is free: the form is demanded of what follows it.
        active = None if self._answer.thinking else self._constraint
        token, logprob = self._sampler.pick(logits, active)
        delta = self._take(token, logprob, active)
        for forced in self._forced(active):
            if self._answer.thinking:
                break
            self._sampler.accept(forced)
            delta = _joined(delta, self._take(forced, None, active))
            if self.finish:
                break
        return _joined(delta, self._end()) if self.finish else delta

    def close(self) -> None:
        """Gives back llama.cpp's memory."""
        self._sampler.close()

    def _take(self, token: int, logprob: TokenLogprob | None, active: Constraint | None) -> Delta:
        self._written += 1
        self._thought += self._answer.thinking
        if self._vocabulary.is_end(token):
            self.finish = "stop"
            return _NOTHING
        self.tokens.append(token)
        delta = self._answer.feed(self._characters.decode(self._visible(token)), logprob)
        if active:
            active.accept(token)
        if self._answer.complete or (active and active.complete):
            self.finish = "stop"
        elif self._written >= self._budget:
            self.finish = "length"
        return delta

    def _forced(self, active: Constraint | None) -> Sequence[int]:
        return active.forced() if active and self._forces and not self.finish else ()

    def _end(self) -> Delta:
        rest = self._answer.finish()
        usage = Usage(self.prompt, self._written, self.cached, self._thought)
        finish = self._answer.reason(self.finish or "stop")
        return Delta(rest.text, rest.thought, rest.calls, rest.logprobs, finish, usage)

    def _visible(self, token: int) -> bytes:
        """The bytes of a token; none for a control token, except that some models have their tags as such."""
        piece = self._vocabulary.piece(token)
        return b"" if self._vocabulary.is_hidden(token) and piece not in self._marks else piece


class Prompt(Struct, frozen=True):
    """A prompt as the model reads it."""

    tokens: list[int]
    """A picture has its number here, as often as it takes tokens."""
    text: str
    """Without the pictures."""
    pictures: dict[int, "Picture"]
    """By the index of their first token."""


class Generator:
    """Turns requests into generations, for one loaded model."""

    def __init__(self, context: Context, image_pixels: int) -> None:
        self._context = context
        self._image_pixels = image_pixels
        self._vocabulary = context.vocabulary
        self._template = ChatTemplate(context.metadata, context.vocabulary)
        self._family = family_of(self._template.text)
        self._marks = frozenset(mark.encode() for mark in self._family.marks)

    def prepare(self, number: int, request: ModelRequest) -> Generation:
        """What is to be generated for a request. Raises `PromptTooLong` or `InvalidRequest` for one that cannot be."""
        prompt = self._prompt(request)
        limit = min(request.num_ctx or self._context.limit, self._context.limit)
        if len(prompt.tokens) >= limit:
            raise PromptTooLong(limit, len(prompt.tokens))
        how = draw(request.sampling, self._context.metadata)
        answer = self._empty_answer(request, prompt.text)
        constraint = self._constraint(request, answer)
        return Generation(
            number,
            request,
            prompt,
            {start: self._seen(picture) for start, picture in prompt.pictures.items()},
            self._vocabulary,
            Sampler(self._context, how, request.sampling),
            constraint,
            answer,
            self._marks,
            min(limit - len(prompt.tokens), request.sampling.max_tokens or limit),
        )

    def _prompt(self, request: ModelRequest) -> Prompt:
        (first, *parts), text = self._template.prompt(request)
        tokens, pictures = list(first), {}
        images = [image for message in request.messages for image in message.images]
        for number, (image, part) in enumerate(zip(images, parts, strict=True), 1):
            for item in self._items(image, number):
                if isinstance(item, int):
                    tokens.append(item)
                else:
                    pictures[len(tokens)] = item
                    tokens += [item.number] * item.tokens
            tokens += part
        return Prompt(tokens, text, pictures)

    def _items(self, image: Image, number: int) -> list["Item"]:
        # Only here, since few models see, and Pillow takes its time.
        from models.llama_cpp.pictures import look

        assert self._context.projector
        return self._context.projector.items(look(image, number, self._image_pixels))

    def _seen(self, picture: "Picture") -> Seen:
        assert self._context.projector
        return Seen(picture, self._context.projector.encode(picture))

    def _constraint(self, request: ModelRequest, answer: Answer) -> Constraint | None:
        shaped = request.output or request.text_output or request.tool_choice != "auto"
        if not shaped and not any(tool.strict for tool in request.tools):
            return None
        # Only here, since most requests need no grammar and the import takes its time.
        from models.llama_cpp.grammar import grammars

        return grammars(self._vocabulary).constraint(request, self._family, thinking=answer.thinking)

    def _empty_answer(self, request: ModelRequest, prompt: str) -> Answer:
        return Answer(
            self._family,
            thinking=prompt.rstrip().endswith(self._family.thought_opening),
            tools=request.tools,
            stop=request.sampling.stop,
            one_call=not request.parallel_tool_calls,
        )


_NOTHING = Delta()


def _joined(first: Delta, second: Delta) -> Delta:
    if first == _NOTHING:
        return second
    return Delta(
        first.text + second.text,
        first.thought + second.thought,
        first.calls + second.calls,
        first.logprobs + second.logprobs,
        second.finish,
        second.usage,
    )
