"""Thoughts that a model writes into its text, between tags at the very beginning, told apart from its answer."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from msgspec.structs import replace

from models.messages import Delta

_NAMES = ("think", "thinking", "thought", "reasoning")
_OPENING = re.compile(rf"\s*<({'|'.join(_NAMES)})>\s*")
_BEGUN = re.compile(r"\s*(<[a-z]*)?")


async def apart(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """The same answer with `<think>…</think>` at its beginning as thought. A thought without an end is one, too."""
    split = Split()
    # Backends' streams are generators, though the protocol promises less.
    async with aclosing(cast(AsyncGenerator[Delta, None], deltas)):
        async for delta in deltas:
            if split.over or not (delta.text or delta.finish):
                yield delta
                continue
            thought, text = split.feed(delta.text)
            if delta.finish is not None:
                rest_thought, rest = split.rest()
                thought, text = thought + rest_thought, text + rest
            if (thought, text) == ("", delta.text):
                yield delta
                continue
            logprobs = delta.logprobs if text == delta.text else ()
            delta = replace(delta, text=text, thought=delta.thought + thought, logprobs=logprobs)
            if delta != Delta():
                yield delta


class Split:
    """Parts a text that comes in pieces into thought and answer."""

    def __init__(self) -> None:
        self.over = False
        """All that comes is answer."""
        self._held = ""
        self._end = ""
        self._begun = False
        self._closed = False

    def feed(self, text: str) -> tuple[str, str]:
        """What is sure to be thought, and what is sure to be answer."""
        if self.over:
            return "", text
        self._held += text
        if not self._end and (before := self._before_tag()) is not None:
            return "", before
        thought = ""
        if not self._closed:
            if not self._begun:
                self._held = self._held.lstrip()
                self._begun = bool(self._held)
            inside, mark, after = self._held.partition(self._end)
            if not mark:
                sure = _sure(self._held, self._end)
                thought, self._held = self._held[:sure], self._held[sure:]
                return thought, ""
            thought, self._held, self._closed = inside.rstrip(), after, True
        self._held = self._held.lstrip()  # the line breaks between thought and answer are neither's
        self.over = bool(self._held)
        return thought, self._answer()

    def rest(self) -> tuple[str, str]:
        """What was held back."""
        thought, text = (self._held, "") if self._end and not self._closed else ("", self._held)
        self._held = ""
        return thought, text

    def _before_tag(self) -> str | None:
        """None where the text opens with a tag; else what is sure to be answer: all, or nothing yet."""
        if opening := _OPENING.match(self._held):
            self._end, self._held = f"</{opening[1]}>", self._held[opening.end() :]
            return None
        begun = _BEGUN.fullmatch(self._held)
        tag = (begun[1] or "<")[1:] if begun else None
        self.over = tag is None or not any(name.startswith(tag) for name in _NAMES)
        return self._answer() if self.over else ""

    def _answer(self) -> str:
        text, self._held = self._held, ""
        return text


def _sure(text: str, end: str) -> int:
    """How much of a text does not belong to the beginning of its end mark, nor to white space before that."""
    cut = next((n for n in range(min(len(end) - 1, len(text)), 0, -1) if end.startswith(text[-n:])), 0)
    return len(text[: len(text) - cut].rstrip())
