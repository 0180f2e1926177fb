"""A request on its way through an engine, from the server to the reply that ends it."""

import asyncio
from typing import Literal

from models.backend import BackendFailed, ContextTooLong, InvalidRequest, ModelError, Unsupported
from models.llama_cpp import protocol


class Job:
    """Something asked of an engine, and what comes back."""

    def __init__(self, question: protocol.Chat | protocol.Embed) -> None:
        self.question = question
        self.state: Literal["waiting", "sent", "started", "ended"] = "waiting"
        """Not with an engine yet; with one, which has not begun it; begun; over."""
        self._replies: asyncio.Queue[protocol.Piece | protocol.Vectors | ModelError | None] = asyncio.Queue()

    def take(self, reply: protocol.Reply) -> None:
        """Notes what the engine says about it."""
        match reply:
            case protocol.Started():
                self.state = "started"
            case protocol.Piece() | protocol.Vectors():
                self._replies.put_nowait(reply)
            case protocol.Done():
                self._end(None)
            case _:
                self.fail(_error(reply, self.question))

    def fail(self, error: ModelError) -> None:
        """Ends it with an error."""
        self._end(error)

    async def next(self) -> protocol.Piece | protocol.Vectors | None:
        """What comes back next; None at the end. Raises what went wrong as a ModelError."""
        reply = await self._replies.get()
        if isinstance(reply, ModelError):
            raise reply
        return reply

    def _end(self, error: ModelError | None) -> None:
        self.state = "ended"
        self._replies.put_nowait(error)


def _error(
    reply: protocol.Refused | protocol.TooLong | protocol.Broke, question: protocol.Chat | protocol.Embed
) -> ModelError:
    match reply:
        case protocol.Refused(_, message, param, Unsupported.code):
            return Unsupported(message, param)
        case protocol.Refused(_, message, param, code):
            return InvalidRequest(message, param, code)
        case protocol.TooLong(_, limit, tokens) if isinstance(question, protocol.Embed):
            text = f"This model's maximum context length is {limit} tokens. However, an input has {tokens} tokens."
            return InvalidRequest(text, "input", "context_length_exceeded")
        case protocol.TooLong(_, limit, tokens):
            return ContextTooLong(limit, f"However, your messages resulted in {tokens} tokens.")
        case protocol.Broke(_, message):
            return BackendFailed(f"The engine failed on this request: {message}")
